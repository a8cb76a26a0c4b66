"""The longest outer step of multiple time steps at which a model conserves energy on a structure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.ensembles import Ensemble, EnsembleSettings, Ramp, prepare
from forcedelta.errors import ForceDeltaError
from forcedelta.evaluation import usable_device
from forcedelta.integrators import check_constraints
from forcedelta.limits import check_number
from forcedelta.models.loaded import LoadedModel
from md_hooks import Drift, Frame, attach
from md_hooks.drift import CONSERVED_ENERGY, drift

INNER = (2, 4, 6, 8, 10, 12)
"""Inner steps per outer step that are tried, until one fails."""

LEG, EQUILIBRATION = 400.0, 200.0
"""fs"""

DRIFT_BOUND = 1.0
"""meV/atom/ps. This heats solids and molecules, with 3 k_B per atom, by 4 K/ps, of which a thermostat
with a relaxation time of 100 fs leaves 0.4 K."""

_ONLY_FIRST = 10**9  # exact evaluations with direct forces alone
_TAU = 50.0  # fs


@dataclass(frozen=True)
class Leg:
    """A short NVE run.

    Attributes:
        forces: "direct", "conservative" (U at every step) or "mts".
        inner: inner steps per outer step.
        drift: of the total energy; None if the run exploded.
        seconds: cost of a step, s: processor time of all threads on a CPU, else elapsed time.
    """

    forces: Literal["direct", "conservative", "mts"]
    inner: int
    drift: Drift | None
    seconds: float

    def conserves(self, bound: float) -> bool:
        """Whether |drift| plus twice its standard error is below a bound, meV/atom/ps."""
        found = self.drift
        return found is not None and abs(found.value) + 2 * found.error < bound


@dataclass(frozen=True)
class TimeSteps:
    """Drift and cost of NVE runs from one equilibrated state.

    Attributes:
        direct, conservative: the runs without multiple time steps.
        mts: the others, with increasing ``inner``; only the last may exceed the bound.
        bound: on |drift|, meV/atom/ps.
        timestep: inner step, fs.
        temperature: of the equilibration, K.
    """

    direct: Leg
    conservative: Leg
    mts: tuple[Leg, ...]
    bound: float
    timestep: float
    temperature: float

    @property
    def legs(self) -> tuple[Leg, ...]:
        """All runs."""
        return (self.direct, self.conservative, *self.mts)

    @property
    def largest(self) -> Leg | None:
        """The run with the largest ``inner`` within the bound."""
        within = [leg for leg in self.mts if leg.conserves(self.bound)]
        return within[-1] if within else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; drifts in meV/atom/ps, costs relative to direct forces and to U at every step."""
        largest = self.largest
        return {
            "timestep_fs": self.timestep,
            "temperature_K": self.temperature,
            "leg_fs": LEG,
            "drift_bound": self.bound,
            "largest_inner": None if largest is None else largest.inner,
            "legs": [
                {
                    "forces": leg.forces,
                    "inner": leg.inner,
                    "drift": None if leg.drift is None else leg.drift.value,
                    "drift_error": None if leg.drift is None else leg.drift.error,
                    "seconds_per_step": leg.seconds,
                    "over_direct": leg.seconds / self.direct.seconds,
                    "over_exact": leg.seconds / self.conservative.seconds,
                }
                for leg in self.legs
            ],
        }


def time_steps(
    model: LoadedModel,
    atoms: Atoms,
    *,
    timestep: float = 0.5,
    temperature: float = 300.0,
    drift_bound: float = DRIFT_BOUND,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    seed: int = 0,
) -> TimeSteps:
    """Measure drift and cost of multiple time steps on a structure.

    The structure is equilibrated for `EQUILIBRATION` with Langevin dynamics and conservative forces.
    From its last state NVE runs of `LEG` are made with direct forces, with conservative ones, and
    with multiple time steps of increasing `INNER`, until |drift| exceeds the bound.

    Args:
        model: as loaded in ``dtype`` on ``device``.
        atoms: the structure, of the kind that runs will have.
        timestep: inner step, fs.
        temperature: of the equilibration, K.
        drift_bound: meV/atom/ps.
        device: of torch.
        dtype: precision of the model.
        seed: of velocities and thermostat.

    Raises:
        ForceDeltaError: a value out of range, a constraint that multiple time steps do not support, or
            a model that cannot evaluate the structure.
    """
    check_number("drift_bound", drift_bound)
    atoms = atoms.copy()
    check_constraints(atoms)
    ramp = Ramp(temperature, temperature, 0, 0)

    def ensemble(name: str) -> EnsembleSettings:
        return EnsembleSettings(name, ramp, timestep, _TAU, 0.0, 1000.0, seed)

    prepare(atoms, ensemble("langevin"))
    atoms.calc = ForceDeltaCalculator(model, "conservative", device=device, dtype=dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        Ensemble(atoms, ensemble("langevin")).dynamics.run(max(1, round(EQUILIBRATION / timestep)))
    if not np.isfinite(atoms.positions).all():
        raise ForceDeltaError(
            f"the structure explodes at {temperature:g} K with conservative forces: pass a shorter "
            "--timestep or a lower --temperature"
        )

    def leg(forces: Literal["direct", "conservative", "mts"], inner: int = 1) -> Leg:
        moved = atoms.copy()
        moved.calc = ForceDeltaCalculator(
            model, forces, every=_ONLY_FIRST if forces == "direct" else 1,
            device=device, dtype=dtype, inner=inner,
        )  # fmt: skip
        return _leg(moved, ensemble("nve"), forces, inner)

    direct, conservative = leg("direct"), leg("conservative")
    mts: list[Leg] = []
    for inner in INNER:
        mts.append(leg("mts", inner))
        if not mts[-1].conserves(drift_bound):
            break
    return TimeSteps(direct, conservative, tuple(mts), drift_bound, timestep, temperature)


def _leg(
    atoms: Atoms,
    settings: EnsembleSettings,
    forces: Literal["direct", "conservative", "mts"],
    inner: int,
) -> Leg:
    dynamics = Ensemble(atoms, settings).dynamics
    times: list[float] = []
    energies: list[float] = []

    def collect(frame: Frame) -> None:
        times.append(frame.time)
        energies.append(frame.extra[CONSERVED_ENERGY])

    steps = max(1, round(LEG / settings.timestep / inner)) * inner
    on_cpu = usable_device(str(atoms.calc.model_info["device"])).type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    with np.errstate(over="ignore", invalid="ignore"), attach(dynamics, [collect]):
        atoms.get_forces()  # the first evaluation is slower, and of no step
        start = clock()
        dynamics.run(steps)
        if not on_cpu:
            torch.accelerator.synchronize()
        seconds = (clock() - start) / steps
    exploded = not np.isfinite(atoms.positions).all()
    found = None if exploded else drift(times, energies, len(atoms))
    return Leg(forces, inner, found, seconds)
