"""The sentinel on paths of a known field: its estimate is U, and its decisions are few and repeatable."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from forcedelta.evaluation import Evaluation
from forcedelta.sentinel import AT_LEAST_EVERY, FEWEST, Sentinel
from md_hooks import Guard, HookChain, RunInfo

ATOMS = 12
CELL = np.diag([7.0, 8.0, 9.0])
NO_CELL, FREE, PERIODIC = np.zeros((3, 3)), np.zeros(3, bool), np.ones(3, bool)


@dataclass
class Walk:
    """Atoms on springs on a random walk; the direct forces are wrong by a field of known size.

    E = 1/2 k r^2 and F_c = -k r; F_nc = F_c + d with a new direction of d at each step, so that w of a
    step is the mean d of its ends times dr.
    """

    seed: int = 0
    noise: float = 0.0
    cell: NDArray[np.float64] = field(default_factory=lambda: NO_CELL)
    wrapped: bool = False
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.positions = self.rng.normal(size=(ATOMS, 3))
        self.field = self.rng.normal(size=(ATOMS, 3))

    def step(self, u: float) -> tuple[float, Any, Any, Any, Any, Evaluation]:
        """Arguments of `Sentinel.see` for the next step, and the exact evaluation there."""
        self.positions = self.positions + self.rng.normal(scale=0.01, size=(ATOMS, 3))
        self.field = 0.9 * self.field + math.sqrt(0.19) * self.rng.normal(size=(ATOMS, 3))
        wrong = self.field * (u / math.sqrt(np.mean(self.field**2)))
        energy = 0.5 * float((self.positions**2).sum()) + self.noise * self.rng.normal()
        direct = wrong - self.positions
        deltas = np.sqrt((wrong**2).mean(axis=1))
        shown = self.positions + np.array(self.offset)
        if self.wrapped:
            shown = shown % np.diag(self.cell)
        pbc = PERIODIC if self.cell.any() else FREE
        exact = Evaluation(energy, direct, -self.positions, deltas, u)
        return energy, direct, shown, self.cell, pbc, exact


def watch(sentinel: Sentinel, walk: Walk, u: float) -> tuple[bool, float]:
    """One evaluation: whether it was exact, and the estimate."""
    due = sentinel.due
    *seen, exact = walk.step(u)
    asked = sentinel.see(*seen)
    assert asked or not due
    if asked:
        sentinel.confirm(exact)
    return asked, sentinel.estimate


def guarded(**thresholds: Any) -> Sentinel:
    sentinel = Sentinel()
    chain = HookChain([Guard(**thresholds)])
    chain.add_first(sentinel)
    chain.open(RunInfo())
    return sentinel


def test_the_estimate_is_u_within_its_scatter():
    sentinel, walk = guarded(stop_above=10.0), Walk()
    estimates = np.array([watch(sentinel, walk, 0.1)[1] for _ in range(1500)])
    assert np.isnan(estimates[:FEWEST]).all()
    calm = estimates[FEWEST + 50 :]
    assert np.median(calm) == pytest.approx(0.1, rel=0.2)
    assert calm.std() < 0.05
    # the scale is kept: three times U is three times the estimate, before any exact evaluation tells
    grown = []
    for _ in range(AT_LEAST_EVERY - 2):
        *seen, _ = walk.step(0.3)
        sentinel.see(*seen)
        grown.append(sentinel.estimate)
    assert np.mean(grown[10:]) == pytest.approx(0.3, rel=0.35)


def test_calm_evaluations_are_exact_on_schedule_only():
    sentinel, walk = guarded(stop_above=10.0), Walk()
    exact = [watch(sentinel, walk, 0.1)[0] for _ in range(FEWEST + 1 + 20 * AT_LEAST_EVERY)]
    assert all(exact[:FEWEST])
    assert sentinel.firings == 0
    assert np.diff(np.flatnonzero(exact)).max() == AT_LEAST_EVERY
    assert sentinel.exact_evaluations == sum(exact) == FEWEST + 1 + 20
    assert sentinel.evaluations == len(exact)


@pytest.mark.parametrize(
    "thresholds", [{"stop_above": 1.0}, {"stop_above": 2.0, "on": "worst_atom"}]
)
def test_no_step_above_the_threshold_is_missed_where_u_grows(thresholds):
    """U grows by 3 % a step from a tenth of the threshold: faster than in any heating ramp."""
    for seed in range(20):
        sentinel, walk = guarded(**thresholds), Walk(seed)
        for _ in range(100 + seed):
            watch(sentinel, walk, 0.1)
        u, late, fired = 0.1, 0, sentinel.firings
        while late <= 10:
            u *= 1.03
            due = sentinel.due
            *seen, exact = walk.step(u)
            asked = sentinel.see(*seen) or due
            if asked:
                sentinel.confirm(exact)
            value = exact.force_deltas.max() if "on" in thresholds else u
            late = late + 1 if value > thresholds["stop_above"] else 0
            if late and asked:
                break
        assert 0 < late <= 5
        assert sentinel.firings > fired


def test_near_a_threshold_every_evaluation_is_exact():
    sentinel, walk = guarded(stop_above=10.0, flag_above=0.12), Walk()
    exact = [watch(sentinel, walk, 0.1)[0] for _ in range(200)]  # 0.83 of the lowest threshold
    assert all(exact)


def test_a_noisy_energy_does_not_fire_for_ever():
    """Noise that makes 30 times the work of U: at first estimates follow it, then their scale does."""
    for noise in (0.0, 0.01, 0.1):
        sentinel, walk = guarded(stop_above=1.0), Walk(noise=noise)
        for _ in range(5000):
            watch(sentinel, walk, 0.1)
        assert sentinel.firings < 0.02 * sentinel.evaluations
        assert sentinel.exact_evaluations < 0.1 * sentinel.evaluations
        assert 0 <= sentinel.false_firings <= sentinel.firings


def test_noise_that_begins_in_the_run_is_learned():
    sentinel, walk = guarded(stop_above=1.0), Walk()
    for _ in range(500):
        watch(sentinel, walk, 0.1)
    walk.noise = 0.1
    exact = [watch(sentinel, walk, 0.1)[0] for _ in range(6000)]
    assert sentinel.false_firings > 0
    assert np.mean(exact[-3000:]) < 0.15


def test_atoms_wrapped_into_the_cell_change_nothing():
    whole, wrapped = Walk(cell=CELL), Walk(cell=CELL, wrapped=True)
    one, other = guarded(stop_above=0.3), guarded(stop_above=0.3)
    jumps = 0
    before = None
    for k in range(600):
        u = 0.05 + 0.1 * math.sin(0.01 * k) ** 2
        first, second = watch(one, whole, u), watch(other, wrapped, u)
        assert first[0] == second[0]
        np.testing.assert_allclose(first[1], second[1], rtol=1e-6)
        shown = wrapped.positions % np.diag(CELL)
        jumps += before is not None and int(np.abs(shown - before).max() > 3)
        before = shown
    assert jumps > 5
    assert one.firings > 0


def test_a_new_cell_adds_no_work():
    """The work of a barostat, which scales the positions, is not that of the forces."""
    sentinel, walk = guarded(stop_above=10.0), Walk(cell=CELL)
    for _ in range(100):
        watch(sentinel, walk, 0.1)
    estimate = sentinel.estimate
    walk.cell = CELL * 1.01
    walk.positions = walk.positions * 1.01
    assert watch(sentinel, walk, 0.1)[1] == estimate


@pytest.mark.parametrize("spoiled", ["energy", "forces", "positions"])
def test_what_is_not_finite_is_exact_at_once(spoiled):
    sentinel, walk = guarded(stop_above=10.0), Walk()
    while sentinel.evaluations < 50 or sentinel.due:
        watch(sentinel, walk, 0.1)
    energy, direct, positions, cell, pbc, _ = walk.step(0.1)
    nan = {
        "energy": (math.nan, direct, positions),
        "forces": (energy, direct * math.nan, positions),
        "positions": (energy, direct, positions * math.nan),
    }
    assert sentinel.see(*nan[spoiled], cell, pbc)


def test_until_a_guard_has_its_automatic_threshold_every_evaluation_is_exact():
    chosen: list[dict[str, Any]] = [
        {"on": "force_delta", "stop_above": "auto", "stop_threshold": None}
    ]
    sentinel, walk = Sentinel(), Walk()
    sentinel.open(RunInfo(policies=lambda: chosen))
    assert all(watch(sentinel, walk, 0.1)[0] for _ in range(80))
    chosen[0] = {**chosen[0], "stop_threshold": 5.0}
    assert not all(watch(sentinel, walk, 0.1)[0] for _ in range(5))


def test_runs_without_thresholds_look_for_an_unusual_u():
    sentinel, walk = Sentinel(), Walk()
    calm = [watch(sentinel, walk, 0.1)[0] for _ in range(500)]
    assert np.mean(calm) < 0.1
    u, fired = 0.1, sentinel.firings
    for _ in range(40):
        u *= 1.08
        watch(sentinel, walk, u)
    assert sentinel.firings > fired


@pytest.mark.parametrize("at", [15, 64, 133, 150])
def test_a_restored_state_repeats_every_decision(at):
    def path(k: int) -> float:
        return 0.1 + 0.25 * math.sin(0.05 * k) ** 2

    first, walk = guarded(stop_above=0.8), Walk(3)
    whole = [watch(first, walk, path(k)) for k in range(400)]
    assert first.firings > 3

    begun, walk = guarded(stop_above=0.8), Walk(3)
    for k in range(at):
        watch(begun, walk, path(k))
    state = json.loads(json.dumps(begun.state_dict()))
    continued = guarded(stop_above=0.8)
    continued.load_state_dict(state)
    continued.begin()  # as a calculator does that sees its first structure
    counts = continued.counts()
    again = Walk(3)
    for k in range(at - 1):
        again.step(path(k))
    asked, _ = watch(continued, again, path(at - 1))  # the configuration of the checkpoint
    assert asked == whole[at - 1][0]
    assert continued.counts() == counts
    rest = [watch(continued, again, path(k)) for k in range(at, 400)]
    np.testing.assert_array_equal(np.array(rest), np.array(whole[at:]))
    assert continued.state_dict() == first.state_dict()


def test_another_system_begins_anew():
    sentinel, walk = guarded(stop_above=10.0), Walk()
    for _ in range(100):
        watch(sentinel, walk, 0.1)
    sentinel.begin()
    assert all(watch(sentinel, Walk(5), 0.1)[0] for _ in range(FEWEST))
    assert sentinel.evaluations == 100 + FEWEST


def test_a_jump_to_another_path_is_exact_and_adds_no_work():
    sentinel, walk = guarded(stop_above=10.0), Walk()
    while sentinel.evaluations < 100 or sentinel.due:
        watch(sentinel, walk, 0.1)
    walk.positions = walk.positions[::-1] + 3.0
    asked, estimate = watch(sentinel, walk, 0.1)
    assert asked
    assert np.isnan(estimate)
    assert 0.02 < watch(sentinel, walk, 0.1)[1] < 0.5
