"""Frames of an ASE dynamics, from what its calculator has in ``results``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms, units

from .ase_calculators import ForceDeltaSource
from .ase_state import atoms_of
from .band import Band
from .conserved_energy import conserved_energy, has_conserved_energy
from .constraints import Records, constraint_records
from .drift import CONSERVED_ENERGY
from .electronic_state import ElectronicState
from .errors import HookError
from .frame import Frame
from .run_info import RunInfo

_FORCE_DELTA_KEYS = ("force_deltas", "direct_forces", "conservative_forces")


class ASEFrames:
    """Makes the frames of a dynamics; of a band of images, that of the worst one.

    Args:
        dynamics: any of `ase.md` or `ase.optimize`.
        info: about the run; its constraints are taken, if given.

    Attributes:
        atoms: the structure that is shown.
        band: the images; None for a single structure.
        numbers: [N] atomic numbers.

    Raises:
        HookError: the dynamics moves nothing that hooks can watch.
    """

    def __init__(self, dynamics: Any, info: RunInfo) -> None:
        self._dynamics = dynamics
        self.band = Band.of(dynamics)
        self.atoms: Atoms = atoms_of(dynamics) if self.band is None else self.band.worst()
        self.numbers = _own(self.atoms.numbers)
        self._masses = _own(self.atoms.get_masses())
        self._velocity_factor = units.fs / self._masses[:, None]
        self._electronic_state = ElectronicState.of(self.atoms).frame_fields()
        self._given_constraints = info.constraints
        self._constraints: tuple[Any, Records] = (None, ())
        self._conserves = has_conserved_energy(dynamics)
        self._source = ForceDeltaSource(self.atoms.calc)

    @property
    def calculator(self) -> Any:
        """The calculator with the model."""
        return self._source.calculator

    @property
    def settings(self) -> dict[str, Any]:
        """What the file of a run tells about its structures."""
        return {} if self.band is None else {"images": len(self.band.images)}

    def evaluations(self) -> int | None:
        """Evaluations of the model so far; None if they are not counted."""
        if self.band is not None:
            return self.band.evaluations
        return getattr(self.calculator, "evaluations", None)

    def begin(self) -> None:
        """The run begins: images get calculators of their own."""
        if self.band is not None:
            self.band.separate()

    def end(self) -> None:
        """The run is over: images get their calculators back."""
        if self.band is not None:
            self.band.release()

    def look(self) -> None:
        """Find the image that is the worst now."""
        if self.band is not None:
            self.atoms = self.band.worst()

    def evaluate(self) -> None:
        """Compute the forces of the present configuration, which the next step needs."""
        if self.band is None:
            self.atoms.get_forces()
        else:
            self._dynamics.optimizable.get_gradient()  # of all images
        self.look()

    def are_evaluated(self) -> bool:
        """Whether the calculators have the results of the present configuration."""
        moved = [self.atoms] if self.band is None else self.band.images[1:-1]
        required = [getattr(atoms.calc, "calculation_required", None) for atoms in moved]
        return all(
            ask is not None and not ask(atoms, ["energy", "forces"])
            for ask, atoms in zip(required, moved, strict=True)
        )

    def computed_at(self) -> Atoms:
        """The atoms as they were when the forces were computed."""
        known: Atoms | None = getattr(self.atoms.calc, "atoms", None)
        return self.atoms if known is None or len(known) != len(self.atoms) else known

    def frame(self, step: int, time: float) -> Frame:
        """The frame of a step.

        Args:
            step: its number in the run.
            time: its time in the run, fs.

        Raises:
            HookError: the calculator kept no energy and forces.
        """
        atoms = self.atoms
        calc = atoms.calc
        results: Mapping[str, Any] = getattr(calc, "results", {})
        energy, forces = results.get("energy"), results.get("forces")
        energy_known = bool(getattr(calc, "energy_due", True))
        if not energy_known:
            energy = math.nan
        if energy is None or forces is None:
            raise HookError(
                "the calculator kept no energy and forces of this step: use one that stores them "
                "in calc.results"
            )
        computed_at = self.computed_at()
        momenta = atoms.arrays.get("momenta")
        twice_kinetic = 0.0
        if momenta is None:
            velocities = np.zeros((len(atoms), 3))
            temperature = 0.0
        else:
            velocities = momenta * self._velocity_factor
            freedom = atoms.get_number_of_degrees_of_freedom()
            twice_kinetic = float(np.vdot(momenta, velocities)) / units.fs
            temperature = twice_kinetic / (freedom * units.kB) if freedom > 0 else 0.0
        if not self._source.is_of(calc):
            self._source = ForceDeltaSource(calc)
        predicted = self._source.results(computed_at)
        u = predicted.get("force_delta")
        arrays: dict[str, Any] = {
            name: _own(predicted[name])
            for name in _FORCE_DELTA_KEYS
            if predicted.get(name) is not None
        }
        if results.get("stress") is not None:
            arrays["stress"] = _own(results["stress"])
        extra = dict(
            Frame.scalars(
                predicted.get("expected_errors"),
                predicted.get("estimated_force_delta"),
                predicted.get("energy_uncertainty"),
            )
        )
        if self.band is not None:
            extra |= self.band.scalars()
        if self._conserves:
            total = float(energy) + 0.5 * twice_kinetic
            extra[CONSERVED_ENERGY] = conserved_energy(self._dynamics, atoms, total)
        return Frame(
            step=step,
            time=time,
            numbers=self.numbers,
            positions=_own(computed_at.positions),
            velocities=_seal(velocities),
            masses=self._masses,
            cell=_own(computed_at.cell.array),
            pbc=_own(computed_at.pbc),
            energy=float(energy),
            energy_known=energy_known,
            forces=_own(forces),
            temperature=temperature,
            force_delta=None if u is None else float(u),
            extra=extra,
            why_no_force_delta=self._source.why_missing() if u is None else "",
            constraints=self._constraints_now(),
            **arrays,
            **self._electronic_state,
        )

    def _constraints_now(self) -> Records:
        """Records of the constraints; made anew only where the atoms have got others.

        At the first frame, since lengths and angles to be kept are known after the first evaluation.
        """
        given = self._given_constraints
        held = self.atoms.constraints if given is None else given
        if self._constraints[0] is not held:
            self._constraints = (held, constraint_records(held))
        return self._constraints[1]


def _own(array: Any) -> np.ndarray:
    return _seal(np.array(array))


def _seal(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
