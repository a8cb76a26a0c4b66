"""OpenMM as the engine of ``forcedelta run``: an ensemble by name, from ASE's atoms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import openmm
from ase import Atoms, units
from ase.constraints import FixAtoms, FixCom
from ase.md.velocitydistribution import Stationary
from numpy.typing import NDArray
from openmm import app
from openmm.mtsintegrator import MTSIntegrator, MTSLangevinIntegrator

from md_hooks import Checkpoint, Hook, HookChain, RunInfo, RunResult
from md_hooks.electronic_state import ElectronicState

from ..checks import check_atoms
from ..ensembles import EnsembleSettings
from ..errors import ForceDeltaError
from ..monitoring import Every
from .force import add_force_delta
from .monitor import Forces
from .runs import run_steps
from .units import EV, NM, PS

BAROSTAT_EVERY = 25
"""Steps between the barostat's attempts, OpenMM's own default; inner ones with multiple time steps."""

_BAR_PER_GPA = 1e4


class OpenMMEngine(Hook):
    """A simulation of a structure, with its ramp of temperature.

    "nve" is OpenMM's VerletIntegrator, "langevin" its LangevinMiddleIntegrator, "npt" that one with
    a MonteCarloBarostat, which accepts volumes by their energies alone (``barostat_tau`` has no
    effect). They run on the Reference platform: its cost is negligible beside the model's, and a
    continued run equals an uninterrupted one bit for bit. ("npt" is the exception: OpenMM's
    checkpoint lacks the barostat's counters.)

    With ``forces="mts"`` they are MTSIntegrator and MTSLangevinIntegrator. Steps and ``timestep``
    are the inner ones; frames are those of outer steps.

    The engine is also a hook: as the first of a chain it sets the target temperature of the next
    step after each frame.

    Args:
        atoms: with momenta (`forcedelta.ensembles.prepare`). Positions, cell and momenta are turned
            in place into the orientation that OpenMM needs.
        settings: see `EnsembleSettings`.
        model, forces, every, inner, device, dtype, charge, spin: see
            `forcedelta.openmm.add_force_delta`.

    Attributes:
        simulation: the `openmm.app.Simulation`.
        monitor: the handle of its force.

    Raises:
        ForceDeltaError: an ensemble, periodicity or constraint that OpenMM does not support, or an
            error of `add_force_delta`.
    """

    def __init__(
        self,
        atoms: Atoms,
        settings: EnsembleSettings,
        model: Any,
        forces: Forces = "direct",
        every: Every = 1,
        inner: int = 1,
        device: str = "cpu",
        dtype: str = "float32",
        charge: int | None = None,
        spin: int | None = None,
    ) -> None:
        _check(atoms, settings)
        if settings.name == "npt" and len(atoms) > 1:
            Stationary(atoms, preserve_temperature=False)  # what OpenMM's remover does at each step
        if atoms.pbc.all():
            to_openmm_cell(atoms)
        self.settings = settings
        self._inner = inner
        system = _system(atoms, settings, inner)
        topology = _topology(atoms)
        self.monitor = add_force_delta(
            system, model, topology, forces=forces, every=every, inner=inner, device=device,
            dtype=dtype, charge=charge, spin=spin,
        )  # fmt: skip
        stored = ElectronicState.of(atoms)
        self.monitor.electronic_state = replace(
            stored,
            charge=stored.charge if charge is None else charge,
            spin=stored.spin if spin is None else spin,
        )
        self.simulation = app.Simulation(
            topology,
            system,
            _integrator(settings) if forces != "mts" else _mts_integrator(settings, inner),
            openmm.Platform.getPlatformByName("Reference"),
        )
        context = self.simulation.context
        context.setPositions(atoms.positions / NM)
        velocities = atoms.get_velocities() * (units.fs * PS / NM)
        # raises the model's errors for this structure
        forces_now = self.monitor.measure(context).openmm_forces
        if forces != "mts":
            # these integrators take velocities half a step before the positions
            masses = _masses(atoms)[:, None]
            accelerations = np.divide(
                forces_now, masses, out=np.zeros_like(forces_now), where=masses > 0
            )
            velocities -= 0.5 * settings.timestep / PS * accelerations
        context.setVelocities(velocities)
        self._set_temperature(settings.ramp.temperature(1))

    @property
    def hook(self) -> Hook:
        """The engine itself."""
        return self

    def first_evaluation(self) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """U (eV/Å) and both forces [N, 3] (eV/Å) of the first step, evaluated once."""
        first = self.monitor.measure(self.simulation.context)
        assert first.force_delta is not None
        assert first.direct_forces is not None
        assert first.conservative_forces is not None
        return first.force_delta, first.direct_forces, first.conservative_forces

    def run(
        self, steps: int, chain: HookChain, info: RunInfo, checkpoint: Checkpoint | None = None
    ) -> RunResult:
        """Make ``steps`` steps, from a checkpoint if given; see `forcedelta.openmm.run`.

        Raises:
            ForceDeltaError: ``steps`` that are not a multiple of the inner steps, or an error of
                `forcedelta.openmm.run`.
        """
        check_steps(steps, self._inner)
        if checkpoint is not None:
            check_steps(checkpoint.step, self._inner)
            self._set_temperature(self.settings.ramp.temperature(checkpoint.step + self._inner))
        outer = steps // self._inner
        return run_steps(self.simulation, outer, chain, info, checkpoint, self._inner)

    def observe(self, frame: Any, verdict: Any) -> None:
        """Set the target temperature of the step after this frame."""
        ramp, following = self.settings.ramp, frame.step + self._inner
        if ramp.start != ramp.end and ramp.first_step < following <= ramp.last_step + self._inner:
            self._set_temperature(ramp.temperature(following))

    def _set_temperature(self, temperature: float) -> None:
        integrator = self.simulation.integrator
        if isinstance(integrator, MTSLangevinIntegrator):
            integrator.setGlobalVariableByName("kT", units.kB * temperature * EV)
        elif hasattr(integrator, "setTemperature"):
            integrator.setTemperature(temperature)
        if self.settings.name == "npt":
            name = openmm.MonteCarloBarostat.Temperature()
            self.simulation.context.setParameter(name, temperature)


def to_openmm_cell(atoms: Atoms) -> None:
    """Rotate atoms, cell and momenta into OpenMM's reduced form; the crystal stays the same.

    OpenMM requires the first vector along x, the second in the xy plane, and reduced vectors.
    """
    cell = atoms.cell.array.copy()
    if np.linalg.det(cell) < 0:
        cell[2] = -cell[2]
    atoms.set_cell(cell)
    triangular, rotation = atoms.cell.standard_form()
    cell = np.array(triangular)
    if not np.allclose(cell, atoms.cell.array, rtol=0, atol=1e-12):
        momenta = atoms.get_momenta()
        atoms.positions = atoms.positions @ rotation.T
        if atoms.has("momenta"):
            atoms.set_momenta(momenta @ rotation.T, apply_constraint=False)
    for long, short in ((2, 1), (2, 0), (1, 0)):
        cell[long] -= cell[short] * np.round(cell[long, short] / cell[short, short])
    atoms.set_cell(np.tril(cell))


def _check(atoms: Atoms, settings: EnsembleSettings) -> None:
    check_atoms(atoms)
    if settings.name == "bussi":
        raise ForceDeltaError("OpenMM has no ensemble bussi: choose langevin, or --engine ase")
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ForceDeltaError(
            "OpenMM supports structures that are periodic in three directions or in none: change pbc, "
            "or choose --engine ase"
        )
    if settings.name == "npt" and not atoms.pbc.all():
        raise ForceDeltaError(
            "ensemble npt needs a structure that is periodic in all three directions: choose langevin"
        )
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms | FixCom):
            raise ForceDeltaError(
                f"OpenMM does not support the structure's {type(constraint).__name__}: use FixAtoms, "
                "or choose --engine ase"
            )


def _masses(atoms: Atoms) -> NDArray[np.float64]:
    """Masses [N] in amu; 0, which fixes an atom in OpenMM, for the atoms of `FixAtoms`."""
    masses: NDArray[np.float64] = atoms.get_masses().copy()
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            masses[constraint.index] = 0.0
    return masses


def _system(atoms: Atoms, settings: EnsembleSettings, inner: int) -> openmm.System:
    system = openmm.System()
    masses = _masses(atoms)
    for mass in masses:
        system.addParticle(mass)
    if atoms.pbc.all():
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / NM))
    if len(atoms) > 1 and (masses > 0).all():
        system.addForce(openmm.CMMotionRemover(1))
    if settings.name == "npt":
        barostat = openmm.MonteCarloBarostat(
            settings.pressure * _BAR_PER_GPA, settings.ramp.start, max(1, BAROSTAT_EVERY // inner)
        )
        barostat.setRandomNumberSeed(_seed(settings.seed + 1))
        system.addForce(barostat)
    return system


def _topology(atoms: Atoms) -> app.Topology:
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for number in atoms.numbers:
        element = app.Element.getByAtomicNumber(int(number))
        topology.addAtom(element.symbol, element, residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors(atoms.cell.array / NM * openmm.unit.nanometer)
    return topology


def _integrator(settings: EnsembleSettings) -> openmm.Integrator:
    step = settings.timestep / PS
    if settings.name == "nve":
        return openmm.VerletIntegrator(step)
    integrator = openmm.LangevinMiddleIntegrator(settings.ramp.start, PS / settings.tau, step)
    integrator.setRandomNumberSeed(_seed(settings.seed))
    return integrator


def _mts_integrator(settings: EnsembleSettings, inner: int) -> openmm.Integrator:
    """Outer steps for the groups of `add_force_delta`: 0 the fast force, 1 the slow one."""
    step, groups = inner * settings.timestep / PS, [(1, 1), (0, inner)]
    if settings.name == "nve":
        return MTSIntegrator(step, groups)
    integrator = MTSLangevinIntegrator(settings.ramp.start, PS / settings.tau, step, groups)
    integrator.setRandomNumberSeed(_seed(settings.seed))
    return integrator


def check_steps(steps: int, inner: int) -> None:
    """Refuse a number of steps that ends between two outer steps.

    Raises:
        ForceDeltaError: it is not a multiple of the inner steps.
    """
    if steps % inner:
        raise ForceDeltaError(
            f"{steps} steps are not a multiple of --inner {inner}, and OpenMM makes whole outer steps: "
            f"pass --steps {steps + -steps % inner}, or choose --engine ase"
        )


def _seed(seed: int) -> int:
    """A seed in OpenMM's range, without 0, which OpenMM replaces by a random seed."""
    return 1 + seed % (2**31 - 2)
