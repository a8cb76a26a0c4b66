"""From labelled frames to a threshold, its guarantee and its statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from md_hooks.replacing import replace_files
from md_hooks.versions import versions_of

from ..errors import ForceDeltaError
from ..outputs import Named
from ..ranking import as_facts, at_thresholds, ranking
from ..reading_options import ReadingOptions
from .correlation import Sample, independent
from .fit_error import FEWEST, predicted_error
from .guarantee import Threshold, check, find_threshold
from .labelled_input import check_files, labels_of
from .labels import Labels
from .result import Calibration
from .signals import RIGID

if TYPE_CHECKING:
    from ..models import LoadedModel

Array = NDArray[np.float64]

QUANTILES = (0.5, 0.75, 0.9, 0.95)
SHARES = (0.25, 0.5, 0.75, 1.0)  # of passing labels, at which the correlation is measured
LARGEST = 1e50  # eV/Å; larger values are not forces and cannot be plotted
SIGNIFICANT = 4  # fewest digits of a threshold


def calibrate(
    files: str | Path | Sequence[str | Path],
    model: str | Path | LoadedModel | None = None,
    *,
    tolerance: float,
    risk: float,
    confidence: float = 0.9,
    forces_key: str | None = None,
    energy_key: str | None = None,
    reading: ReadingOptions | None = None,
    architecture: str | None = None,
    trust: bool = False,
    compile: bool = False,
    out: str | Path | None = None,
    plot: str | Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    threads: int = 1,
) -> Calibration:
    """Find the threshold on U for a tolerance and a risk; ``forcedelta calibrate`` in Python.

    >>> calibrate("labelled.xyz", tolerance=0.1, risk=0.1, out="calibration.json").threshold
    0.2114

    Args:
        files: labelled frames that ASE reads, such as those of `forcedelta.label`.
        model: evaluates all frames again; None: U and the direct forces are read from the files.
        tolerance, risk, confidence: see `from_labels`.
        forces_key, energy_key, reading: see `forcedelta.calibration.labels.read_labels`.
        architecture, trust, compile: see `forcedelta.load_model`.
        out: JSON file to write, for ``stop_above``, ``flag_above`` and ``calibration`` of runs and
            audits: with 10 labels or more, it holds a predicted error, too.
        plot: picture to write.
        overwrite: replace these files.
        device, dtype, threads: of the model.

    Raises:
        ForceDeltaError: as `from_labels` and `forcedelta.calibration.labels.read_labels`; an output
            exists or is an input.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    check_files(paths, model, [Named("--out", out), Named("--plot", plot)], overwrite)
    check(tolerance, risk, confidence)
    labels = labels_of(
        paths, model, forces_key=forces_key, energy_key=energy_key, reading=reading, device=device, dtype=dtype,
        threads=threads, architecture=architecture, trust=trust, compile=compile,
    )  # fmt: skip
    found = from_labels(labels, tolerance, risk, confidence, paths)
    written: list[tuple[str | Path, bytes, str]] = []
    if out is not None:
        written.append((out, found.text(), "choose another --out"))
    if plot is not None:
        from .picture import picture  # Matplotlib takes a second to import

        written.append((plot, picture(labels, found), "choose another --plot"))
    replace_files(written, ForceDeltaError)
    return found


def from_labels(
    labels: Labels,
    tolerance: float,
    risk: float,
    confidence: float = 0.9,
    files: list[str | Path] | None = None,
) -> Calibration:
    """The largest threshold on U that keeps the risk; see `forcedelta.calibration.guarantee`.

    Correlated labels of one run count as fewer independent ones; see
    `forcedelta.calibration.correlation`.

    Args:
        labels: of one model and one reference.
        tolerance: largest acceptable RMS error of the direct forces, eV/Å.
        risk: allowed probability of a larger error among frames that pass.
        confidence: probability, over the draw of the labels, that the threshold keeps the risk.
        files: sources of the labels, for the record.

    Raises:
        ForceDeltaError: numbers out of range, too few labels, no threshold keeps the risk, or all
            labels pass.
    """
    found, sample = threshold(labels, tolerance, risk, confidence)
    used = labels.subset(sample.kept)
    value = shortest(found.value, used.force_delta)
    marks = np.unique([*np.quantile(used.force_delta, QUANTILES), value])
    prediction: dict[str, Any] = {}
    if labels.signals is not None and len(labels) >= FEWEST:
        prediction = predicted_error(labels).as_dict()
    return Calibration(
        threshold=value,
        tolerance=tolerance,
        risk=risk,
        confidence=confidence,
        guarantee=(
            f"With a confidence of {confidence:g} over the draw of the labels, "
            f"P(error of the direct forces > {tolerance:g} eV/Å | U <= {value!r} eV/Å) <= {risk:g} "
            f"for frames that are drawn like the labelled ones. Assumed: {sample.assumed}."
        ),
        model=labels.model,
        labels={
            "files": [str(file) for file in files or []],
            "reference": labels.reference,
            "count": len(labels),
            "used": int(sample.worth),
            "runs": sample.runs,
            "statistical_inefficiency": len(labels) / sample.worth if sample.runs else None,
            "assumed": sample.assumed,
            "above_tolerance": int((used.epsilon > tolerance).sum()),
            "force_delta_range": [float(used.force_delta.min()), float(used.force_delta.max())],
        },
        passing={"labels": len(used), "count": found.passing, "bad": found.bad},
        ranking=as_facts(ranking(predictors(used), used.epsilon, tolerance, worth=sample.worth)),
        thresholds=at_thresholds(marks, used.force_delta, used.epsilon, tolerance),
        versions=versions_of("forcedelta", "numpy", "scipy"),
        prediction=prediction,
    )


