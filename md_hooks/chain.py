"""The one dispatcher through which every engine hands its frames to the hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import HookError
from .frame import Frame
from .run_id import new_run_id
from .verdict import CONTINUE, Action, Verdict


def _no_policies() -> list[dict[str, Any]]:
    return []


def _no_states() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class RunInfo:
    """What the hooks are told about a run before its first frame.

    Attributes:
        model: JSON-able facts about the model: name, weights_hash, library, ...
        command: the command line or script that started the run.
        seed: seed of the random numbers.
        settings: any further JSON-able settings (ensemble, temperature in K, timestep in fs, ...).
        versions: library name -> version.
        planned_steps: number of steps that this run is meant to make.
        planned_frames: of a replay, the number of frames that it is meant to show in all.
        frames_before: of a replay that continues, those that it has shown already.
        restart_step: step of the checkpoint from which the run continues; None for a new run.
            Hooks drop what they stored after it and expect the next frame at a later step.
        restart_time: time of that checkpoint, fs.
        run_id: tells the frames of this run from those of others (`md_hooks.run_id`). One is drawn
            for a new run; of a run that continues in a file, the one in the file counts.
        begins_anew: the run has the id of one that was killed before its file held a frame, in
            whose place it begins. Hooks drop what they stored of that one.
        numbers: [N] atomic numbers of the system, so that a wrong file is refused early.
        run_file: the file in which the trajectory is recorded.
        checkpoint: gives the engine's state after the frame being dispatched as a dict of JSON
            values and arrays, or None when there is no consistent state.
        policies: gives the thresholds of the judging hooks, as asked and as resolved so far.
        hook_states: gives the states of the hooks that have one, for a restart.

    The last two are filled by `HookChain`.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    planned_steps: int | None = None
    planned_frames: int | None = None
    frames_before: int = 0
    restart_step: int | None = None
    restart_time: float = 0.0
    run_id: str = ""
    begins_anew: bool = False
    numbers: NDArray[np.integer] | None = None
    run_file: str | None = None
    checkpoint: Callable[[], Mapping[str, Any] | None] | None = None
    policies: Callable[[], list[dict[str, Any]]] = _no_policies
    hook_states: Callable[[], dict[str, Any]] = _no_states

    def summary(self) -> dict[str, Any]:
        """The JSON-able part, as a recorder writes it into its file."""
        return {
            "model": dict(self.model),
            "command": self.command,
            "seed": self.seed,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "planned_steps": self.planned_steps,
            "restart_step": self.restart_step,
            "run_id": self.run_id,
        }


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        reason: "finished", "stopped" (by a hook), "interrupted" (Ctrl-C, SIGTERM) or "error": an
            exception, or a run that made all its steps without a threshold that "auto" should choose.
        step: step of the last frame; -1 when there was none.
        time: its time, fs.
        force_delta: the last U that was computed, eV/Å.
        worst_atom: index of the atom with the largest u_i in the frame that carried that U.
        message: one readable line; for "stopped" the reason of the verdict.
        evaluations: evaluations of the model during the run, where the calculator counts them.
    """

    reason: str
    step: int
    time: float
    force_delta: float | None = None
    worst_atom: int | None = None
    message: str = ""
    evaluations: int | None = None


Hook = Any
"""A callable ``hook(frame) -> Action | Verdict | None``, or an object with ``observe(frame,
verdict)``, or both; with ``open(info)``, ``flush()`` and ``close(result)`` if it wants them, and
``check_files()``, which refuses files that it cannot use before any hook is opened."""


class HookChain:
    """Hands each frame to all judging hooks and then, with their verdict, to all observing ones.

    A judge is a callable; an observer has ``observe(frame, verdict)``. The strongest action wins,
    and the observers see it, so that a recorder can write the frame that stops a run. Whatever the
    order given, a recorder (a hook with ``run_file``) is opened first and observes last.

    Args:
        hooks: the hooks in the order in which they are asked.

    Raises:
        HookError: a hook is neither callable nor an observer.
    """

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self.hooks = list(hooks)
        for hook in self.hooks:
            if isinstance(hook, type) or not (callable(hook) or hasattr(hook, "observe")):
                raise HookError(
                    f"{hook!r} is not a hook: pass a function of a frame, or an instance with "
                    "observe(frame, verdict)"
                )
        self._judges = [hook for hook in self.hooks if callable(hook)]
        # A recorder's checkpoint says that everything up to its step is stored, so it comes after
        # the others; a killed process would else lose what they had not written yet.
        self._observers = [
            hook for hook in sorted(self.hooks, key=_records) if hasattr(hook, "observe")
        ]
        self._opened: list[Hook] = []
        self._failed = False

    def open(self, info: RunInfo) -> None:
        """Tell the hooks about the run. If one refuses, those already open are closed again."""
        run_file = info.run_file
        for hook in self.hooks:
            run_file = run_file or getattr(hook, "run_file", None)
        self._failed = False
        info = replace(
            info,
            run_file=run_file,
            policies=self.policies,
            hook_states=self.state_dict,
            checkpoint=self._unless_failed(info.checkpoint),
        )
        for hook in self.hooks:
            if hasattr(hook, "check_files"):
                hook.check_files()
        # the other way round: a recorder that refuses the run does so before others touch files
        for hook in sorted(self.hooks, key=_records, reverse=True):
            if not (info.run_id or _records(hook) or info.restart_step is not None):
                info = replace(info, run_id=new_run_id())
            try:
                if hasattr(hook, "open"):
                    hook.open(info)
            except BaseException as error:
                self._close_after(error)
                raise
            self._opened.append(hook)
            info = replace(
                info,
                run_id=getattr(hook, "run_id", "") or info.run_id,
                begins_anew=info.begins_anew or getattr(hook, "begins_anew", False),
            )

    def _close_after(self, error: BaseException) -> None:
        try:
            self.close(RunResult("error", -1, 0.0, message=str(error)))
        except Exception as second:  # the first error is the one to report
            error.add_note(f"while closing: {second}")

    def dispatch(self, frame: Frame) -> Verdict:
        """Ask the judges, tell the observers, return the strongest verdict.

        Every observer sees the frame even when another one raises; the first error is raised
        after them.
        """
        strongest = CONTINUE
        for judge in self._judges:
            verdict = _as_verdict(judge, judge(frame))
            if verdict.action > strongest.action:
                strongest = verdict
            elif verdict.action == strongest.action != Action.CONTINUE:
                both = "; ".join(part for part in (strongest.reason, verdict.reason) if part)
                strongest = replace(strongest, reason=both)
        self._each(self._observers, "observe", frame, strongest)
        return strongest

    def flush(self) -> None:
        """Ask the hooks to put on disk what they hold back."""
        self._each(sorted(self._opened, key=_records), "flush")

    def conclude(self, result: RunResult) -> RunResult:
        """The result of a run that is over; an error where a hook could not do its task in it.

        Asked are the hooks with ``unresolved() -> str | None``.
        """
        if result.reason != "finished":
            return result
        asked = (hook.unresolved() for hook in self.hooks if hasattr(hook, "unresolved"))
        words = [why for why in asked if why]
        return replace(result, reason="error", message="; ".join(words)) if words else result

    def close(self, result: RunResult) -> None:
        """Close every hook that was opened, even when one raises; then raise the first error."""
        opened, self._opened = self._opened, []
        self._each(sorted(opened, key=_records), "close", result)

    def _unless_failed(
        self, checkpoint: Callable[[], Mapping[str, Any] | None] | None
    ) -> Callable[[], Mapping[str, Any] | None] | None:
        """No checkpoint once a hook failed: it says that all have stored what led to it.

        A restart then begins before the failure, and what the hook could not store is stored.
        """
        if checkpoint is None:
            return None
        return lambda: None if self._failed else checkpoint()

    def _each(self, hooks: list[Hook], method: str, *args: Any) -> None:
        first: Exception | None = None
        for hook in hooks:
            function = getattr(hook, method, None)
            if function is None:
                continue
            try:
                function(*args)
            except Exception as error:
                self._failed = True
                first = first or error
        if first is not None:
            raise first

    def policies(self) -> list[dict[str, Any]]:
        """The policies of the hooks that have one (``policy() -> dict``)."""
        return [hook.policy() for hook in self.hooks if hasattr(hook, "policy")]

    def state_dict(self) -> dict[str, Any]:
        """The states of the hooks that have one, JSON-able, by position in the chain and class."""
        return {name: hook.state_dict() for name, hook in self._stateful()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Give the hooks back the states of `state_dict`; hooks without one start afresh."""
        for name, hook in self._stateful():
            if name in states:
                hook.load_state_dict(states[name])

    def _stateful(self) -> list[tuple[str, Hook]]:
        count: dict[str, int] = {}
        named = []
        for hook in self.hooks:
            if hasattr(hook, "state_dict"):
                kind = type(hook).__name__
                named.append((f"{kind}{count.get(kind, 0)}", hook))
                count[kind] = count.get(kind, 0) + 1
        return named


def _records(hook: Hook) -> bool:
    return hasattr(hook, "run_file")


def _as_verdict(judge: Hook, answer: object) -> Verdict:
    if answer is None:
        return CONTINUE
    if isinstance(answer, Verdict):
        return answer
    if isinstance(answer, Action):
        name = getattr(judge, "__name__", type(judge).__name__)
        return Verdict(answer, f"{name} said {answer.name.lower()}")
    raise HookError(f"the hook {judge!r} returned {answer!r}: return an Action, a Verdict or None")
