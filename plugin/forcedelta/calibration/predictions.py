"""What the model predicts for a labelled frame: as stored in its file, or evaluated again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from md_hooks.foreign_fields import number

from ..errors import ForceDeltaError
from .labelled_files import LabelledFrame

if TYPE_CHECKING:
    from ..ase import ForceDeltaCalculator

Array = NDArray[np.float64]

SAME = 1e-6  # eV/Å; forces that agree this well are not those of a model and its reference


class Prediction(NamedTuple):
    """What the model says of a frame.

    Attributes:
        force_delta: U, eV/Å.
        energy: per atom, eV; NaN where unknown.
        direct: direct forces [N, 3], eV/Å.
        u: u_i [N], eV/Å; None where unknown.
        expected_error: mean of the force errors that the model itself expects, eV/Å; NaN where
            unknown.
        energy_uncertainty: of the model itself, eV per atom; NaN where unknown.
    """

    force_delta: float
    energy: float
    direct: Array
    u: Array | None
    expected_error: float
    energy_uncertainty: float


def stored_prediction(frame: LabelledFrame) -> Prediction:
    """The predictions stored in the file."""
    info, arrays = frame.atoms.info, frame.atoms.arrays
    missing = [name for name in ("force_delta", "model", "weights_hash") if name not in info]
    if "direct_forces" not in arrays:
        missing.append("direct_forces")
    if missing:
        raise ForceDeltaError(
            f"{frame.where} has no {' and no '.join(missing)}: pass --model to evaluate all frames"
        )
    force_delta, direct = number(info["force_delta"]), np.asarray(arrays["direct_forces"])
    if direct.shape != frame.forces.shape or direct.dtype.kind not in "fiu" or force_delta < 0:
        raise ForceDeltaError(
            f"{frame.where} has a force_delta or direct_forces that 'forcedelta' did not write: pass "
            "--model to evaluate all frames"
        )
    if not (np.isfinite(force_delta) and np.isfinite(direct).all()):
        raise ForceDeltaError(f"{frame.where} has a prediction that is not finite: remove it")
    return Prediction(
        force_delta,
        number(info.get("model_energy")) / len(frame.atoms),
        direct.astype(float),
        _stored_u(frame.atoms, force_delta),
        number(info.get("expected_error")),
        number(info.get("energy_uncertainty")) / len(frame.atoms),
    )


def _stored_u(atoms: Atoms, force_delta: float) -> Array | None:
    """u_i [N], eV/Å, if the file has those of this U."""
    u = np.asarray(atoms.arrays.get("force_deltas", []))
    if u.shape != (len(atoms),) or u.dtype.kind not in "fiu" or not (u >= 0).all():
        return None
    same = np.isclose(rms(u), force_delta, rtol=1e-3, atol=SAME)
    return u.astype(float) if same else None


def evaluated_prediction(frame: LabelledFrame, calculator: ForceDeltaCalculator) -> Prediction:
    """The prediction of a calculator for a labelled frame.

    Raises:
        ForceDeltaError: the model cannot evaluate the frame, with its place.
    """
    atoms = frame.atoms.copy()
    try:
        calculator.calculate(atoms, ["force_delta"])
    except ForceDeltaError as error:
        raise ForceDeltaError(f"{frame.where}: {error}") from error
    results = calculator.results
    if calculator.problem is not None or not np.isfinite(results["force_delta"]):
        reason = calculator.problem or "U is not finite"
        raise ForceDeltaError(f"{frame.where} cannot be evaluated ({reason}): remove it")
    expected = results.get("expected_errors")
    return Prediction(
        results["force_delta"],
        results["energy"] / len(atoms),
        results["direct_forces"],
        results["force_deltas"],
        np.nan if expected is None else float(expected.mean()),
        results.get("energy_uncertainty", np.nan) / len(atoms),
    )


def rms(array: Array) -> float:
    """Root of the mean square of all numbers."""
    return float(np.sqrt(np.mean(array**2)))
