"""Integrators of ASE with multiple time steps, and a Langevin integrator that counts its heat.

Multiple time steps are the reversible reference-system propagator (r-RESPA; Tuckerman, Berne and
Martyna, J. Chem. Phys. 97, 1990 (1992)). The direct forces F_nc move the atoms at every inner step
of length dt; what they lack to the conservative forces, F_c - F_nc, acts as an impulse at every
outer step, each m inner steps:

    p <- p + m dt/2 (F_c - F_nc),   m inner steps with F_nc,   p <- p + m dt/2 (F_c - F_nc).

Both forces of an outer step come from one exact evaluation, which also gives U; the m - 1 inner
steps between are forward passes. The sum of both is the dynamics of F_c, so the energy is conserved
and averages are canonical, up to errors of second order in m dt.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCom
from ase.md import langevin
from ase.md.bussi import Bussi
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from .errors import ForceDeltaError
from .free_rotation import FixRotation

RESONANCE = 4.0
"""fs; longer outer steps come close to the period of X-H vibrations, half of which is the limit."""

_HELD = (FixAtoms, FixCom, FixRotation)


class _MultipleTimeSteps:
    """The impulses around the inner steps of an integrator of `ase.md`, which follows as next base.

    ``nsteps`` counts inner steps. Observers see an outer step after its closing half impulse, with
    the velocities of that time; at the inner steps between, velocities still lack a part of the
    impulse, and `get_conserved_energy` is NaN. A run may end and continue at any step.
    """

    atoms: Atoms
    dt: float
    nsteps: int

    def __init__(self, atoms: Atoms, *args: Any, **settings: Any) -> None:
        calculator = atoms.calc
        if getattr(calculator, "forces", None) != "mts":
            raise ForceDeltaError(
                f"{type(self).__name__} needs atoms with a ForceDeltaCalculator(..., forces='mts', "
                f"inner=m), not with {type(calculator).__name__ if calculator else 'no calculator'}"
            )
        check_constraints(atoms)
        results = calculator.results
        if results and "conservative_forces" not in results and not calculator.check_state(atoms):
            raise ForceDeltaError(
                f"the atoms come from a run that ended between two outer steps, where a part of the impulse "
                f"is due: go on with its dynamics, or let it make a multiple of inner={calculator.inner} "
                "steps first"
            )
        super().__init__(atoms, *args, **settings)  # type: ignore[call-arg]
        calculator.count_from(0)

    @property
    def inner(self) -> int:
        """Inner steps per outer step, m."""
        return int(self.atoms.calc.inner)

    def step(self, forces: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """One inner step, with the half impulses that are due before and after it."""
        calculator = self.atoms.calc
        calculator.count_from(self.nsteps)
        self.atoms.get_forces()  # no evaluation, except after a restart
        if self.nsteps % self.inner == 0:
            if "conservative_forces" not in calculator.results:
                # an observer moved the atoms and back: these positions counted as an inner step
                calculator.reset()
                calculator.count_from(self.nsteps)
                self.atoms.get_forces()
            self._before_outer_step()
            self._half_impulse()
        calculator.count_from(self.nsteps + 1)
        driving = self._inner_step()
        if (self.nsteps + 1) % self.inner == 0:
            self._half_impulse()
        return driving

    def _inner_step(self) -> NDArray[np.float64]:
        """One step with the direct forces; returns those at its end."""
        driving: NDArray[np.float64] = super().step()  # type: ignore[misc]
        return driving

    def _before_outer_step(self) -> None:
        """For a thermostat that acts once per outer step."""

    def _half_impulse(self) -> None:
        results = self.atoms.calc.results
        slow = results["conservative_forces"] - results["direct_forces"]
        momenta = self.atoms.get_momenta() + 0.5 * self.inner * self.dt * slow
        self.atoms.set_momenta(momenta)  # projected by the constraints

    def get_conserved_energy(self) -> float:
        """Total energy minus the heat of the thermostat, eV; NaN between outer steps."""
        if self.nsteps % self.inner:
            return math.nan
        heat = getattr(self, "transferred_energy", 0.0)
        return float(self.atoms.get_total_energy() - heat)


class MTSVelocityVerlet(_MultipleTimeSteps, VelocityVerlet):
    """NVE with multiple time steps: energy is conserved though direct forces move the atoms.

    Args:
        atoms: with a ``ForceDeltaCalculator(..., forces="mts", inner=m)``.
        timestep: inner step, in ASE's unit of time.
        args, settings: as in `ase.md.verlet.VelocityVerlet`.

    Raises:
        ForceDeltaError: another calculator, constraints other than FixAtoms, FixCom and
            FixRotation, or atoms that another dynamics has left between two outer steps.
    """


class MTSBussi(_MultipleTimeSteps, Bussi):
    """NVT with multiple time steps and stochastic velocity rescaling, once per outer step.

    Rescaling leaves the canonical distribution of the velocities of an outer step as it is, so the
    averages have the accuracy of the NVE integrator.

    Args:
        atoms: with momenta and a ``ForceDeltaCalculator(..., forces="mts", inner=m)``.
        timestep: inner step, in ASE's unit of time.
        args, settings: as in `ase.md.bussi.Bussi`.

    Attributes:
        transferred_energy: heat from the thermostat, eV.

    Raises:
        ForceDeltaError: as `MTSVelocityVerlet`.
    """

    def __init__(self, atoms: Atoms, timestep: float, *args: Any, **settings: Any) -> None:
        super().__init__(atoms, timestep, *args, **settings)
        self._exp_term = math.exp(-self.inner * self.dt / self.taut)

    def _before_outer_step(self) -> None:
        self.scale_velocities()

    def _inner_step(self) -> NDArray[np.float64]:
        driving: NDArray[np.float64] = VelocityVerlet.step(self)
        return driving


class MTSLangevin(_MultipleTimeSteps, langevin.Langevin):
    """NVT with multiple time steps and Langevin dynamics.

    The inner steps are BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)) with the
    direct forces, between the half impulses of the outer step: a symmetric splitting of Langevin
    dynamics with F_c.

    Args:
        atoms: with a ``ForceDeltaCalculator(..., forces="mts", inner=m)``.
        timestep: inner step, in ASE's unit of time.
        args, settings: as in `ase.md.langevin.Langevin`; pass ``fixcm=False`` and use FixCom.

    Attributes:
        transferred_energy: heat from the thermostat, eV.

    Raises:
        ForceDeltaError: as `MTSVelocityVerlet`.
    """

    def __init__(self, atoms: Atoms, timestep: float, *args: Any, **settings: Any) -> None:
        super().__init__(atoms, timestep, *args, **settings)
        if self.fix_com:
            raise ForceDeltaError(
                "MTSLangevin has no fixcm: pass fixcm=False, and the constraint FixCom to atoms"
            )
        self.transferred_energy = 0.0

    def updatevars(self) -> None:
        """Factors of the momenta and of the noise, for ASE's setters."""
        self._kept = np.exp(-self.fr * self.dt)
        self._noise = np.sqrt(self.masses * self.temp * (1 - self._kept**2))

    def _inner_step(self) -> NDArray[np.float64]:
        atoms = self.atoms
        atoms.set_momenta(atoms.get_momenta() + 0.5 * self.dt * atoms.get_forces(md=True))
        self._drift()
        before = atoms.get_kinetic_energy()
        noise = self._noise * self.rng.standard_normal(size=(len(atoms), 3))
        atoms.set_momenta(self._kept * atoms.get_momenta() + noise)
        self.transferred_energy += atoms.get_kinetic_energy() - before
        self._drift()
        driving: NDArray[np.float64] = atoms.get_forces(md=True)
        atoms.set_momenta(atoms.get_momenta() + 0.5 * self.dt * driving)
        return driving

    def _drift(self) -> None:
        """Half a step of the positions."""
        atoms = self.atoms
        atoms.set_positions(atoms.positions + 0.5 * self.dt * atoms.get_momenta() / self.masses)


