"""The dispatcher between engines and hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .errors import HookError
from .frame import Frame
from .hook import AnyHook, ForeignHook, Hook
from .legs import ENDS, LegEnd, Marks, leg_before
from .predicted_error import PREDICTED_ATOMS
from .run_id import new_run_id
from .run_info import RunInfo, RunResult
from .verdict import CONTINUE, Action, Verdict

_RUNNING: Marks[weakref.ref[HookChain]] = Marks()
"""The chain that has opened a hook, while it is open."""


class HookChain:
    """Passes each frame to all judging hooks and then, with their verdict, to all observing ones.

    The strongest action wins, and the observers see it: a recorder stores the frame that stops a
    run.

    Another run with the same chain, or with a chain of the same `Hook` objects, is a further leg of the
    run (`md_hooks.legs`).

    Args:
        hooks: in the order in which they judge and observe; see `AnyHook`. A recorder observes last.

    Attributes:
        hooks: as given.

    Raises:
        HookError: a hook is neither callable nor an observer.
    """

    def __init__(self, hooks: Iterable[AnyHook]) -> None:
        self._loaded: Mapping[str, Any] = {}
        self._opened: list[Hook] = []
        self._failed = False
        self._info = RunInfo()
        self._last: Frame | None = None
        self._take(list(hooks))
        self._given = list(self._hooks)

    def _take(self, hooks: list[AnyHook]) -> None:
        self.hooks = hooks
        self._hooks = [_as_hook(hook) for hook in self.hooks]
        # A recorder's checkpoint states that everything up to its step is stored, so it comes after
        # the others: otherwise a killed process would lose what they had not written yet.
        self._recorder_last = sorted(self._hooks, key=_records)
        self._annotators = [
            hook
            for hook in self._hooks
            if _overrides(hook, "annotate") or _overrides(hook, "annotate_atoms")
        ]
        self._judges = [hook for hook in self._hooks if _overrides(hook, "__call__")]
        self._observers = [hook for hook in self._recorder_last if _overrides(hook, "observe")]

    def add_first(self, hook: AnyHook | None) -> None:
        """Put a hook before all others, before the run: that of a calculator, which is in every chain.

        It gets its part of the states that were loaded.

        Args:
            hook: nothing happens if it is in the chain already, or None.
        """
        if hook is None or any(hook is given for given in self.hooks):
            return
        self._take([hook, *self.hooks])
        for name, added, _ in self._states():
            if added is self._hooks[0] and name in self._loaded:
                added.load_state_dict(self._loaded[name])

    def leg_before(self, info: RunInfo) -> LegEnd | None:
        """The leg that a run with this ``info`` continues, if hooks were used before; see `md_hooks.legs`."""
        return leg_before(self._given, info)

    def open(self, info: RunInfo) -> RunInfo:
        """Open the hooks with ``info``. If one refuses, those already open are closed again.

        Returns:
            what the hooks were told last: of a further leg, with its number and ``restart_step``.

        Raises:
            RunStoppedError: a hook stopped the leg before.
            HookError: a hook refuses the run, was used in another one, or is still in one.
        """
        self._check_free()
        before = self.leg_before(info)
        if before is not None:
            info = before.continued(info)
        self._last = None if before is None else before.frame
        run_file = info.run_file
        for hook in self._hooks:
            run_file = run_file or hook.run_file
        self._failed = False
        info = replace(
            info,
            run_file=run_file,
            policies=self.policies,
            hook_states=self.state_dict,
            checkpoint=self._unless_failed(info.checkpoint),
        )
        self._info = info
        for hook in self._hooks:
            hook.check_files()
        # recorders first: one that refuses the run does so before other hooks touch files
        leg = info.leg
        for hook in sorted(self._hooks, key=_records, reverse=True):
            if not _records(hook):
                info = replace(info, leg=leg)
            if not (info.run_id or _records(hook) or info.restart_step is not None):
                info = replace(info, run_id=new_run_id())
            try:
                hook.open(info)
            except BaseException as error:
                self._close_after(error)
                raise
            self._opened.append(hook)
            _RUNNING.put(hook, weakref.ref(self))
            info = replace(
                info,
                run_id=hook.run_id or info.run_id,
                begins_anew=info.begins_anew or hook.begins_anew,
            )
            leg = max(leg, hook.leg)
        self._info = replace(info, leg=leg)
        return self._info

    def _check_free(self) -> None:
        """Refuse hooks of a run that was not closed: the next leg would begin before its end is known."""
        for hook in self._given:
            running = _RUNNING.get(hook)
            chain = None if running is None else running()
            if chain is not None and any(hook is opened for opened in chain._opened):
                raise HookError(
                    f"{type(hook).__name__} is still in a run: close the handle of its attach() first, or "
                    "pass another hook"
                )

    def _close_after(self, error: BaseException) -> None:
        self._last = None  # no leg began
        try:
            self.close(RunResult("error", -1, 0.0, message=str(error)))
        except Exception as second:  # the first error is the one to report
            error.add_note(f"while closing: {second}")

    def dispatch(self, frame: Frame) -> Verdict:
        """Annotate and judge a frame, show it to the observers and return the strongest verdict.

        Every observer sees the frame even if another one raises; the first error is raised
        afterwards.
        """
        for hook in self._annotators:
            extra = {**frame.extra, **hook.annotate(frame)}
            frame = replace(frame, extra=extra, **_of_atoms(hook, frame))
        self._last = frame
        strongest = CONTINUE
        for judge in self._judges:
            verdict = _as_verdict(judge, judge(frame))
            if verdict.action > strongest.action:
                strongest = verdict
            elif verdict.action == strongest.action != Action.CONTINUE:
                reasons = dict.fromkeys((strongest.reason, verdict.reason))  # two guards: one NaN
                both = "; ".join(part for part in reasons if part)
                strongest = replace(strongest, reason=both)
        self._each(self._observers, "observe", frame, strongest)
        return strongest

    def flush(self) -> None:
        """Have the hooks write their buffers to disk."""
        self._each(sorted(self._opened, key=_records), "flush")

    def conclude(self, result: RunResult) -> RunResult:
        """The result of a finished run; an error if a hook could not do its task."""
        if not result.completed:
            return result
        reasons = [why for why in (hook.unresolved() for hook in self._hooks) if why]
        return replace(result, reason="error", message="; ".join(reasons)) if reasons else result

    def close(self, result: RunResult) -> None:
        """Close every open hook with the ``result``, even if one raises; then raise the first error."""
        opened, self._opened = self._opened, []
        try:
            self._each(sorted(opened, key=_records), "close", result)
        finally:
            self._note_end(opened, result)

    def _note_end(self, hooks: list[Hook], result: RunResult) -> None:
        """Tell the hooks where the leg ended, for the next one."""
        info, last = self._info, self._last
        end = None
        if last is not None and info.planned_frames is None:
            end = LegEnd(info.run_id, info.leg, last, result, info.model)
        for hook in hooks:
            _RUNNING.drop(hook)
            if end is not None and any(hook is given for given in self._given):
                ENDS.put(hook, end)

    def _unless_failed(
        self, checkpoint: Callable[[], Mapping[str, Any] | None] | None
    ) -> Callable[[], Mapping[str, Any] | None] | None:
        """No checkpoint once a hook failed: a checkpoint states that all hooks have stored their data.

        A restart then begins before the failure and repeats the steps that the hook missed.
        """
        if checkpoint is None:
            return None
        return lambda: None if self._failed else checkpoint()

    def _each(self, hooks: list[Hook], method: str, *args: Any) -> None:
        first: Exception | None = None
        for hook in hooks:
            try:
                getattr(hook, method)(*args)
            except Exception as error:
                self._failed = True
                first = first or error
        if first is not None:
            raise first

    def policies(self) -> list[dict[str, Any]]:
        """The policies of all hooks with thresholds."""
        return [policy for policy in (hook.policy() for hook in self._hooks) if policy is not None]

    def state_dict(self) -> dict[str, Any]:
        """The states of all hooks with a state, JSON-able, keyed by class and index in that class."""
        return {name: state for name, _, state in self._states()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Restore the states of `state_dict`; hooks that are not in it start afresh."""
        self._loaded = states
        for name, hook, _ in self._states():
            if name in states:
                hook.load_state_dict(states[name])

    def _states(self) -> list[tuple[str, Hook, dict[str, Any]]]:
        count: dict[str, int] = {}
        named = []
        for given, hook in zip(self.hooks, self._hooks, strict=True):
            state = hook.state_dict()
            if state is not None:
                kind = hook.state_name or type(given).__name__
                named.append((f"{kind}{count.get(kind, 0)}", hook, state))
                count[kind] = count.get(kind, 0) + 1
        return named


