"""From labels to a threshold, and to what is said about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray

from .. import __version__
from ..errors import ForceDeltaError
from .correlation import independent
from .guarantee import find_threshold
from .labels import Labels
from .ranking import as_facts, at_thresholds, ranking
from .result import Calibration

QUANTILES = (0.5, 0.75, 0.9, 0.95)


def calibrate(
    labels: Labels,
    tolerance: float,
    risk: float,
    confidence: float = 0.9,
    files: list[str | Path] | None = None,
) -> Calibration:
    """The largest threshold on U that keeps to a risk; see `forcedelta.calibration.guarantee`.

    Labels that come from the same trajectory, with times, are thinned to independent ones first.

    Args:
        labels: of one model and one reference.
        tolerance: RMS error of the direct forces that is still good, eV/Å.
        risk: allowed probability of a larger error among frames that pass.
        confidence: probability with which labels give a threshold that keeps to the risk.
        files: where the labels come from, for the record.

    Raises:
        ForceDeltaError: too few labels, no threshold keeps to the risk, or all labels pass.
    """
    kept, inefficiency = independent(labels.source, labels.time, labels.force_delta, labels.epsilon)
    used = labels.subset(kept)
    try:
        found = find_threshold(used.force_delta, used.epsilon, tolerance, risk, confidence)
    except ForceDeltaError as error:
        if inefficiency is None or len(used) == len(labels):
            raise
        raise ForceDeltaError(
            f"{error} (of {len(labels)} labels, {len(used)} are independent: of one trajectory, "
            f"{inefficiency:.3g} frames count as one)"
        ) from error
    if found.highest:
        raise ForceDeltaError(
            f"all {found.passing} labels pass ({found.bad} with an error above {tolerance:g} eV/Å keep to "
            f"the risk of {risk:g}), so that nothing shows where to stop: label frames of "
            "larger U, or give a smaller --tolerance or --risk (the risk is kept up to the largest "
            f"U seen, {found.value:.4g} eV/Å)"
        )
    marks = np.unique([*np.quantile(used.force_delta, QUANTILES), found.value])
    return Calibration(
        threshold=found.value,
        tolerance=tolerance,
        risk=risk,
        confidence=confidence,
        guarantee=(
            f"With a confidence of {confidence:g} over the draw of the labels, "
            f"P(error of the direct forces > {tolerance:g} eV/Å | U <= {found.value:.4g} eV/Å) <= {risk:g} "
            "for frames that are drawn like the labelled ones."
        ),
        model=labels.model,
        labels={
            "files": [str(file) for file in files or []],
            "reference": labels.reference,
            "count": len(labels),
            "used": len(used),
            "statistical_inefficiency": inefficiency,
            "above_tolerance": int((used.epsilon > tolerance).sum()),
            "force_delta_range": [float(used.force_delta.min()), float(used.force_delta.max())],
        },
        passing={"count": found.passing, "bad": found.bad},
        ranking=as_facts(ranking(predictors(used), used.epsilon, tolerance)),
        thresholds=at_thresholds(marks, used.force_delta, used.epsilon, tolerance),
        versions={
            "forcedelta": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
    )


def predictors(labels: Labels) -> dict[str, NDArray[np.float64]]:
    """The Force Delta, and its trivial controls where they are known [n]."""
    found = {"force_delta": labels.force_delta, "force_rms": labels.force_rms}
    if np.isfinite(labels.energy).all():
        found["energy_per_atom"] = labels.energy
    return found
