"""A small model with two force predictions, the dynamics that the tests run, and lone frames."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, thermalize_momenta

from md_hooks import Frame, HookChain, Recorder, RunInfo, RunResult


class TwoForces(LennardJones):
    """Lennard-Jones with a second force: the exact one plus a smooth function of the positions.

    The conservative force is the exact one, the direct force is off by ``error`` (eV/Å) times a
    sine of the positions scaled by the distances from the reference sites, so that U grows as the
    atoms move. Fills the result keys of a calculator with two predictions.

    Args:
        error: scale of the difference, eV/Å per Å of displacement.
        every: the second prediction each so many evaluations only.
        broken: {evaluation number: quantity} to make "energy" or "forces" NaN there, or "raise".
    """

    implemented_properties = (*LennardJones.implemented_properties, "force_delta")

    def __init__(self, error=0.05, every=1, broken=None, reference=None, **parameters):
        super().__init__(epsilon=0.0104, sigma=3.4, rc=8.0, smooth=True, **parameters)
        self.error = error
        self.every = every
        self.broken = broken or {}
        self.reference = reference
        self.evaluations = 0
        self.model_info = {"name": "two-forces", "weights_hash": "123456", "library": "ase"}

    def calculate(self, atoms=None, properties=None, system_changes=()):
        fault = self.broken.get(self.evaluations)
        self.evaluations += 1
        if fault == "raise":
            raise RuntimeError("the model broke")
        super().calculate(atoms, properties, system_changes)
        exact = self.results["forces"]
        positions = self.atoms.positions
        if self.reference is None:
            self.reference = positions.copy()
        away = positions - self.reference
        difference = self.error * away * np.sin(positions + 1.0)
        self.results["forces"] = exact + difference
        if (self.evaluations - 1) % self.every == 0:
            self.results["direct_forces"] = exact + difference
            self.results["conservative_forces"] = exact.copy()
            self.results["force_deltas"] = np.sqrt((difference**2).sum(axis=1) / 3)
            self.results["force_delta"] = float(np.sqrt((difference**2).mean()))
        if fault == "energy":
            self.results["energy"] = np.nan
        elif fault == "forces":
            self.results["forces"][3, 1] = np.nan


def argon(periodic=False, **model) -> Atoms:
    """8 atoms: a cluster without a cell, or a crystal."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat((2, 1, 1))
    if not periodic:
        atoms.set_cell(None)
        atoms.pbc = False
    rng = np.random.default_rng(5)
    thermalize_momenta(atoms, temperature_K=30, rng=rng)
    Stationary(atoms)
    atoms.calc = TwoForces(reference=atoms.positions.copy(), **model)
    return atoms


def langevin(atoms: Atoms, seed: int = 1, **settings) -> Langevin:
    """Langevin dynamics at 30 K with its own random numbers."""
    return Langevin(
        atoms,
        2.0 * units.fs,
        temperature_K=settings.pop("temperature_K", 30),
        friction=0.02 / units.fs,
        rng=np.random.default_rng(seed),
        fixcm=False,
        **settings,
    )


def frame(step=0, u=0.1, worst=None, atom=2, **changes) -> Frame:
    """Formaldehyde with every atom at the origin; U is ``u`` and the worst of all is ``atom``."""
    n = 4
    deltas = None
    if u is not None:
        deltas = np.full(n, 0.5 * u)
        deltas[atom] = 2 * u if worst is None else worst
    values = {
        "step": step,
        "time": 0.5 * step,
        "numbers": np.array([6, 1, 8, 1]),
        "positions": np.zeros((n, 3)),
        "velocities": np.zeros((n, 3)),
        "masses": np.ones(n),
        "cell": np.zeros((3, 3)),
        "pbc": np.zeros(3, bool),
        "energy": -1.0,
        "forces": np.zeros((n, 3)),
        "temperature": 300.0,
        "force_delta": u,
        "force_deltas": deltas,
    }
    return Frame(**{**values, **changes})


DONE = RunResult("finished", 0, 0.0)


def record(path, frames, mode="create", every=1, info=None, hooks=()):
    """Record lone frames as a run of an engine would, after other hooks."""
    chain = HookChain([*hooks, Recorder(path, every=every, mode=mode)])
    chain.open(info or RunInfo())
    try:
        for one in frames:
            chain.dispatch(one)
    finally:
        chain.close(DONE)


def frames(*steps, **changes):
    """The lone frame at several steps."""
    return [frame(step=step, **changes) for step in steps]
