"""The audit of one trajectory: its frames are evaluated in batches and passed to the hooks of a run."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forcedelta.audit.continuity import Continuity
from forcedelta.audit.evaluate import NOT_FINITE, FrameEvaluator
from forcedelta.audit.result import AuditCounts, AuditResult, NoFramesError, NoModelError
from forcedelta.audit.settings import AuditSettings, just_created
from forcedelta.calibration.error_guard import check_prediction
from forcedelta.checks import check_takes_charge
from forcedelta.errors import ForceDeltaError
from forcedelta.evaluation import Evaluation, ExactEvaluation, model_info, not_finite, usable_device
from forcedelta.models import LoadedModel, load_model
from forcedelta.symmetric import forces_vanish
from forcedelta.trajectories.base import StoredFrame, StoredTrajectory, UnreadableFrame
from forcedelta.trajectories.opening import open_trajectory
from md_hooks import (
    Checkpoint,
    FlagStore,
    Frame,
    HookChain,
    Progress,
    Recorder,
    Remark,
    RunInfo,
    Trajectory,
    load_checkpoint,
)
from md_hooks.constraints import constraint_records
from md_hooks.electronic_state import ElectronicState
from md_hooks.environment import Surroundings
from md_hooks.predicted_error import predicted_summary
from md_hooks.session import Session
from md_hooks.signals import end_after_the_step
from md_hooks.versions import versions_of

_log = logging.getLogger(__name__)

STORED_FRAMES = 10_000
"""Number of frames stored of a long trajectory, besides those marked by the guard."""

_ENDS_IN_BURN_IN = (
    "the trajectory ends within the burn-in of {0} steps, before 'auto' chose a threshold: give a "
    "shorter --burn-in, or thresholds as numbers, with --overwrite"
)

_SYMMETRIC = "the forces vanish by symmetry, and U with them for any model: 'forcedelta screen' displaces the atoms"


class Audit:
    """One trajectory, one model, one file.

    Args:
        settings: see `AuditSettings`.
        model: already in memory; None: loaded according to the settings.
        resume: continue the file of the settings if it belongs to this audit.
        command: the command line, for the record.

    Raises:
        ForceDeltaError, HookError: invalid input; no file is overwritten then.
    """

    def __init__(
        self,
        settings: AuditSettings,
        model: LoadedModel | None = None,
        *,
        resume: bool = False,
        command: str = "",
    ) -> None:
        settings.check()
        self._settings = settings
        self._command = command
        self._source: StoredTrajectory = open_trajectory(
            settings.trajectory, settings.topology, settings.reading
        )
        self._noted: set[str] = set()
        try:
            self._prepare(model, resume)
        except BaseException:
            self._source.close()
            raise

    def _prepare(self, model: LoadedModel | None, resume: bool) -> None:
        settings = self._settings
        self._frames = len(self._source)
        if self._frames == 0:
            first = next(iter(self._source.frames(0, None, 1)), None)
            why = f" ({first.reason})" if isinstance(first, UnreadableFrame) else ""
            raise NoFramesError(
                f"{settings.trajectory} holds no readable frame{why}: give another trajectory"
            )
        if settings.start >= self._frames:
            raise ForceDeltaError(
                f"{settings.trajectory} has {self._frames} frames (counted from 0) and none from "
                f"--start {settings.start}: give a smaller number"
            )
        try:
            self._use_model(model)
        except ForceDeltaError as error:
            raise NoModelError(str(error)) from error
        self._continuity = Continuity()
        self._next = settings.start
        self._shown = self._batch = -1
        """Index of the last frame passed to the hooks, and of the first one in its batch."""
        self._counts = AuditCounts()
        self._ending = ""
        self._known_calibrations: dict[str, Any] = {}
        self._known_flags: str | None = None
        self._guard = settings.guard()
        self._checkpoint = self._find_checkpoint() if resume else None

    def _use_model(self, model: LoadedModel | None) -> None:
        settings = self._settings
        self._device = usable_device(settings.device)
        dtype = getattr(torch, settings.dtype)
        self._model = model or load_model(
            settings.model, dtype, self._device, architecture=settings.architecture,
            trust=settings.trust, compile=settings.compile,
        )  # fmt: skip
        check_takes_charge(self._model, settings.charge, settings.spin)
        for found in settings.calibrations.values():
            found.check_use(self._model.name, self._model.weights_hash, settings.on)
        check_prediction(settings, self._model.name, self._model.weights_hash)
        self._evaluate = FrameEvaluator(
            self._model, dtype, self._device, settings.charge, settings.spin
        )

    def _find_checkpoint(self) -> Checkpoint | None:
        """The end of the file; None if it does not exist or holds no audited frame."""
        out = Path(self._settings.out)
        if not out.exists() or just_created(out):
            return None
        begun = Trajectory(out)
        if not len(begun.series["step"]):
            return None
        stored = begun.metadata.get("settings", {})
        self._known_calibrations = stored.get("calibrations", {})
        self._known_flags = stored.get("flags")  # the next restart asks again
        found = load_checkpoint(self._settings.out)
        index = int(found.state["frame"])
        self._check_same(found, index)
        # repeats the batch of that frame, as its numbers depend on the rest of the batch
        batch = found.state.get("batch")  # missing in files of earlier versions
        if not isinstance(batch, int) or not 0 <= batch <= index:
            batch = index + self._settings.every
        self._next = batch
        self._shown = index
        self._continuity.load(found.state["continuity"])
        return found

    def _check_same(self, checkpoint: Checkpoint, index: int) -> None:
        """Refuse a trajectory other than the one whose beginning is in the file."""
        stored = next(iter(self._source.frames(index, index + 1, 1)), None)
        if not isinstance(stored, StoredFrame) or not np.array_equal(
            stored.atoms.positions, checkpoint.positions, equal_nan=True
        ):
            raise ForceDeltaError(
                f"frame {index} of {self._settings.trajectory} differs from the last audited frame "
                f"in {self._settings.out}: give the same trajectory, or make a new audit"
            )

    # --- the audit -----------------------------------------------------------------------------

    def run(self, progress: bool = False) -> AuditResult:
        """Audit the frames not yet audited.

        Ctrl-C and SIGTERM end it after the current batch, with the file closed.
        """
        try:
            return self._run(progress)
        finally:
            self._source.close()

    def _run(self, progress: bool) -> AuditResult:
        settings = self._settings
        planned = len(
            range(settings.start, min(self._frames, settings.stop or self._frames), settings.every)
        )
        record_every = settings.record_every or max(1, planned // STORED_FRAMES)
        self._recorder = Recorder(
            settings.out,
            every=record_every,
            mode="overwrite" if self._checkpoint is None else "append",
            replay=True,
        )
        predicting = settings.error_hooks()
        hooks: list[Any] = [self._guard, *predicting, self._counts, self._recorder]
        if progress:
            hooks.append(Progress())
        if settings.flags is not None:
            hooks.append(FlagStore(settings.flags))
        chain = HookChain(hooks)
        if self._checkpoint is not None:
            chain.load_state_dict(self._checkpoint.hooks)
        self._session = session = Session(chain, replay=True)
        session.open(self._info(planned, record_every))
        try:
            with (
                end_after_the_step(session.interrupt),
                np.errstate(over="ignore", invalid="ignore"),
            ):
                self._replay()
        except BaseException as error:
            session.close_after(error)
            raise
        result = session.close(message=self._problem() or self._ending)
        return self._result(result.reason, session.reason)

    def _info(self, planned: int, record_every: int) -> RunInfo:
        settings, checkpoint = self._settings, self._checkpoint
        model = self._model
        calibrations = {name: found.record() for name, found in settings.calibrations.items()}
        return RunInfo(
            model=model_info(
                model, device=str(self._device), dtype=settings.dtype, metadata=dict(model.metadata)
            ),
            command=self._command,
            settings={
                **settings.stored(),
                "trajectory": settings.trajectory,
                "flags": settings.flags or self._known_flags,
                "format": self._source.kind,
                "record_every": record_every,
                "calibrations": {**self._known_calibrations, **calibrations},
            },
            versions=versions_of("forcedelta", "torch", "ase", "numpy", "h5py"),
            planned_frames=planned,
            frames_before=self._counts.counts["audited"],
            run_id=self._source.run_id(),
            restart_step=None if checkpoint is None else checkpoint.step,
            restart_time=0.0 if checkpoint is None else checkpoint.time,
            checkpoint=self._state,
        )  # fmt: skip

    def _state(self) -> dict[str, Any]:
        """Position in the trajectory: the current frame, and its batch."""
        return {
            "frame": self._shown, "batch": self._batch, "continuity": self._continuity.state(),
        }  # fmt: skip

    def _result(self, reason: str, message: str) -> AuditResult:
        counts = self._counts
        return AuditResult(
            trajectory=self._settings.trajectory,
            out=self._settings.out,
            reason=reason,
            frames=self._frames,
            audited=counts.counts["audited"],
            flagged=counts.counts["flagged"],
            stops=counts.counts["stops"],
            first_stop=counts.first_stop,
            largest=counts.largest,
            largest_step=counts.largest_step,
            last_step=counts.last_step,
            stop_threshold=self._guard.stop_threshold,
            flag_threshold=self._guard.flag_threshold,
            remarks=dict(counts.remarks),
            ending=self._ending,
            message=message,
            problem=self._problem() if reason == "finished" else "",
            refused=self._guard.refused or "",
            stop_error=self._settings.stop_error,
            flag_error=self._settings.flag_error,
            predicted_error=self._predicted(),
        )

    def _predicted(self) -> dict[str, float] | None:
        if self._settings.calibration is None or not self._counts.counts["audited"]:
            return None
        return predicted_summary(Trajectory(self._settings.out).series)

    def _problem(self) -> str:
        if not self._counts.counts["audited"]:
            return f"none of its frames could be audited ({self._counts.first_reason})"
        if self._guard.burning_in and self._guard.refused is None:
            return _ENDS_IN_BURN_IN.format(self._settings.burn_in)
        return ""

    # --- frame by frame ------------------------------------------------------------------------

    def _replay(self) -> None:
        """Pass all frames to the hooks until the trajectory or the audit ends."""
        settings, session = self._settings, self._session
        done = self._shown
        items = self._source.frames(self._next, settings.stop, settings.every)
        for batch in self._evaluate.batches(items):
            self._batch = batch[0].index
            for item, answer in zip(batch, self._evaluate(batch), strict=True):
                if item.index <= done:
                    continue
                self._show(item, answer)
                if session.stopped is not None and settings.end_at_stop:
                    return
            session.stopped = None  # an audit continues after its stops
            if session.interrupted:
                return

    def _show(self, item: StoredFrame | UnreadableFrame, answer: Evaluation | str | None) -> None:
        """Pass one frame to the hooks, or note why it is left out."""
        if isinstance(item, UnreadableFrame):
            if item.last:
                self._ending = f"it ends at frame {item.index}, which cannot be read: {item.reason}"
                self._remark(Remark(item.index, None, "end", self._ending))
            else:
                self._remark(Remark(item.index, None, "unreadable", item.reason))
            return
        step, remarks = self._continuity.number(item)
        for note in item.notes:
            if note not in self._noted:  # it holds for the whole file
                self._noted.add(note)
                self._remark(Remark(item.index, step, "reading", note))
                _log.warning("%s: %s", self._settings.trajectory, note)
        for remark in remarks:
            self._remark(remark)
        if isinstance(answer, str):
            self._remark(Remark(item.index, step, "not audited", answer))
            return
        if answer is None:
            self._remark(Remark(item.index, step, "not finite", NOT_FINITE))
            answer = not_finite(len(item.atoms))
        elif isinstance(answer, ExactEvaluation) and forces_vanish(
            item.atoms, answer.direct_forces, answer.conservative_forces
        ):
            self._remark(Remark(item.index, step, "symmetric", _SYMMETRIC))
        state, unusable = ElectronicState.usable(item.atoms)
        for why in unusable:
            self._remark(Remark(item.index, step, "charge and spin", why))
        item, left_out = _without_bad_motion(item)
        if left_out:
            self._remark(Remark(item.index, step, "velocities", left_out))
        self._shown = item.index
        self._session.show(_frame(item, step, answer, state))

    def _remark(self, remark: Remark) -> None:
        self._counts.remark(remark)
        self._recorder.remark(remark)


def _without_bad_motion(stored: StoredFrame) -> tuple[StoredFrame, str]:
    """A frame without impossible velocities or masses, and what was removed.

    U does not depend on them: such a frame is audited and not mistaken for an explosion.
    """
    masses = stored.atoms.get_masses()
    if not (np.isfinite(masses) & (masses >= 0)).all():  # 0: an atom that OpenMM holds in place
        atoms = stored.atoms.copy()
        atoms.set_masses("defaults")
        return replace(stored, atoms=atoms, velocities=None, temperature=None), (
            "its masses are not all finite and above 0: standard masses and no velocities are recorded"
        )
    known = [value for value in (stored.velocities, stored.temperature) if value is not None]
    if not all(np.isfinite(value).all() for value in known):
        return replace(stored, velocities=None, temperature=None), (
            "its velocities are not finite numbers and are not recorded"
        )
    return stored, ""


def _frame(stored: StoredFrame, step: int, evaluation: Evaluation, state: ElectronicState) -> Frame:
    atoms = stored.atoms
    return Frame(
        step=step,
        time=math.nan if stored.time is None else stored.time,
        numbers=atoms.numbers,
        positions=atoms.positions,
        velocities=stored.velocities,
        masses=atoms.get_masses(),
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        energy=evaluation.energy,
        forces=evaluation.direct_forces,
        temperature=stored.temperature,
        force_delta=evaluation.force_delta,
        force_deltas=evaluation.force_deltas,
        direct_forces=evaluation.direct_forces,
        conservative_forces=evaluation.conservative_forces,
        stress=evaluation.voigt_stress,
        extra={
            "source_frame": float(stored.index),
            "atoms": float(len(atoms)),
            **Frame.scalars(
                evaluation.expected_errors, energy_uncertainty=evaluation.energy_uncertainty
            ),
        },
        constraints=constraint_records(atoms.constraints),
        **state.frame_fields(),
        **Surroundings.usable(atoms).frame_fields(),
    )
