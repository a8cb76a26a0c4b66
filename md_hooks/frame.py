"""One consistent configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .environment import Environment
from .predicted_error import PREDICTED, PREDICTED_ATOMS, with_interval

FloatArray = NDArray[np.floating]

IMAGE = "image"
"""Scalar of a frame of a nudged elastic band: the number of its image, from 0 at the first end point."""

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One step of a run: positions and everything that was computed *at* them.

    The arrays belong to the frame and must not be written to, so that a hook may keep a frame.
    ``None`` means "not computed at this step", as between two exact evaluations with
    ``every=k``.

    Attributes:
        step: number of the step, starting at 0.
        time: fs; 0 if the engine has no time (a geometry optimiser), NaN if unknown.
        numbers: [N] atomic numbers.
        positions: [N, 3] Å, those at which the forces were computed.
        velocities: [N, 3] Å/fs; None if a stored trajectory has none.
        masses: [N] amu.
        cell: [3, 3] Å, rows are the vectors; zeros without a cell.
        pbc: (3,) bool.
        energy: eV; NaN where it was not computed.
        forces: [N, 3] eV/Å, those that drive the run, before constraints.
        temperature: K; None if the velocities are unknown.
        force_delta: U, eV/Å.
        force_deltas: [N] u_i, eV/Å, with U^2 = mean(u_i^2).
        direct_forces: [N, 3] eV/Å, the model's own: ``forces`` may hold more, such as dispersion.
        conservative_forces: [N, 3] eV/Å, minus the gradient of the model's energy.
        stress: (6,) eV/Å^3, Voigt order xx, yy, zz, yz, xz, xy.
        extra: further scalars of the step by name, such as "conserved_energy" in eV, the total energy
            minus the heat of a thermostat, for ensembles that have one (NaN where not known), and those
            of `md_hooks.predicted_error`.
        why_no_force_delta: why U is missing although this frame should carry it; "" if U is present,
            was not due (between two exact evaluations), or the reason is unknown.
        charge: total charge of the structure, e; None if not given.
        spin: multiplicity 2S+1 of the structure; None if not given.
        magnetic_moments: [N] Bohr magnetons, initial values of a reference calculation, or None.
        system_particles: number of particles of the simulated System of which the frame holds a part
            (ML/MM); None if it holds all.
        environment: the other particles of that System, or None.
        energy_known: whether the energy was computed. Between two exact evaluations of a model whose
            energy takes a forward pass of its own, it is not.
        constraints: records of the constraints on the atoms (`md_hooks.constraints`).
        predicted_errors: [N] eV/Å, predicted error of the direct force on each atom
            (`md_hooks.predicted_error.PREDICTED_ATOMS`); NaN for elements of which none is known.
        predicted_errors_low: [N] eV/Å, lower ends of their intervals.
        predicted_errors_high: [N] eV/Å, upper ends of their intervals.
    """

    step: int
    time: float
    numbers: NDArray[np.integer]
    positions: FloatArray
    velocities: FloatArray | None
    masses: FloatArray
    cell: FloatArray
    pbc: NDArray[np.bool_]
    energy: float
    forces: FloatArray
    temperature: float | None
    force_delta: float | None = None
    force_deltas: FloatArray | None = None
    direct_forces: FloatArray | None = None
    conservative_forces: FloatArray | None = None
    stress: FloatArray | None = None
    extra: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    why_no_force_delta: str = ""
    charge: int | None = None
    spin: int | None = None
    magnetic_moments: FloatArray | None = None
    system_particles: int | None = None
    environment: Environment | None = None
    energy_known: bool = True
    constraints: tuple[dict[str, Any], ...] = ()
    predicted_errors: FloatArray | None = None
    predicted_errors_low: FloatArray | None = None
    predicted_errors_high: FloatArray | None = None

    @staticmethod
    def scalars(
        expected_errors: FloatArray | None,
        estimated_force_delta: float | None = None,
        energy_uncertainty: float | None = None,
    ) -> Mapping[str, float]:
        """``extra`` of what is known about errors beyond U, to be compared with it.

        Args:
            expected_errors: [N] eV/Å, force errors that the model itself predicts; their mean is
                "expected_error".
            estimated_force_delta: eV/Å, estimate of U by adaptive monitoring; NaN while there is
                none.
            energy_uncertainty: eV, of the model itself.
        """
        if expected_errors is None and estimated_force_delta is None and energy_uncertainty is None:
            return _NOTHING
        known = {}
        if expected_errors is not None:
            known["expected_error"] = float(expected_errors.mean())
        if energy_uncertainty is not None:
            known["energy_uncertainty"] = float(energy_uncertainty)
        if estimated_force_delta is not None:
            known["estimated_force_delta"] = float(estimated_force_delta)
        return known

    @property
    def predicted_error(self) -> float | None:
        """The predicted error of the direct forces, eV/Å; None if nothing predicts one."""
        value = self.extra.get(PREDICTED[0])
        return None if value is None or value != value else float(value)

    def predicted_error_of(self, atom: int) -> str:
        """The predicted error of an atom with its interval, in words; "" if there is none.

        Args:
            atom: its index.
        """
        columns = [getattr(self, name) for name in PREDICTED_ATOMS]
        if any(column is None for column in columns):
            return ""
        return with_interval([float(column[atom]) for column in columns])

    @property
    def particles(self) -> int:
        """Number of atoms in the frame and in its environment."""
        return len(self.numbers) + (0 if self.environment is None else len(self.environment))

    @property
    def worst_atom(self) -> int | None:
        """Index of the atom with the largest u_i (or the first that is NaN)."""
        if self.force_deltas is None:
            return None
        return int(self.force_deltas.argmax())

    @property
    def worst_force_delta(self) -> float | None:
        """The largest u_i, eV/Å."""
        if self.force_deltas is None:
            return None
        return float(self.force_deltas[self.force_deltas.argmax()])