class Langevin(langevin.Langevin):
    """ASE's Langevin integrator, which also counts the heat that the thermostat gives.

    The heat of a step is the kinetic energy gained minus the work of the forces by the trapezoidal
    rule. The class has ASE's name, which checkpoints store.

    Attributes:
        transferred_energy: heat from the thermostat, eV.
    """

    transferred_energy = 0.0

    def step(self, forces: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """One step, as in ASE."""
        atoms = self.atoms
        start = atoms.get_forces(md=True) if forces is None else forces
        positions, kinetic = atoms.get_positions(), atoms.get_kinetic_energy()
        end: NDArray[np.float64] = super().step(start)
        work = 0.5 * np.vdot(start + end, atoms.positions - positions)
        self.transferred_energy += float(atoms.get_kinetic_energy() - kinetic - work)
        return end


def check_constraints(atoms: Atoms) -> None:
    """Refuse constraints that impulses would violate.

    Raises:
        ForceDeltaError: a constraint other than FixAtoms, FixCom and FixRotation.
    """
    for constraint in atoms.constraints:
        if not isinstance(constraint, _HELD):
            raise ForceDeltaError(
                f"multiple time steps do not support the constraint {type(constraint).__name__}: "
                "remove it, or choose direct or conservative forces"
            )


def check_inner(forces: str, inner: object, every: object = 1) -> None:
    """Check the number of inner steps against the forces.

    Args:
        forces: "direct", "conservative" or "mts".
        inner: inner steps per outer step.
        every: steps between two exact evaluations without multiple time steps, or "adaptive".

    Raises:
        ForceDeltaError: fewer than two inner steps with "mts", inner steps without it, or both
            ``inner`` and ``every``.
    """
    if isinstance(inner, bool) or not isinstance(inner, int | np.integer) or inner < 1:
        raise ForceDeltaError(f"inner must be a whole number of 2 or more, not {inner!r}")
    if forces != "mts":
        if inner > 1:
            raise ForceDeltaError(
                f"inner={inner} needs forces='mts', and forces is {forces!r}: pass both, or omit inner"
            )
    elif inner < 2:
        raise ForceDeltaError(
            f"forces='mts' needs inner of 2 or more, and inner is {inner}: 4 is a good start"
        )
    elif every != 1:
        raise ForceDeltaError(
            f"every={every} has no meaning with forces='mts', which gives U at every outer step: "
            "omit every"
        )
