"""Hooks see the same frames, and the model makes one evaluation a step, however the user steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.contour_exploration import ContourExploration
from ase.md.switch_langevin import SwitchLangevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import BFGS, FIRE
from ase.optimize.basin import BasinHopping
from ase.optimize.minimahopping import MinimaHopping
from systems import Counting, acetaldehyde, small_network

from forcedelta import ForceDelta, ForceDeltaCalculator, ForceDeltaError
from forcedelta.integrators import Langevin, MTSBussi, MTSLangevin, MTSVelocityVerlet
from md_hooks import (
    Action,
    Guard,
    Hook,
    HookChain,
    HookError,
    Recorder,
    RunInfo,
    RunStoppedError,
    Trajectory,
    attach,
    load_checkpoint,
    restore,
    run,
)

FS = units.fs
STEPS, INNER = 12, 4


class Witness(Hook):
    """A user's own hook."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.ends: list[str] = []

    def observe(self, frame: Any, verdict: Any) -> None:
        self.frames.append(frame)

    def close(self, result: Any) -> None:
        self.ends.append(result.reason)


class StopAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, frame: Any) -> Action | None:
        return Action.STOP if frame.step == self.step else None


def moving(mts: bool = False, every: Any = 1) -> tuple[Atoms, Counting]:
    """Acetaldehyde with momenta, and the model that counts its passes."""
    network = small_network()
    network.energy_scale.fill_(10.0)
    model = Counting(network)
    given: dict[str, Any] = {"forces": "mts", "inner": INNER} if mts else {"every": every}
    atoms = acetaldehyde()
    atoms.calc = ForceDeltaCalculator(ForceDelta(model), dtype="float64", **given)
    thermalize_momenta(atoms, temperature_K=300, rng=np.random.default_rng(0))
    return atoms, model


def dynamics_of(name: str, atoms: Atoms) -> Any:
    rng = np.random.default_rng(1)
    if name == "langevin":
        return Langevin(
            atoms, 0.5 * FS, temperature_K=300, friction=0.02 / FS, fixcm=False, rng=rng
        )
    if name == "mts nve":
        return MTSVelocityVerlet(atoms, 0.25 * FS)
    if name == "mts bussi":
        return MTSBussi(atoms, 0.25 * FS, 300, 20 * FS, rng=rng)
    return MTSLangevin(
        atoms, 0.25 * FS, temperature_K=300, friction=0.05 / FS, fixcm=False, rng=rng
    )


# --- ways of stepping: each makes so many steps of a dynamics with these hooks -------------------


def by_run(dynamics: Any, steps: int, hooks: list[Any]) -> None:
    run(dynamics, steps, hooks)


def by_its_own_run(dynamics: Any, steps: int, hooks: list[Any]) -> None:
    with attach(dynamics, hooks):
        dynamics.run(steps)


def by_irun(dynamics: Any, steps: int, hooks: list[Any]) -> None:
    with attach(dynamics, hooks):
        for _ in dynamics.irun(steps):
            pass


def by_blocks(dynamics: Any, steps: int, hooks: list[Any]) -> None:
    handle = attach(dynamics, hooks)
    dynamics.run(0)
    for size in (1, 2, steps - 3):
        if handle.verdict is None:
            dynamics.run(size)
    handle.close()


def by_observers_in_a_loop(dynamics: Any, steps: int, hooks: list[Any]) -> None:
    """What the loops of ASE do."""
    with attach(dynamics, hooks) as handle:
        if dynamics.nsteps == 0:
            dynamics.atoms.get_forces()
            dynamics.call_observers()
        for _ in range(steps):
            if handle.verdict is not None:
                break
            dynamics.step()
            dynamics.nsteps += 1
            dynamics.call_observers()


def by_legs(dynamics: Any, steps: int, hooks: list[Any]) -> None:
    for size in (4, steps - 4):
        if run(dynamics, size, hooks).reason == "stopped":
            break


WAYS = [by_run, by_its_own_run, by_irun, by_blocks, by_observers_in_a_loop, by_legs]
DYNAMICS = ["langevin", "mts nve", "mts bussi", "mts langevin"]


