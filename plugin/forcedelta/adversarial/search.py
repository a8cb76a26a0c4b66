"""The search behind an attack: blocks of paths, their frames and their checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from md_hooks import Checkpoint, Frame, HookChain, Progress, Recorder, Remark, RunInfo
from md_hooks.constraints import constraint_records
from md_hooks.electronic_state import ElectronicState
from md_hooks.environment import Surroundings
from md_hooks.run_id import id_of_content
from md_hooks.session import Session
from md_hooks.signals import end_after_the_step
from md_hooks.versions import versions_of

from ..batch_size import batch_atoms
from ..checks import check_structure, check_takes_charge
from ..errors import ForceDeltaError
from ..evaluation import DTYPES, ExactEvaluation, model_info, usable_device
from ..force_delta_gradient import ForceDeltaGradient, GradientEvaluator, Method, slope_error
from ..models import LoadedModel, load_model
from .blocks import Block, blocks_of
from .path import Path
from .picks import picks_file, write_picks
from .result import AttackResult, PathResult
from .settings import AttackSettings

_log = logging.getLogger(__name__)

WRONG_SLOPE = 0.1
"""A relative error of dU/dr along itself above which second derivatives are not trusted."""


class Search:
    """Paths from several structures, in blocks that are evaluated side by side.

    Args:
        settings: of the attack.
        structures: with their names.
        model: already in memory; None: loaded according to the settings.
        checkpoint: of the attack to continue.
        stored: the settings in its file.
        command: the command line, for the record.

    Raises:
        ForceDeltaError, HookError: invalid input; no file is written then.
    """

    def __init__(
        self,
        settings: AttackSettings,
        structures: Sequence[tuple[str, Atoms]],
        model: LoadedModel | None,
        checkpoint: Checkpoint | None,
        stored: dict[str, Any],
        command: str,
    ) -> None:
        self._settings, self._command, self._checkpoint = settings, command, checkpoint
        self._names = tuple(name for name, _ in structures)
        self._structures = [atoms for _, atoms in structures]
        self._ids = [_identity(atoms) for atoms in self._structures]
        if checkpoint is not None and [entry["id"] for entry in stored["structures"]] != self._ids:
            raise ForceDeltaError(
                f"{settings.out} is the attack of other structures: give the same ones, or another --out"
            )
        self._device = usable_device(settings.device)
        self._dtype = DTYPES[settings.dtype]
        self._model = model or load_model(
            settings.model, self._dtype, self._device, architecture=settings.architecture,
            trust=settings.trust,
        )  # fmt: skip
        check_takes_charge(self._model, settings.charge, settings.spin)
        for name, atoms in structures:
            try:
                self._check(atoms)
            except ForceDeltaError as error:
                raise ForceDeltaError(f"{name}: {error}") from None
        method: Method | None = None if checkpoint is None else checkpoint.state["method"]
        self._evaluator = GradientEvaluator(self._model, self._dtype, self._device, method)
        self._blocks = blocks_of(
            self._structures, settings, batch_atoms(self._model.module, self._device)
        )
        self._done: list[PathResult] = []
        self._step = -1
        self._number = 0
        self._block: Block | None = None
        self._energies: list[float] = []
        if checkpoint is None:
            self._energies = self._start_energies()
            self._check_slope()
        else:
            self._load(checkpoint)
        self._state = self._snapshot()

    def _check(self, atoms: Atoms) -> None:
        for name in ("charge", "spin"):
            if getattr(self._settings, name) is not None:
                atoms.info[name] = getattr(self._settings, name)
        check_structure(atoms, self._model)
        if len(atoms) < 2:
            raise ForceDeltaError(
                f"{atoms.symbols} is one atom, without forces by symmetry: attack a larger structure"
            )

    def _start_energies(self) -> list[float]:
        found = [self._evaluator.batch([atoms])[0] for atoms in self._structures]
        for name, evaluation in zip(self._names, found, strict=True):
            if not np.isfinite([evaluation.energy, evaluation.force_delta]).all():
                raise ForceDeltaError(
                    f"{name}: the model gives no finite energy and forces: give another structure"
                )
        return [evaluation.energy for evaluation in found]

    def _check_slope(self) -> None:
        """Compare grad U with differences of U at one start; second derivatives may be wrong."""
        atoms = self._blocks.block(0, self._energies).paths[0].trial()
        if atoms is None:
            return
        own = self._slope_error(self._evaluator, atoms)
        if own <= WRONG_SLOPE:
            return
        other = GradientEvaluator(self._model, self._dtype, self._device, "differences")
        error = self._slope_error(other, atoms)
        if error <= WRONG_SLOPE:
            _log.warning(
                "second derivatives of model '%s' are wrong: grad U comes from differences of forces",
                self._model.name,
            )  # fmt: skip
            self._evaluator = other
            return
        _log.warning(
            "grad U is off its finite difference by a factor of %.2g at the first start: U jumps there, or "
            "derivatives of model '%s' are wrong; try 'forcedelta check'",
            min(own, error), self._model.name,
        )  # fmt: skip

    @staticmethod
    def _slope_error(evaluator: GradientEvaluator, atoms: Atoms) -> float:
        return slope_error(evaluator, atoms, evaluator.gradient_batch([atoms])[0])

    # --- the attack ------------------------------------------------------------------------------

    def run(self, progress: bool = False) -> AttackResult:
        """Make the steps that are not made yet.

        Ctrl-C and SIGTERM end it after the current step of all paths, with the file closed.
        """
        settings = self._settings
        self._recorder = Recorder(
            settings.out, every=1, mode="overwrite" if self._checkpoint is None else "append", replay=True
        )  # fmt: skip
        chain = HookChain([self._recorder, *([Progress()] if progress else [])])
        if self._checkpoint is not None:
            chain.load_state_dict(self._checkpoint.hooks)
        self._session = session = Session(chain, lambda: self._evaluator.passes, replay=True)
        session.open(self._info())
        try:
            with end_after_the_step(session.interrupt):
                self._all_blocks()
        except BaseException as error:
            session.close_after(error)
            raise
        ended = session.close()
        return self._result(ended.reason, session.reason)

    def _all_blocks(self) -> None:
        for number in range(self._number, len(self._blocks)):
            if self._block is None:
                self._number = number
                self._block = self._blocks.block(number, self._energies)
            self._walk(self._block)
            if self._session.interrupted:
                return
            self._done += [PathResult.of(path) for path in self._block.paths]
            self._block, self._number = None, number + 1
            self._state = self._snapshot()

    def _walk(self, block: Block) -> None:
        """Step the paths of a block until all have ended.

        A checkpoint within a step holds the state before it, and a restart repeats the step: frames
        and remarks come between two such states.
        """
        trials = self._trials(block)
        while trials and not self._session.interrupted:
            found = self._evaluator.gradients_or_reasons(
                [atoms for _, atoms in trials], block.strain
            )
            for (path, atoms), answer in zip(trials, found, strict=True):
                if path.judge(atoms, answer) and isinstance(answer, ForceDeltaGradient):
                    self._show(path, answer.evaluation)
            trials = self._trials(block)

    def _trials(self, block: Block) -> list[tuple[Path, Atoms]]:
        trials = block.trials()
        for path in block.newly_ended():
            text = f"path {path.number} ended after {max(path.moves, 0)} steps: {path.reason}"
            step = self._step if self._step >= 0 else None
            self._recorder.remark(Remark(path.number, step, "path ended", text))
        self._state = self._snapshot()
        return trials

    def _show(self, path: Path, evaluation: ExactEvaluation) -> None:
        self._step += 1
        if self._checkpoint is not None and self._step <= self._checkpoint.step:
            return  # recorded before the restart
        atoms = path.atoms
        self._session.show(
            Frame(
                step=self._step,
                time=0.0,
                numbers=atoms.numbers,
                positions=atoms.positions,
                velocities=None,
                masses=atoms.get_masses(),
                cell=atoms.cell.array,
                pbc=atoms.pbc,
                energy=evaluation.energy,
                forces=evaluation.direct_forces,
                temperature=None,
                force_delta=evaluation.force_delta,
                force_deltas=evaluation.force_deltas,
                direct_forces=evaluation.direct_forces,
                conservative_forces=evaluation.conservative_forces,
                stress=evaluation.voigt_stress,
                extra={
                    "path": float(path.number),
                    "move": float(path.moves),
                    "structure": float(path.structure),
                    "atoms": float(len(atoms)),
                    **Frame.scalars(
                        evaluation.expected_errors, energy_uncertainty=evaluation.energy_uncertainty
                    ),
                },
                constraints=constraint_records(atoms.constraints),
                system_particles=Surroundings.usable(atoms).system_particles,
                **ElectronicState.of(atoms).frame_fields(),
            )
        )

    def _info(self) -> RunInfo:
        settings, checkpoint = self._settings, self._checkpoint
        paths = len(self._structures) * settings.starts
        named = zip(self._names, self._ids, strict=True)
        return RunInfo(
            model=model_info(
                self._model, device=str(self._device), dtype=settings.dtype,
                metadata=dict(self._model.metadata),
            ),
            command=self._command,
            seed=settings.seed,
            settings={
                **settings.stored(),
                "structures": [{"file": name, "id": found} for name, found in named],
                "gradient": self._evaluator.method,
            },
            versions=versions_of("forcedelta", "torch", "ase", "numpy", "h5py"),
            planned_frames=paths * (settings.steps + 1),
            frames_before=0 if checkpoint is None else checkpoint.step + 1,
            restart_step=None if checkpoint is None else checkpoint.step,
            checkpoint=lambda: self._state,
        )  # fmt: skip

    def _snapshot(self) -> dict[str, Any]:
        """The state after the last step of all paths of a block."""
        return {
            "method": self._evaluator.method,
            "energies": np.array(self._energies),
            "number": self._number,
            "step": self._step,
            "done": [vars(result) for result in self._done],
            "block": None if self._block is None else self._block.state(),
        }

    def _load(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.state
        self._energies = [float(energy) for energy in state["energies"]]
        self._number, self._step = int(state["number"]), int(state["step"])
        self._done = [PathResult(**result) for result in state["done"]]
        if state["block"] is not None:
            self._block = self._blocks.block(self._number, self._energies)
            self._block.load(state["block"])

    def _result(self, reason: str, message: str) -> AttackResult:
        settings = self._settings
        begun = [] if self._block is None else [PathResult.of(path) for path in self._block.paths]
        picks, picked = None, 0
        if reason == "finished" and settings.picks and self._step >= 0:
            try:
                picks = str(picks_file(settings.out))
                picked = write_picks(settings.out, picks, settings.picks)
            except ForceDeltaError as error:  # dscribe is missing; the attack itself is complete
                picks = None
                _log.warning("no picks were written: %s", error)
        return AttackResult(
            settings.out, reason, self._names, (*self._done, *begun), self._step + 1,
            self._evaluator.method, picks, picked, message,
        )  # fmt: skip


def _identity(atoms: Atoms) -> str:
    """Equal for equal structures."""
    arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    return id_of_content([np.ascontiguousarray(array).tobytes() for array in arrays])
