"""The burn-in of a guard: what is refused, what level a calm one gives, and that a restart changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule

from md_hooks import Action, Frame, Guard, HookChain, RunInfo, RunResult
from md_hooks.burn_in import BurnIn, autocorrelation_time
from md_hooks.geometry import Geometry

STEPS = 400
ETHANOL = molecule("CH3CH2OH")


def calm(step: int, rng: np.random.Generator, atoms=ETHANOL, **changes: Any) -> Frame:
    """A frame at 300 K of a model with two predictions that differ by a few per cent."""
    n = len(atoms)
    conservative = rng.normal(0, 0.8, (n, 3))
    difference = rng.normal(0, 0.03, (n, 3)) * changes.pop("error", 1.0)
    deltas = np.sqrt((difference**2).sum(1) / 3)
    values: dict[str, Any] = {
        "step": step,
        "time": 0.5 * step,
        "numbers": atoms.numbers,
        "positions": atoms.positions + rng.normal(0, 0.03, (n, 3)),
        "velocities": np.zeros((n, 3)),
        "masses": atoms.get_masses(),
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "energy": -1.0,
        "forces": conservative + difference,
        "temperature": float(rng.normal(300, 60)),
        "force_delta": float(np.sqrt((difference**2).mean())),
        "force_deltas": deltas,
        "direct_forces": conservative + difference,
        "conservative_forces": conservative,
    }
    return Frame(**{**values, **changes})


def run(
    change: Callable[[int], dict[str, Any]], atoms=ETHANOL, steps: int = STEPS + 1, **settings: Any
) -> tuple[Guard, list[int], str]:
    """The guard after these frames, the steps at which it said stop, and its first reason."""
    rng = np.random.default_rng(3)
    guard = Guard("auto", burn_in=STEPS, temperature=300.0, **settings)
    stops, reason = [], ""
    for step in range(steps):
        verdict = guard(calm(step, rng, atoms, **change(step)))
        if verdict.action is Action.STOP:
            stops.append(step)
            reason = reason or verdict.reason
            break
    return guard, stops, reason


def test_a_calm_burn_in_gives_a_threshold():
    guard, stops, _ = run(lambda step: {})
    assert stops == []
    assert guard.refused is None
    assert guard.policy()["burn_in_autocorrelation_times"] > 100
    # about twice the usual U of 0.03 eV/Å
    assert 0.06 < guard.stop_threshold < 0.12
    assert guard.flag_threshold == pytest.approx(0.75 * guard.stop_threshold)


def atoms_apart(distance: float) -> np.ndarray:
    positions = ETHANOL.positions.copy()
    positions[-1] += [0, 0, distance]
    return positions


def on_top() -> np.ndarray:
    positions = ETHANOL.positions.copy()
    positions[1] = positions[0] + [0.3, 0, 0]
    return positions


@pytest.mark.parametrize(
    ("change", "why", "at_once"),
    [
        (lambda step: {"temperature": 9000.0} if step > 20 else {}, "9000 K, target 300 K", True),
        (lambda step: {"temperature": 1200.0}, "mean temperature of its second half", False),
        (lambda step: {"error": 30.0} if step > 10 else {}, "little in common", True),
        (lambda step: {"positions": atoms_apart(8.0)} if step > 10 else {}, "came apart", True),
        (lambda step: {"positions": on_top()} if step > 10 else {}, "0.30 Å apart", True),
        (lambda step: {"error": 60.0} if step == 390 else {}, "U reached", False),
        (lambda step: {"error": 1.007**step}, "U still grows", False),
    ],
    ids=["exploded", "hot", "unrelated", "apart", "overlap", "spike", "growth"],
)
def test_a_burn_in_that_is_not_calm_is_refused(change, why, at_once):
    guard, stops, reason = run(change)
    assert why in reason
    assert "'auto' cannot choose a threshold" in reason
    assert (stops[0] < STEPS) is at_once
    assert guard.stop_threshold is None
    assert why in guard.policy()["burn_in_refused"]


def test_two_unrelated_predictions_end_the_run_at_its_first_frame():
    rng = np.random.default_rng(1)
    direct, conservative = rng.normal(0, 1, (2, 9, 3))
    u = float(np.sqrt(((direct - conservative) ** 2).mean()))
    _, stops, _ = run(
        lambda step: {
            "direct_forces": direct,
            "conservative_forces": conservative,
            "force_delta": u,
        }
    )
    assert stops == [0]


def test_errors_as_small_as_the_forces_of_a_relaxed_structure_are_none():
    rng = np.random.default_rng(1)
    direct, conservative = rng.normal(0, 0.02, (2, 9, 3))
    u = float(np.sqrt(((direct - conservative) ** 2).mean()))
    _, stops, _ = run(
        lambda step: {
            "direct_forces": direct,
            "conservative_forces": conservative,
            "force_delta": u,
        }
    )
    assert stops == []


@pytest.mark.parametrize(("temperature", "refused"), [(60.0, False), (300.0, True)])
def test_predictions_with_nothing_in_common_count_more_in_warm_structures(temperature, refused):
    """Forces of 0.07 eV/Å are those of a cold structure, or of a warm one that the model does not know."""
    rng = np.random.default_rng(1)
    direct, conservative = rng.normal(0, 0.06, (2, 9, 3))
    u = float(np.sqrt(((direct - conservative) ** 2).mean()))
    guard, stops, reason = run(
        lambda step: {
            "direct_forces": direct, "conservative_forces": conservative, "force_delta": u,
            "temperature": temperature,
        }
    )  # fmt: skip
    assert 0.05 < u < 0.1
    assert ("little in common" in reason) is refused
    assert (guard.refused is not None) is bool(stops) is refused


def test_strain_of_a_cold_structure_is_no_explosion():
    """At 10 K a degree of freedom that relaxes by a few meV is already far beyond the target."""
    rng = np.random.default_rng(1)
    for heat, refused in ((24.0, False), (150.0, True)):
        guard = Guard("auto", burn_in=STEPS, temperature=10.0)
        for step in range(STEPS + 1):
            guard(calm(step, rng, temperature=heat))
        assert (guard.refused is not None) is refused


@pytest.mark.parametrize("cut", [0, STEPS + 1, STEPS + 30, STEPS + 49])
def test_a_run_that_leaves_what_the_burn_in_was_is_stopped_below_the_threshold(cut):
    """Small forces have small Force Deltas, also those of an exploded structure; a restart changes nothing."""
    rng = np.random.default_rng(1)
    guard = Guard(0.5, "auto", burn_in=STEPS, temperature=300.0)
    stops = []
    for step in range(STEPS + 120):
        if step == cut > 0:
            state = json.loads(json.dumps(guard.state_dict()))
            guard = Guard(0.5, "auto", burn_in=STEPS, temperature=300.0)
            guard.load_state_dict(state)
        frame = calm(step, rng)
        if step > STEPS:
            direct, conservative = rng.normal(0, 0.08, (2, 9, 3))
            u = float(np.sqrt(((direct - conservative) ** 2).mean()))
            frame = replace(
                frame, direct_forces=direct, conservative_forces=conservative, force_delta=u
            )
        verdict = guard(frame)
        if verdict.action is Action.STOP:
            stops.append(step)
            assert "little in common" in verdict.reason
            assert "unlike in the burn-in" in verdict.reason
            break
    assert stops == [STEPS + 50]
    assert guard.stop_threshold == 0.5


def test_a_cell_that_doubles_its_volume_is_refused():
    crystal = bulk("Si", cubic=True)
    large = crystal.copy()
    large.set_cell(crystal.cell * 1.3, scale_atoms=True)
    change = lambda step: {"cell": large.cell.array, "positions": large.positions}  # noqa: E731
    _, stops, reason = run(lambda step: change(step) if step > 100 else {}, crystal)
    assert stops == [149]
    assert "the volume changed from 160" in reason


def test_an_atom_that_changes_its_partner_is_no_broken_molecule():
    from ase import Atoms

    # a proton between two oxygen atoms
    start = Atoms("OHO", [[0, 0, 0], [0.98, 0, 0], [2.5, 0, 0]])
    rng = np.random.default_rng(0)
    geometry = Geometry.of(calm(0, rng, start, positions=start.positions))
    moved = start.positions.copy()
    moved[1, 0] = 1.52
    assert geometry.broken(calm(1, rng, start, positions=moved)) is None
    moved[1, 1] = 9.0
    assert "H1" in geometry.broken(calm(1, rng, start, positions=moved))


def correlated(n: int, time: float, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Log-normal values with an integrated autocorrelation time of ``time``."""
    keep = (time - 1) / (time + 1)
    noise = rng.normal(size=n) * np.sqrt(1 - keep**2)
    values = np.empty(n)
    last = rng.normal()
    for i in range(n):
        last = values[i] = keep * last + noise[i]
    return 0.03 * np.exp(spread * values)


