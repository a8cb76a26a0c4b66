"""The labels of a calibration from files, after its outputs were checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..outputs import Named, check_outputs, refuse_existing
from ..reading_options import ReadingOptions
from .labels import Labels, read_labels

if TYPE_CHECKING:
    from ..ase import ForceDeltaCalculator
    from ..models import LoadedModel


def check_files(
    files: Sequence[str | Path],
    model: str | Path | LoadedModel | None,
    outputs: Sequence[Named],
    overwrite: bool,
) -> None:
    """Refuse outputs that exist, or that are inputs.

    Raises:
        ForceDeltaError: see above.
    """
    source = model if isinstance(model, str | Path) else None
    check_outputs(outputs, [Named("labels", path) for path in files] + [Named("model", source)])
    for flag, path in outputs:
        if path is not None:
            refuse_existing(flag, Path(path), overwrite)


def labels_of(
    files: Sequence[str | Path],
    model: str | Path | LoadedModel | None,
    *,
    forces_key: str | None,
    energy_key: str | None,
    reading: ReadingOptions | None,
    device: str,
    dtype: Literal["float32", "float64"],
    threads: int,
    **options: Any,
) -> Labels:
    """The labels in files.

    Args:
        files: labelled frames.
        model: evaluates all frames again; None: the files hold its predictions.
        forces_key, energy_key, reading: see `forcedelta.calibration.labels.read_labels`.
        device, dtype, threads: of the model.
        options: architecture, trust and compile of `forcedelta.load_model`.

    Raises:
        ForceDeltaError: as `read_labels`; a model that cannot be loaded.
    """
    calculator = None
    if model is not None:
        calculator = _calculator(model, device, dtype, threads, **options)
    return read_labels(files, calculator, forces_key, energy_key, reading)


def _calculator(
    model: str | Path | LoadedModel, device: str, dtype: Literal["float32", "float64"],
    threads: int, **options: Any,
) -> ForceDeltaCalculator:  # fmt: skip
    import torch  # takes seconds to import

    from ..ase import ForceDeltaCalculator
    from ..evaluation import DTYPES, usable_device
    from ..models import load_model

    torch.set_num_threads(threads)
    loaded = load_model(model, DTYPES[dtype], usable_device(device), **options)
    return ForceDeltaCalculator(loaded, device=device, dtype=dtype)