def passes(name: str, steps: int) -> tuple[int, int]:
    """Forward and backward passes of so many steps and the first configuration."""
    exact = steps // INNER if name.startswith("mts") else steps
    return steps + 1, exact + 1


def equal(frames: list[Any], others: list[Any]) -> None:
    assert [frame.step for frame in frames] == [other.step for other in others]
    for frame, other in zip(frames, others, strict=True):
        assert (frame.time, frame.energy) == (other.time, other.energy)
        assert frame.force_delta == other.force_delta
        assert frame.extra.keys() == other.extra.keys()
        np.testing.assert_array_equal(
            np.array(list(frame.extra.values())), np.array(list(other.extra.values()))
        )
        for array in ("positions", "velocities", "forces"):
            np.testing.assert_array_equal(getattr(frame, array), getattr(other, array))


@pytest.mark.parametrize("name", DYNAMICS)
def test_the_same_frames_in_every_way(name: str, tmp_path: Path) -> None:
    """Bit for bit, in a hook and in the file; as many passes as without hooks."""
    seen: dict[Any, list[Any]] = {}
    for way in WAYS:
        atoms, model = moving(name.startswith("mts"))
        witness = Witness()
        path = tmp_path / f"{way.__name__}.h5"
        way(dynamics_of(name, atoms), STEPS, [Guard(stop_above=99.0), witness, Recorder(path)])
        assert (model.forwards, model.backwards) == passes(name, STEPS)
        assert [frame.step for frame in witness.frames] == list(range(STEPS + 1))
        assert set(witness.ends) == {"finished"}
        seen[way] = witness.frames
        equal(seen[by_run], seen[way])
        whole, recorded = Trajectory(tmp_path / "by_run.h5"), Trajectory(path)
        for key, values in whole.series.items():
            np.testing.assert_array_equal(recorded.series[key], values, err_msg=key)
    u = [frame.force_delta for frame in seen[by_run]]
    assert all(value is not None for value in u[:: INNER if name.startswith("mts") else 1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["langevin", "mts langevin"])
def test_a_stop_ends_every_way(name: str, way: Any, tmp_path: Path) -> None:
    """The frame is the last one on disk, and the atoms are where it is."""
    atoms, model = moving(name.startswith("mts"))
    witness, path = Witness(), tmp_path / "r.h5"
    way(dynamics_of(name, atoms), STEPS, [StopAt(5), witness, Recorder(path)])
    assert witness.ends[-1] == "stopped"
    assert witness.frames[-1].step == 5
    assert (model.forwards, model.backwards) == passes(name, 5)
    last = Trajectory(path).frame(-1)
    assert last.step == 5
    np.testing.assert_array_equal(last.positions, atoms.positions)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["langevin", "mts langevin"])
def test_a_restart_from_every_way(name: str, way: Any, tmp_path: Path) -> None:
    """Left at step 6, which is none of a whole outer step, and continued in the same way."""
    mts = name.startswith("mts")
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    by_run(dynamics_of(name, moving(mts)[0]), STEPS, [Recorder(whole)])
    way(dynamics_of(name, moving(mts)[0]), 6, [Recorder(parts)])
    checkpoint = load_checkpoint(parts)
    assert checkpoint.step == 6
    atoms, model = moving(mts)
    dynamics = dynamics_of(name, atoms)
    restore(dynamics, checkpoint)
    atoms.calc.count_from(checkpoint.step)
    info = RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
    with attach(dynamics, [Recorder(parts, mode="append")], info):
        for _ in dynamics.irun(STEPS - 6):
            pass
    one, many = Trajectory(whole), Trajectory(parts)
    for key, values in one.series.items():
        np.testing.assert_array_equal(many.series[key], values, err_msg=key)
    np.testing.assert_array_equal(many.frame(-1).velocities, one.frame(-1).velocities)
    assert model.forwards == STEPS - 6 + 1  # the first is of the checkpoint