def threshold(
    labels: Labels, tolerance: float, risk: float, confidence: float
) -> tuple[Threshold, Sample]:
    """The threshold without its statistics, and the labels on which it rests.

    Raises:
        ForceDeltaError: as `from_labels`.
    """
    check(tolerance, risk, confidence)
    u, error = labels.force_delta, labels.epsilon
    if not len(labels):
        raise ForceDeltaError("there are no labels: give at least one labelled frame")
    numbers = np.concatenate([u, error])
    if not ((numbers >= 0) & (numbers <= LARGEST)).all():
        raise ForceDeltaError(
            f"labels have a U or an error outside 0 to {LARGEST:g} eV/Å: remove them"
        )
    sample = independent(
        labels.source,
        labels.time,
        deviations(u, error > tolerance),
        deviations(u, error > np.median(error)),
        confidence=confidence,
    )
    rows = sample.kept
    try:
        found = find_threshold(u[rows], error[rows], tolerance, risk, confidence, sample.weight)
    except ForceDeltaError as failed:
        if sample.worth == len(labels):
            raise
        raise ForceDeltaError(
            f"{failed} ({sample.assumed}; frames of one run have the same run_id or, without it, the "
            "same run and source)"
        ) from failed
    if found.value <= 0:
        raise ForceDeltaError(
            "the labels that keep the risk have U = 0, as crystals at rest have by symmetry: label "
            "frames of a run"
        )
    if found.highest:
        raise ForceDeltaError(
            f"all {found.passing} labels pass ({found.bad} with an error above {tolerance:g} eV/Å are within "
            f"the risk of {risk:g}): the labels do not bound the threshold from above; label frames with "
            "larger U, or give a smaller --tolerance or --risk (the risk is kept up to the largest "
            f"U of the labels, {found.value:.4g} eV/Å)"
        )
    return found, sample


def deviations(u: Array, large: NDArray[np.bool_]) -> Array:
    """Deviations of the labels from the share of large errors among those passing [m, n].

    One row per threshold; labels that do not pass have deviation 0. The sum over labels, divided by
    the number passing, is to first order the error of the share, whose variance is estimated.
    """
    rows = []
    for limit in np.quantile(u, SHARES):
        passing = u <= limit
        rows.append(np.where(passing, large - large[passing].mean(), 0.0))
    return np.array(rows)


def shortest(value: float, force_delta: Array) -> float:
    """The threshold rounded to the fewest digits (at least four) that let the same labels pass.

    The printed number, the one in the file and the one used by a guard are then identical.
    """
    above = force_delta[force_delta > value]
    limit = float(above.min()) if len(above) else math.inf
    for digits in range(SIGNIFICANT, 17):
        rounded = float(f"{value:.{digits - 1}e}")
        if rounded < value:
            unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
            rounded = float(f"{value + 0.5 * unit:.{digits - 1}e}")
        if value <= rounded < limit:
            return rounded
    return value


def predictors(labels: Labels) -> dict[str, NDArray[np.float64]]:
    """The Force Delta [n] and its trivial controls, if known."""
    found = {"force_delta": labels.force_delta, "force_rms": labels.force_rms}
    if np.isfinite(labels.energy).all():
        found["energy_per_atom"] = labels.energy
    if labels.signals is not None and RIGID in labels.signals.columns:
        found[RIGID] = labels.signals.columns[RIGID]
    return found
