"""The guard's thresholds: direction, equality, NaN, patience, burn-in, order, restart."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers import frame, frames

from md_hooks import Action, Guard, Hook, HookChain, HookError, Verdict


@pytest.mark.parametrize(
    ("u", "action"),
    [
        (0.1, Action.CONTINUE),
        (0.2, Action.CONTINUE),  # equal is not above
        (np.nextafter(0.2, 1), Action.FLAG),
        (0.4, Action.FLAG),
        (np.nextafter(0.4, 1), Action.STOP),
        (1e9, Action.STOP),
        (math.nan, Action.STOP),
        (math.inf, Action.STOP),
    ],
)
def test_band(u, action):
    assert Guard(stop_above=0.4, flag_above=0.2)(frame(u=u)).action is action


def test_reason_names_everything():
    verdict = Guard(stop_above=0.4)(frame(step=12, u=0.5))
    for part in ("step 12", "6 fs", "U 0.5 eV/Å", "0.4 eV/Å", "atom 2 (O)"):
        assert part in verdict.reason
    assert (verdict.quantity, verdict.value, verdict.threshold) == ("force_delta", 0.5, 0.4)


def test_worst_atom_instead_of_mean():
    guard = Guard(stop_above=0.4, on="worst_atom")
    assert guard(frame(u=0.5, worst=0.4)).action is Action.CONTINUE
    verdict = guard(frame(u=0.1, worst=0.41, atom=1))
    assert verdict.action is Action.STOP
    assert "atom 1 (H)" in verdict.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"energy": math.nan},
        {"energy": -math.inf},
        {"temperature": math.nan},
        {"forces": np.full((4, 3), np.inf)},
        {"forces": np.array([[0, 0, 0], [0, 0, 0], [math.inf, -math.inf, 0], [0, 0, 0]])},
        {"positions": np.full((4, 3), np.nan)},
        {"force_delta": math.nan},
        {"force_deltas": np.full(4, np.nan)},
        {"force_delta": None, "force_deltas": None, "energy": math.nan},
    ],
)
@pytest.mark.parametrize(
    "guard",
    [
        Guard(),
        Guard(stop_above=1e6, patience=(3, 5)),
        Guard(stop_above="auto", burn_in=10_000),
    ],
    ids=["none", "patience", "burn-in"],
)
def test_not_finite_always_stops(guard, changes):
    verdict = guard(frame(**changes))
    assert verdict.action is Action.STOP
    assert "not finite" in verdict.reason


def test_threshold_zero_is_a_threshold():
    assert Guard(stop_above=0)(frame(u=1e-12)).action is Action.STOP
    assert Guard(flag_above=0.0)(frame(u=1e-12)).action is Action.FLAG
    assert Guard(stop_above=0)(frame(u=0.0)).action is Action.CONTINUE


def test_zero_kelvin_is_a_temperature():
    assert Guard(stop_above=1.0)(frame(temperature=0.0)).action is Action.CONTINUE


def test_patience_counts_only_frames_with_u():
    guard = Guard(stop_above=0.4, patience=(2, 3))
    values = [0.5, None, 0.1, 0.2, 0.5, None, None, 0.1, 0.5]
    actions = [guard(frame(step=i, u=u)).action for i, u in enumerate(values)]
    assert actions[:-1] == [Action.CONTINUE] * 8
    assert actions[-1] is Action.STOP


def test_an_unphysical_frame_is_not_flagged_while_waiting():
    guard = Guard(stop_above=0.4, flag_above=0.2, patience=(2, 2))
    assert guard(frame(u=0.9)).action is Action.CONTINUE
    assert guard(frame(step=1, u=0.3)).action is Action.FLAG


def test_auto_takes_the_largest_of_the_burn_in():
    guard = Guard(stop_above="auto", burn_in=10)
    for step in range(10):
        assert guard(frame(step=step, u=0.1 + 0.01 * step)).action is Action.CONTINUE
        assert guard.burning_in
        assert guard.stop_threshold is None
    assert guard(frame(step=10, u=0.25)).action is Action.CONTINUE
    assert guard.stop_threshold == pytest.approx(2 * 0.19)
    assert guard.flag_threshold == pytest.approx(1.5 * 0.19)
    assert guard(frame(step=11, u=0.3)).action is Action.FLAG
    assert guard(frame(step=12, u=0.39)).action is Action.STOP


def test_auto_never_stops_in_the_burn_in_and_judges_the_first_after_it():
    guard = Guard(stop_above="auto", burn_in=3)
    assert guard(frame(step=0, u=0.1)).action is Action.CONTINUE
    assert guard(frame(step=1, u=50.0)).action is Action.CONTINUE
    guard = Guard(stop_above="auto", burn_in=1)
    guard(frame(step=0, u=0.1))
    assert guard(frame(step=1, u=50.0)).action is Action.STOP


def test_auto_counts_from_the_first_frame():
    guard = Guard(stop_above="auto", burn_in=5)
    for step in range(1000, 1005):
        guard(frame(step=step))
    assert guard.burning_in
    guard(frame(step=1005))
    assert not guard.burning_in


@pytest.mark.parametrize("u", [0.0, None])
def test_auto_without_anything_to_measure_is_an_error(u):
    guard = Guard(stop_above="auto", burn_in=2)
    guard(frame(step=0, u=u))
    with pytest.raises(HookError, match="pass stop_above as a number"):
        guard(frame(step=2, u=0.1))


def test_guard_that_sees_no_u_says_so():
    guard = Guard(stop_above=1.0)
    for step in range(999):
        guard(frame(step=step, u=None))
    with pytest.raises(HookError, match="carried no Force Delta"):
        guard(frame(step=999, u=None))


def test_guard_without_thresholds_needs_no_u():
    guard = Guard()
    for step in range(2000):
        assert guard(frame(step=step, u=None)).action is Action.CONTINUE


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"stop_above": 0.2, "flag_above": 0.4}, "swap"),
        ({"stop_above": 0.2, "flag_above": 0.2}, "must lie below"),
        ({"stop_above": -1.0}, ">= 0"),
        ({"stop_above": math.nan}, "number"),
        ({"stop_above": True}, "number"),
        ({"flag_above": "automatic"}, "'auto'"),
        ({"stop_above": 1.0, "patience": (3, 2)}, "k <= n"),
        ({"stop_above": 1.0, "patience": (0, 2)}, "k <= n"),
        ({"stop_above": "auto", "factor": 1.0}, "swap"),
        ({"stop_above": "auto", "burn_in": 0}, "at least 1"),
        ({"stop_above": 1.0, "on": "energy"}, "worst_atom"),
    ],
)
def test_nonsense_is_refused(arguments, match):
    with pytest.raises(HookError, match=match):
        Guard(**arguments)


@pytest.mark.parametrize("cut", [3, 10, 14])
def test_state_makes_a_restart_equal_to_none(cut):
    rng = np.random.default_rng(2)
    values = np.abs(rng.normal(0.1, 0.05, 40)) * np.linspace(1, 3, 40)
    settings = {"stop_above": "auto", "patience": (2, 4), "burn_in": 8, "factor": 1.6}
    whole = Guard(**settings)
    expected = [whole(frame(step=i, u=u)).action for i, u in enumerate(values)]
    assert Action.FLAG in expected
    first = Guard(**settings)
    actions = [first(frame(step=i, u=u)).action for i, u in enumerate(values[:cut])]
    second = Guard(**settings)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    actions += [second(frame(step=i + cut, u=u)).action for i, u in enumerate(values[cut:])]
    assert actions == expected
    assert second.stop_threshold == whole.stop_threshold


def test_new_numbers_win_over_an_old_state():
    old = Guard(stop_above=0.4)
    new = Guard(stop_above=0.6)
    new.load_state_dict(old.state_dict())
    assert new.stop_threshold == 0.6


class Watcher:
    def __init__(self, fail=False):
        self.seen = []
        self.closed = 0
        self.fail = fail

    def observe(self, frame, verdict):
        self.seen.append((frame.step, verdict.action))
        if self.fail:
            raise RuntimeError("observer broke")

    def close(self, result):
        self.closed += 1
        if self.fail:
            raise RuntimeError("close broke")


def test_chain_strongest_wins_and_observers_come_last():
    watcher = Watcher()
    chain = HookChain([watcher, lambda f: Action.FLAG, Guard(stop_above=0.1), lambda f: None])
    verdict = chain.dispatch(frame(u=0.2))
    assert verdict.action is Action.STOP
    assert "U 0.2" in verdict.reason
    assert watcher.seen == [(0, Action.STOP)]


def test_chain_every_observer_sees_and_every_hook_closes():
    from md_hooks import RunInfo, RunResult

    bad, good = Watcher(fail=True), Watcher()
    chain = HookChain([bad, good])
    chain.open(RunInfo())
    with pytest.raises(RuntimeError, match="observer broke"):
        chain.dispatch(frame())
    with pytest.raises(RuntimeError, match="close broke"):
        chain.close(RunResult("finished", 0, 0.0))
    assert len(good.seen) == 1
    assert good.closed == 1


@pytest.mark.parametrize("answer", [True, 2, "stop"])
def test_other_answers_are_refused(answer):
    with pytest.raises(HookError, match="return an Action"):
        HookChain([lambda f: answer]).dispatch(frame())


def test_what_is_not_a_hook_is_refused():
    for thing in (3, Guard):
        with pytest.raises(HookError, match="is not a hook"):
            HookChain([thing])


def test_a_verdict_has_no_truth_value():
    with pytest.raises(TypeError, match="action"):
        bool(Verdict(Action.STOP))


def test_a_recorder_opens_first_and_commits_last():
    from md_hooks import RunInfo, RunResult

    calls = []

    class Hook:
        def __init__(self, name):
            self.name = name

        def open(self, info):
            calls.append(("open", self.name))

        def observe(self, frame, verdict):
            calls.append(("observe", self.name))

        def flush(self):
            calls.append(("flush", self.name))

        def close(self, result):
            calls.append(("close", self.name))

    recording, other = Hook("recorder"), Hook("other")
    recording.run_file = "run.h5"
    chain = HookChain([recording, other])
    chain.open(RunInfo())
    chain.dispatch(frame())
    chain.flush()
    chain.close(RunResult("finished", 0, 0.0))
    assert calls[:2] == [("open", "recorder"), ("open", "other")]
    for method, (first, last) in zip(
        ("observe", "flush", "close"), zip(calls[2::2], calls[3::2], strict=True), strict=True
    ):
        assert (first, last) == ((method, "other"), (method, "recorder"))


def test_chain_a_hook_added_first_gets_its_part_of_the_loaded_states():
    class Counts(Hook):
        count = 0

        def observe(self, frame, verdict):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    first, before = Counts(), HookChain([Guard(stop_above=1.0)])
    before.add_first(first)
    before.add_first(first)  # is in it already
    before.add_first(None)
    assert before.hooks[0] is first
    assert len(before.hooks) == 2
    for at in frames(0, 1, 2):
        before.dispatch(at)
    again, after = Counts(), HookChain([Guard(stop_above=1.0)])
    after.load_state_dict(before.state_dict())
    after.add_first(again)
    assert again.count == 3
    after.dispatch(frame(step=3))
    assert again.count == 4