def test_a_bare_step_is_refused() -> None:
    """ASE shows it to nobody: neither silently nor one step late."""
    atoms, _ = moving()
    dynamics, witness = dynamics_of("langevin", atoms), Witness()

    def bare(steps: int) -> None:
        with attach(dynamics, [witness]):
            for _ in range(steps):
                dynamics.step()

    with pytest.raises(HookError, match=r"Langevin\.step\(\) was called by itself.*irun"):
        bare(3)
    assert witness.ends == ["error"]
    dynamics.step()  # detached
    witness = Witness()
    with pytest.raises(HookError, match="irun"):
        bare(1)  # noticed at the end


def test_two_attachments_leave_the_dynamics_as_it_was() -> None:
    atoms, _ = moving()
    dynamics = dynamics_of("langevin", atoms)
    first, second = Witness(), Witness()
    handles = [attach(dynamics, [first]), attach(dynamics, [second])]
    dynamics.run(2)
    for handle in handles:
        handle.close()
    assert len(first.frames) == len(second.frames) == 3
    dynamics.run(1)
    dynamics.step()
    assert dynamics.observers == []


@pytest.mark.parametrize("every", [1, 3, "adaptive"])
def test_monitoring_goes_on_over_legs(every: Any, tmp_path: Path) -> None:
    """Another dynamics for each leg: exact evaluations come when they would in one run."""
    from ase.md.verlet import VelocityVerlet

    counts, series = [], []
    for legs in (1, 5):
        atoms, model = moving(every=every)
        hooks = [Guard(stop_above=99.0), Recorder(tmp_path / f"{legs}.h5")]
        for _ in range(legs):
            result = run(VelocityVerlet(atoms, 0.5 * FS), 60 // legs, hooks)
        counts.append((model.forwards, model.backwards, result.monitoring))
        series.append(Trajectory(tmp_path / f"{legs}.h5").series)
    assert counts[0] == counts[1]
    for key, values in series[0].items():
        np.testing.assert_array_equal(series[1][key], values, err_msg=key)


def test_outer_steps_over_legs(tmp_path: Path) -> None:
    """A new dynamics at an outer step goes on as the old one; between two it is refused."""
    whole, _ = moving(mts=True)
    run(dynamics_of("mts nve", whole), 4 * INNER, [Recorder(tmp_path / "whole.h5")])
    atoms, model = moving(mts=True)
    hooks = [Recorder(tmp_path / "legs.h5")]
    for outer in (1, 1, 2):
        run(dynamics_of("mts nve", atoms), outer * INNER, hooks)
    assert (model.forwards, model.backwards) == (4 * INNER + 1, 5)
    np.testing.assert_array_equal(atoms.positions, whole.positions)
    np.testing.assert_array_equal(atoms.get_momenta(), whole.get_momenta())
    one, many = (Trajectory(tmp_path / f"{name}.h5").series for name in ("whole", "legs"))
    for key, values in one.items():
        np.testing.assert_array_equal(many[key], values, err_msg=key)
    dynamics = dynamics_of("mts nve", atoms)
    run(dynamics, INNER + 1, hooks)
    with pytest.raises(ForceDeltaError, match=r"between two outer steps.*inner=4"):
        dynamics_of("mts langevin", atoms)
    run(dynamics, INNER - 1, hooks)
    assert dynamics_of("mts langevin", atoms)


# --- other loops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["run", "attach"])
def test_optimisers_converge_or_run_out_of_steps(way: str, tmp_path: Path) -> None:
    atoms, model = moving()
    optimiser, witness = BFGS(atoms, logfile=None), Witness()
    hooks = [witness, Recorder(tmp_path / "r.h5")]

    def optimise(fmax: float, steps: int) -> str:
        if way == "run":
            return run(optimiser, steps, hooks, fmax=fmax).reason
        with attach(optimiser, hooks) as handle:
            optimiser.run(fmax=fmax, steps=steps)
        return handle.close().reason

    assert optimise(1e-9, 3) == "out of steps"
    forces = np.linalg.norm(witness.frames[-1].forces, axis=1).max()
    assert optimise(2 * forces, 3) == "converged"
    assert Trajectory(tmp_path / "r.h5").outcome["reason"] == "converged"
    assert len(witness.frames) == model.forwards == model.backwards == 4
    with pytest.raises(HookError, match="no convergence criterion"):
        run(dynamics_of("langevin", atoms), 3, [Witness()], fmax=0.1)


def test_a_switch_between_two_models() -> None:
    """Its loop cannot be ended at a step; the next one raises. One evaluation of each model a step."""
    atoms, first = moving()
    (_, second), calculators = moving(), [atoms.calc]
    calculators.append(ForceDeltaCalculator(ForceDelta(second), dtype="float64"))
    dynamics = SwitchLangevin(
        atoms,
        *calculators,
        0.5 * FS,
        temperature_K=300,
        friction=0.02,
        n_eq=4,
        n_switch=5,
        fixcm=False,
    )
    witness = Witness()
    with pytest.raises(HookError, match=r"no run\(steps"):
        run(dynamics, 8, [witness])
    with attach(dynamics, [witness]):
        dynamics.run()
    assert [frame.step for frame in witness.frames] == list(range(1, 9))
    assert first.forwards == second.forwards == 9
    handle = attach(dynamics, [StopAt(10)])
    with pytest.raises(RunStoppedError):
        dynamics.run()
    assert handle.close().step == 10


def test_contours_are_explored_under_guard() -> None:
    atoms, model = moving()
    atoms.get_potential_energy()
    dynamics = ContourExploration(
        atoms, maxstep=0.05, parallel_drift=0.0, logfile=None, rng=np.random
    )
    witness = Witness()
    assert run(dynamics, 10, [witness, StopAt(6)]).reason == "stopped"
    assert [frame.step for frame in witness.frames] == list(range(7))
    assert model.forwards == 7


def test_the_minimisations_of_basin_hopping_are_legs(tmp_path: Path) -> None:
    """Every evaluation of every hop is a frame; a stop ends the hopping."""
    atoms, model = moving()
    witness = Witness()
    hooks = [witness, StopAt(25), Recorder(tmp_path / "r.h5")]

    class Guarded(FIRE):
        def run(self, fmax: float = 0.05, steps: int = 8) -> Any:
            with attach(self, hooks):
                return super().run(fmax, steps)

    np.random.seed(0)  # noqa: NPY002 - ASE's
    hopping = BasinHopping(
        atoms, optimizer=Guarded, fmax=1e-3, logfile=None, trajectory=None, dr=0.1,
        optimizer_logfile=None, local_minima_trajectory=None,
    )  # fmt: skip
    with pytest.raises(RunStoppedError):
        hopping.run(10)
    trajectory = Trajectory(tmp_path / "r.h5")
    assert [frame.step for frame in witness.frames] == list(range(26))
    assert list(trajectory.series["step"]) == list(range(26))
    assert len(trajectory.legs) == 3
    assert model.forwards == 26
    assert witness.ends == ["out of steps"] * 2 + ["stopped"]


def test_what_is_no_dynamics_is_refused_in_one_line(here: Path) -> None:
    with pytest.raises(HookError, match="MinimaHopping is no dynamics"):
        attach(MinimaHopping(moving()[0]), [Witness()])


def test_a_chain_used_in_legs_and_a_restart(tmp_path: Path) -> None:
    """A schedule that is killed between two legs goes on with new hooks, legs and all."""
    atoms, _ = moving()
    path = tmp_path / "r.h5"
    run(dynamics_of("langevin", atoms), 5, [Recorder(path)])
    checkpoint = load_checkpoint(path)
    again, _ = moving()
    dynamics = dynamics_of("langevin", again)
    restore(dynamics, checkpoint)
    chain = HookChain([Recorder(path, mode="append")])
    run(dynamics, 5, chain, RunInfo(restart_step=5, restart_time=checkpoint.time))
    run(dynamics_of("langevin", again), 5, chain)
    legs = Trajectory(path).legs
    assert [(leg.number, leg.after_step, leg.last_step) for leg in legs] == [
        (1, -1, 10),
        (2, 10, 15),
    ]
    assert list(Trajectory(path).series["step"]) == list(range(16))
