"""A predicted error without a threshold, which takes fewer labels than a guarantee."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from md_hooks.replacing import replace_file

from ..errors import ForceDeltaError
from ..outputs import Named
from ..reading_options import ReadingOptions
from .fit_error import predicted_error
from .labelled_input import check_files, labels_of
from .predicted_error import PredictedError
from .predicted_error_file import text_of

if TYPE_CHECKING:
    from ..models import LoadedModel


def calibrate_error(
    files: str | Path | Sequence[str | Path],
    model: str | Path | LoadedModel | None = None,
    *,
    forces_key: str | None = None,
    energy_key: str | None = None,
    reading: ReadingOptions | None = None,
    architecture: str | None = None,
    trust: bool = False,
    compile: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    threads: int = 1,
) -> PredictedError:
    """Fit a predicted error; ``forcedelta calibrate`` without ``--tolerance``, in Python.

    >>> found = calibrate_error("labelled.xyz", out="error.json")
    >>> found.quality["factor"]
    1.13

    Args:
        files, model, forces_key, energy_key, reading, overwrite: see `forcedelta.calibrate`.
        architecture, trust, compile, device, dtype, threads: see `forcedelta.calibrate`.
        out: JSON file to write, for ``calibration`` of runs and audits.

    Raises:
        ForceDeltaError: as `forcedelta.calibration.labels.read_labels`; fewer than 10 labels; ``out``
            exists or is an input.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    check_files(paths, model, [Named("--out", out)], overwrite)
    labels = labels_of(
        paths, model, forces_key=forces_key, energy_key=energy_key, reading=reading, device=device, dtype=dtype,
        threads=threads, architecture=architecture, trust=trust, compile=compile,
    )  # fmt: skip
    found = predicted_error(labels)
    if out is not None:
        replace_file(out, text_of(found), "choose another --out", ForceDeltaError)
    return found
