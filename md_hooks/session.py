"""One run with its hooks, for any engine: the last frame, the outcome, closing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .chain import HookChain
from .frame import Frame
from .run_info import RunInfo, RunResult
from .verdict import Action, Verdict


class Session:
    """Hands the frames of a run to its hooks and determines its result.

    Args:
        chain: the hooks.
        evaluations: gives the number of evaluations of the model so far; None if they are not counted.
        replay: the frames are those of a stored trajectory, which may be too short for the hooks.
        monitoring: gives the counts of adaptive monitoring; None without it.

    Attributes:
        chain: the hooks.
        last: the last frame.
        stopped: the verdict that stopped the run, if any.
        interrupted: the reason of an interruption, "" without one.
        between_steps: whether the engine's state is that of the last frame.
        result: the outcome; None until the run has ended.
    """

    def __init__(
        self,
        chain: HookChain,
        evaluations: Callable[[], int | None] = lambda: None,
        replay: bool = False,
        monitoring: Callable[[], Mapping[str, int] | None] = lambda: None,
    ) -> None:
        self.chain = chain
        self.last: Frame | None = None
        self.stopped: Verdict | None = None
        self.interrupted = ""
        self.between_steps = True
        self.result: RunResult | None = None
        self._last_with_u: Frame | None = None
        self._evaluations = evaluations
        self._evaluations_before = evaluations()
        self._replay = replay
        self._monitoring = monitoring

    def open(self, info: RunInfo) -> None:
        """Open the hooks."""
        self.chain.open(info)

    def count_from_now(self) -> None:
        """Restart the count of model evaluations."""
        self._evaluations_before = self._evaluations()

    @property
    def over(self) -> bool:
        """Whether the run should make no further step."""
        return self.stopped is not None or bool(self.interrupted)

    @property
    def reason(self) -> str:
        """Why the run should make no further step; "" if it should."""
        return self.interrupted or ("" if self.stopped is None else self.stopped.reason)

    def interrupt(self, why: str) -> None:
        """Request the end of the run after the current step."""
        self.interrupted = why

    def show(self, frame: Frame) -> Verdict:
        """Pass a frame to the hooks.

        Raises:
            Exception: the first error of an observing hook, raised after all of them saw the frame.
        """
        self.last = frame
        if frame.force_delta is not None:
            self._last_with_u = frame
        verdict = self.chain.dispatch(frame)
        if verdict.action == Action.STOP:
            self.stopped = verdict
        return verdict

    def close(self, reason: str = "", message: str = "") -> RunResult:
        """Close the hooks; further calls return the first result.

        Args:
            reason: "stopped", "interrupted", "finished" or "error"; by default the first of
                these that applies.
            message: one readable line.
        """
        if self.result is None:
            if self.stopped is not None and reason in ("", "finished"):
                reason, message = "stopped", self.stopped.reason
            elif self.interrupted and reason in ("", "finished"):
                reason, message = "interrupted", self.interrupted
            result = self._outcome(reason or "finished", message)
            self.result = result if self._replay else self.chain.conclude(result)
            self.chain.close(self.result)
        return self.result

    def close_after(self, error: BaseException) -> RunResult | None:
        """Close the hooks after an exception; a second one in a hook becomes a note on the first.

        Returns:
            the result; None if closing failed.
        """
        if isinstance(error, KeyboardInterrupt):
            return self.close("interrupted", "interrupted from the keyboard")
        notes = getattr(error, "__notes__", [])
        try:
            return self.close("error", "; ".join([*notes, str(error) or type(error).__name__]))
        except Exception as second:  # the first error is the one to report
            error.add_note(f"while closing: {second}")
            return self.result

    def _outcome(self, reason: str, message: str) -> RunResult:
        last, with_u = self.last, self._last_with_u
        before, now = self._evaluations_before, self._evaluations()
        counts = self._monitoring()
        return RunResult(
            reason=reason,
            step=-1 if last is None else last.step,
            time=0.0 if last is None else last.time,
            force_delta=None if with_u is None else with_u.force_delta,
            worst_atom=None if with_u is None else with_u.worst_atom,
            message=message,
            evaluations=None if before is None or now is None else now - before,
            monitoring=None if counts is None else dict(counts),
        )
