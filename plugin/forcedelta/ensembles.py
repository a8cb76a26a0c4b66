"""Ensembles of ASE: initial velocities, thermostat, barostat and temperature ramp."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.constraints import FixAtoms, FixCom, FixConstraint
from ase.md import langevin
from ase.md.bussi import Bussi
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from md_hooks import Frame, Hook, Verdict

from .checks import check_atoms
from .errors import ForceDeltaError
from .free_rotation import FixRotation, turns_freely
from .integrators import Langevin, MTSBussi, MTSLangevin, MTSVelocityVerlet
from .limits import check_number

ENSEMBLES = ("nve", "langevin", "bussi", "npt")


@dataclass(frozen=True)
class Ramp:
    """A target temperature that is constant, changes linearly, and is constant again.

    Attributes:
        start: temperature up to and including ``first_step``, K.
        end: temperature from ``last_step`` on, K.
        first_step: first step of the ramp.
        last_step: last step of the ramp; not before ``first_step``.
    """

    start: float
    end: float
    first_step: int
    last_step: int

    def temperature(self, step: int) -> float:
        """Target temperature of a step, K."""
        if step <= self.first_step:
            return self.start
        if step >= self.last_step:
            return self.end
        done = (step - self.first_step) / (self.last_step - self.first_step)
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class EnsembleSettings:
    """Settings of an ensemble and its integrator.

    Attributes:
        name: one of `ENSEMBLES`: "nve" (velocity Verlet), "langevin" (NVT, Vanden-Eijnden and
            Ciccotti, as in ASE), "bussi" (NVT, stochastic velocity rescaling) or "npt" (Langevin
            for positions and volume, isotropic; Quigley and Probert, as in ASE's LangevinBAOAB).
        ramp: target temperature of the thermostat; "nve" uses only its start temperature, for the
            initial velocities.
        timestep: time step, fs.
        tau: relaxation time of the thermostat, fs; the friction of "langevin" is 1/tau.
        pressure: target pressure of "npt", GPa, including the kinetic (ideal-gas) part.
        barostat_tau: relaxation time of the volume in "npt", fs.
        seed: random seed of initial velocities and thermostat.
    """

    name: str
    ramp: Ramp
    timestep: float
    tau: float
    pressure: float
    barostat_tau: float
    seed: int

    def __post_init__(self) -> None:
        if self.name not in ENSEMBLES:
            raise ForceDeltaError(
                f"unknown ensemble {self.name!r}: choose one of {', '.join(ENSEMBLES)}"
            )
        for name in ("timestep", "tau", "barostat_tau", "pressure", "seed"):
            check_number(name, getattr(self, name))
        check_number("temperature", self.ramp.start)
        check_number("ramp_to", self.ramp.end)
        if self.name == "nve" and self.ramp.end != self.ramp.start:
            raise ForceDeltaError(
                "ensemble nve has no thermostat to follow a temperature ramp: choose "
                "langevin, bussi or npt"
            )
        if self.name == "bussi" and self.ramp.start == 0:
            raise ForceDeltaError(
                "ensemble bussi rescales velocities, so it cannot start at 0 K: give a higher "
                "temperature, or choose langevin"
            )


def prepare(atoms: Atoms, settings: EnsembleSettings, began_as: Atoms | None = None) -> str:
    """Fix the centre of mass and set the initial velocities, in place.

    Unless the structure has constraints, a constraint fixes the centre of mass, because direct
    forces need not sum to zero. With "bussi" the rotation of a non-periodic structure, or of a
    single molecule in a periodic box, is fixed as well (`forcedelta.free_rotation`). Separate
    molecules in one structure may still spin up with "bussi"; "langevin" suits them better. Fixed
    degrees of freedom count neither in the temperature nor in the thermostat. The others are
    Maxwell-Boltzmann distributed at the start temperature; with "nve" and "langevin" a free
    molecule keeps its thermal rotation. Momenta of a structure are kept, apart from their
    components along constraints.

    ASE's "npt" integrator moves atoms past constraints and thermalises the motion of the centre of
    mass: there it is neither fixed nor removed, and all 3N degrees of freedom count.

    Args:
        atoms: structure to prepare.
        settings: see `EnsembleSettings`.
        began_as: structure at step 0 of a continued run, which decides what is fixed.

    Returns:
        A phrase that names the origin of the velocities.

    Raises:
        ForceDeltaError: "npt" with constraints; "bussi" with constraints that leave a molecule
            free to rotate; invalid atoms (`forcedelta.checks.check_atoms`).
    """
    check_atoms(atoms)
    if settings.name == "npt" and atoms.constraints:
        raise ForceDeltaError(
            "ensemble npt cannot hold the constraints of the structure: remove them, or choose "
            "langevin or bussi"
        )
    if settings.name == "bussi":
        _check_rotation(atoms, began_as or atoms)
    if settings.name != "npt" and not atoms.constraints and len(atoms) > 1:
        atoms.set_constraint(_default_constraints(began_as or atoms, settings))
    if atoms.has("momenta") and atoms.get_momenta().any():
        given, less = atoms.get_momenta(), ""
        atoms.set_momenta(given)  # now, or the first step would apply the constraints
        if np.allclose(atoms.get_momenta(), given, rtol=0, atol=1e-9):
            atoms.set_momenta(given, apply_constraint=False)  # to the last bit
        else:
            less = _removed_by_constraints(atoms)
        return f"velocities from the structure{less} ({atoms.get_temperature():.1f} K)"
    temperature = settings.ramp.start
    thermalize_momenta(atoms, temperature, rng=_generator(settings.seed, 0))
    return f"velocities drawn at {temperature:g} K"


def _default_constraints(began_as: Atoms, settings: EnsembleSettings) -> list[FixConstraint]:
    """The constraints for a structure without any."""
    held: list[FixConstraint] = [FixCom()]
    if settings.name == "bussi" and turns_freely(began_as):
        held.append(FixRotation(began_as))
    return held


def _removed_by_constraints(atoms: Atoms) -> str:
    """Phrase that names the part of the momenta removed by the constraints."""
    kinds = {type(constraint) for constraint in atoms.constraints}
    if kinds <= {FixCom, FixRotation}:
        return (
            " without net momentum and rotation"
            if FixRotation in kinds
            else " without net momentum"
        )
    return " projected onto its constraints"


def _check_rotation(atoms: Atoms, began_as: Atoms) -> None:
    """Refuse a molecule whose constraints leave it free to rotate: rescaling would spin it up.

    Raises:
        ForceDeltaError: the constraints do not fix three atoms that are not on one line.
    """
    if not atoms.constraints or not turns_freely(began_as):
        return
    fixed = sorted({int(i) for c in atoms.constraints if isinstance(c, FixAtoms) for i in c.index})
    places = atoms.positions[fixed]
    if len(fixed) < 3 or np.linalg.matrix_rank(places - places[0], tol=1e-3) < 2:
        raise ForceDeltaError(
            "ensemble bussi rescales velocities, and the constraints of this structure leave it "
            "free to rotate, which would spin it up: choose langevin, or fix three atoms that are "
            "not on one line"
        )


class Ensemble(Hook):
    """An integrator of ASE with its temperature ramp.

    A calculator with ``forces="mts"`` gets multiple time steps (`forcedelta.integrators`).

    It is also a hook: after each frame it sets the target temperature of the next step. It must
    precede a Recorder in the chain for checkpoints to hold the target of the next step.

    Args:
        atoms: structure with momenta (`prepare`) and a calculator, which "npt" evaluates here.
        settings: see `EnsembleSettings`.

    Attributes:
        dynamics: the ASE dynamics.

    Raises:
        ForceDeltaError: "npt" with a structure that is not periodic in all directions, or with
            multiple time steps; multiple time steps with constraints that they do not support.
    """

    def __init__(self, atoms: Atoms, settings: EnsembleSettings) -> None:
        self.atoms = atoms
        self.settings = settings
        self._rng = _generator(settings.seed, 1)
        self.dynamics: MolecularDynamics = self._build()

    def _build(self) -> MolecularDynamics:
        settings, atoms = self.settings, self.atoms
        timestep, tau = settings.timestep * units.fs, settings.tau * units.fs
        start = settings.ramp.temperature(1)
        mts = getattr(atoms.calc, "forces", None) == "mts"
        if settings.name == "nve":
            return MTSVelocityVerlet(atoms, timestep) if mts else VelocityVerlet(atoms, timestep)
        if settings.name == "langevin":
            return (MTSLangevin if mts else Langevin)(
                atoms, timestep, temperature_K=start, friction=1 / tau, fixcm=False, rng=self._rng
            )
        if settings.name == "bussi":
            if not atoms.get_momenta().any():
                raise ForceDeltaError(
                    "ensemble bussi rescales velocities, but all are zero: choose langevin"
                )
            return (MTSBussi if mts else Bussi)(atoms, timestep, start, tau, rng=self._rng)
        if mts:
            raise ForceDeltaError(
                "ensemble npt needs the stress at every step, and multiple time steps give it at "
                "outer steps only: choose langevin or bussi, or direct forces"
            )
        if not atoms.pbc.all():
            raise ForceDeltaError(
                "ensemble npt needs a structure that is periodic in all three directions: choose "
                "langevin or bussi for this one"
            )
        with warnings.catch_warnings():
            # about the choice of the barostat mass
            warnings.filterwarnings("ignore", message="Using heuristic P_mass")
            return LangevinBAOAB(
                atoms,
                timestep,
                temperature_K=start,
                externalstress=-settings.pressure * units.GPa,
                hydrostatic=True,
                T_tau=tau,
                P_tau=settings.barostat_tau * units.fs,
                rng=self._rng,
            )

    def set_temperature(self, temperature: float) -> None:
        """Set the target of the thermostat, K."""
        dynamics = self.dynamics
        if isinstance(dynamics, langevin.Langevin):
            dynamics.set_temperature(temperature_K=temperature)
        elif isinstance(dynamics, Bussi):  # has no setter
            dynamics.temp = temperature * units.kB
            dynamics.target_kinetic_energy = 0.5 * dynamics.temp * dynamics.ndof
        elif isinstance(dynamics, LangevinBAOAB):
            dynamics.set_temperature(temperature)

    def observe(self, frame: Frame, verdict: Verdict) -> None:
        """Set the target temperature of the step after this frame."""
        ramp = self.settings.ramp
        if ramp.start != ramp.end and ramp.first_step <= frame.step <= ramp.last_step:
            self.set_temperature(ramp.temperature(frame.step + 1))


def _generator(seed: int, stream: int) -> np.random.Generator:
    """An independent random number generator for each use of one seed."""
    return np.random.default_rng([seed, stream])
