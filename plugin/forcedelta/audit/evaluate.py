"""Evaluation of stored frames in batches, with the reason for each frame that is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from ase import Atoms

from forcedelta.batch_size import batch_atoms
from forcedelta.checks import check_supported
from forcedelta.errors import ForceDeltaError
from forcedelta.evaluation import Evaluation, Evaluator
from forcedelta.graph import charge_and_spin
from forcedelta.models.loaded import LoadedModel
from forcedelta.neighbours import FARTHEST
from forcedelta.parts import as_molecule
from forcedelta.trajectories.base import StoredFrame, UnreadableFrame
from md_hooks.environment import Surroundings

NOT_FINITE = f"positions are not finite, or farther away than {FARTHEST:.0e} Å"

_MOST_FRAMES = 1000  # per batch, as unreadable frames have no atoms
_MOST_KINDS = 1000  # of systems kept in memory


class FrameEvaluator:
    """Evaluates frames in batches, with a reason for each that cannot be evaluated.

    Args:
        model: loaded model.
        dtype: of positions and weights.
        device: of torch.
        charge: total charge in e, for models that take one; None: that of each frame.
        spin: spin multiplicity, likewise.
    """

    def __init__(
        self,
        model: LoadedModel,
        dtype: torch.dtype,
        device: torch.device,
        charge: int | None = None,
        spin: int | None = None,
    ) -> None:
        self._model = model
        self._evaluator = Evaluator(model, dtype, device)
        self._atoms = batch_atoms(model.module, device)
        self._given = {"charge": charge, "spin": spin}
        self._supported: dict[Any, str] = {}

    def batches(
        self, items: Iterable[StoredFrame | UnreadableFrame]
    ) -> Iterator[list[StoredFrame | UnreadableFrame]]:
        """Batches of a trajectory, whose limits depend on its frames alone."""
        batch: list[StoredFrame | UnreadableFrame] = []
        atoms = 0
        for item in items:
            size = len(item.atoms) if isinstance(item, StoredFrame) else 0
            if batch and (atoms + size > self._atoms or len(batch) == _MOST_FRAMES):
                yield batch
                batch, atoms = [], 0
            batch.append(item)
            atoms += size
        if batch:
            yield batch

    def __call__(self, batch: list[StoredFrame | UnreadableFrame]) -> list[Evaluation | str | None]:
        """Evaluation of each item, or the reason for none; None: positions not finite."""
        answers: list[Evaluation | str | None] = [self._refusal(item) for item in batch]
        good = [k for k, answer in enumerate(answers) if answer == ""]
        structures = [batch[k].atoms for k in good]  # type: ignore[union-attr]
        if not structures:
            return answers
        for k, answer in zip(good, self._evaluator.batch_or_reasons(structures), strict=True):
            answers[k] = answer
        return answers

    def _refusal(self, item: StoredFrame | UnreadableFrame) -> str | None:
        """Why a frame cannot be evaluated; empty if it can, None if it is not finite."""
        if isinstance(item, UnreadableFrame):
            return item.reason
        atoms = item.atoms
        if self._model.periodic is False:
            _take_out_of_box(atoms)
        atoms.info.update({name: value for name, value in self._given.items() if value is not None})
        key = (atoms.numbers.tobytes(), tuple(atoms.pbc))
        if key not in self._supported:
            if len(self._supported) == _MOST_KINDS:  # as in a file of all different systems
                self._supported.clear()
            self._supported[key] = _why_not(
                lambda: check_supported(atoms.numbers, atoms.pbc, self._model)
            )
        reason = self._supported[key] or _why_not(lambda: charge_and_spin(atoms, self._model))
        if reason:
            return reason
        return "" if (np.abs(atoms.positions) < FARTHEST).all() else None  # False for NaN, too


def _take_out_of_box(atoms: Atoms) -> None:
    """Make a part of a System a molecule, in place, as the model saw it in its run."""
    if atoms.pbc.any() and Surroundings.usable(atoms).others is not None:
        molecule = as_molecule(atoms)
        if molecule is not None:
            atoms.positions, atoms.pbc = molecule.positions, False


def _why_not(check: Callable[[], object]) -> str:
    try:
        check()
    except ForceDeltaError as error:
        return str(error)
    return ""