@pytest.mark.parametrize("time", [1.0, 10.0, 40.0])
def test_autocorrelation_time(time):
    rng = np.random.default_rng(7)
    found = [autocorrelation_time(np.log(correlated(4000, time, 0.35, rng))) for _ in range(20)]
    assert np.mean(found) == pytest.approx(time, rel=0.15)


def threshold(values: np.ndarray) -> float:
    burn_in = BurnIn(len(values))
    frame = calm(0, np.random.default_rng(0))
    for step, value in enumerate(values):
        burn_in.over(step)
        burn_in.add(replace(frame, step=step), float(value))
    return 2.0 * burn_in.level()[0]


def test_few_calm_runs_cross_their_threshold():
    """40 runs of 6000 steps with the spread and the autocorrelation time of U of acac at 300 K."""
    rng = np.random.default_rng(11)
    runs = [correlated(6000, 35.0, 0.35, rng) for _ in range(40)]
    thresholds = np.array([threshold(values[:1000]) for values in runs])
    largest = np.array([values[1000:].max() for values in runs])
    assert (largest > thresholds).sum() <= 2
    # a blow-up has 1 eV/Å and more, 33 times the median
    assert np.median(thresholds) < 12 * 0.03
    assert thresholds.max() < 33 * 0.03


def test_a_spike_hardly_moves_the_threshold():
    values = correlated(1000, 20.0, 0.3, np.random.default_rng(5))
    spiked = values.copy()
    spiked[700:703] = 0.5
    assert threshold(spiked) == pytest.approx(threshold(values), rel=0.1)