def _as_hook(given: Any) -> Hook:
    if isinstance(given, Hook):
        return given
    if isinstance(given, type) or not (callable(given) or hasattr(given, "observe")):
        raise HookError(
            f"{given!r} is not a hook: pass a function of a frame, or an instance with "
            "observe(frame, verdict)"
        )
    return ForeignHook(given)


def _overrides(hook: Hook, method: str) -> bool:
    """Whether a hook overrides a method; the others need not be called at every step."""
    if isinstance(hook, ForeignHook):
        return callable(hook.hook) if method == "__call__" else hasattr(hook.hook, method)
    return getattr(type(hook), method) is not getattr(Hook, method)


def _of_atoms(hook: Hook, frame: Frame) -> Mapping[str, Any]:
    """What a hook tells of the atoms of a frame, checked."""
    told = hook.annotate_atoms(frame)
    for name, values in told.items():
        if name not in PREDICTED_ATOMS or np.shape(values) != frame.numbers.shape:
            asked = hook.hook if isinstance(hook, ForeignHook) else hook
            raise HookError(
                f"annotate_atoms of {type(asked).__name__} returned {name} of the shape {np.shape(values)}: "
                f"return values of {len(frame.numbers)} atoms for {', '.join(PREDICTED_ATOMS)}"
            )
    return told


def _records(hook: Hook) -> bool:
    return hook.run_file is not None


def _as_verdict(judge: Hook, answer: object) -> Verdict:
    if answer is None:
        return CONTINUE
    if isinstance(answer, Verdict):
        return answer
    asked = judge.hook if isinstance(judge, ForeignHook) else judge
    if isinstance(answer, Action):
        name = getattr(asked, "__name__", type(asked).__name__)
        return Verdict(answer, f"{name} returned {answer.name.lower()}")
    raise HookError(f"the hook {asked!r} returned {answer!r}: return an Action, a Verdict or None")