@pytest.mark.parametrize("cut", [1, 55, 399, 400, 401])
@pytest.mark.parametrize("error", [1.0, 12.0])
def test_a_restart_in_the_burn_in_equals_none(cut, error):
    def frames():
        rng = np.random.default_rng(9)
        return [calm(step, rng, error=error if step > 200 else 1.0) for step in range(STEPS + 20)]

    settings: dict[str, Any] = {"burn_in": STEPS, "temperature": 300.0}
    whole = Guard("auto", **settings)
    expected = [whole(frame) for frame in frames()]
    first, second = Guard("auto", **settings), Guard("auto", **settings)
    answers = [first(frame) for frame in frames()[:cut]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    answers += [second(frame) for frame in frames()[cut:]]
    assert answers == expected
    assert second.policy() == whole.policy()
    assert (whole.refused is not None) is (error > 1)


def test_states_of_older_files_load():
    old = {
        "pending": True, "burn_in_start": 0, "burn_in_max": 0.04, "window": [], "frames_without": 0,
        "stop_threshold": None, "flag_threshold": None,
    }  # fmt: skip
    guard = Guard("auto", burn_in=STEPS)
    guard.load_state_dict(old)
    guard(calm(STEPS, np.random.default_rng(0)))
    assert guard.stop_threshold == pytest.approx(0.08)
    done = {**old, "pending": False, "stop_threshold": 0.3, "flag_threshold": 0.2}
    guard.load_state_dict(done)
    assert (guard.stop_threshold, guard.burning_in) == (0.3, False)


def test_a_run_that_goes_on_is_refused_again_and_a_replay_goes_on():
    rng = np.random.default_rng(0)
    for replay in (False, True):
        guard = Guard("auto", burn_in=STEPS)
        guard.open(RunInfo(planned_frames=100 if replay else None))
        assert guard(calm(0, rng, temperature=2e5)).action is Action.STOP
        later = guard(calm(1, rng))
        assert later.action is (Action.CONTINUE if replay else Action.STOP)
        assert guard.burning_in


def test_a_run_shorter_than_its_burn_in_is_an_error():
    chain = HookChain([Guard("auto", burn_in=STEPS)])
    rng = np.random.default_rng(0)
    chain.dispatch(calm(0, rng))
    result = chain.conclude(RunResult("finished", 0, 0.0))
    assert result.reason == "error"
    assert "within the burn-in of 400 steps" in result.message
    interrupted = RunResult("interrupted", 0, 0.0)
    assert chain.conclude(interrupted) is interrupted
    chain.dispatch(calm(STEPS, rng))
    finished = RunResult("finished", STEPS, 0.0)
    assert chain.conclude(finished) is finished


def test_a_threshold_given_as_a_number_holds_in_the_burn_in():
    rng = np.random.default_rng(0)
    guard = Guard(stop_above=0.5, flag_above="auto", burn_in=STEPS)
    assert guard(calm(0, rng)).action is Action.CONTINUE
    assert guard(calm(1, rng, error=25.0)).action is Action.STOP
    guard = Guard(stop_above="auto", flag_above=0.1, burn_in=STEPS)
    assert guard(calm(0, rng, error=5.0)).action is Action.FLAG


def test_a_target_temperature_is_checked():
    from md_hooks import HookError

    with pytest.raises(HookError, match="target in K"):
        Guard("auto", temperature=-1.0)
