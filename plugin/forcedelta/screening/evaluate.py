"""Evaluation of structures and their displaced copies, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from ase import Atoms

from forcedelta.batch_size import batch_atoms
from forcedelta.checks import check_structure, check_takes_charge
from forcedelta.errors import ForceDeltaError
from forcedelta.evaluation import Evaluator, ExactEvaluation, model_info, usable_device
from forcedelta.graph import charge_and_spin
from forcedelta.models import LoadedModel, load_model
from forcedelta.neighbours import neighbour_pairs
from forcedelta.screening.displaced import displaced, enlarged
from forcedelta.screening.rows import Row
from forcedelta.screening.settings import ScreenSettings
from forcedelta.screening.sources import Structure
from forcedelta.symmetric import SMALL_FORCES, forces_vanish

_NOT_FINITE = (
    "the model gives energies or forces that are not finite: check the unit of positions and cell"
)


class StructureEvaluator:
    """Makes the row of each structure.

    Args:
        settings: of the screen.
        model: already in memory; None: loaded according to the settings.

    Attributes:
        model_info: what the record of the screen says about the model.

    Raises:
        ForceDeltaError: the model or the device cannot be used.
    """

    def __init__(self, settings: ScreenSettings, model: LoadedModel | None = None) -> None:
        torch.set_num_threads(settings.threads)
        self._settings = settings
        device = usable_device(settings.device)
        dtype = getattr(torch, settings.dtype)
        self._model = model or load_model(
            settings.model, dtype, device, architecture=settings.architecture,
            trust=settings.trust, compile=settings.compile,
        )  # fmt: skip
        check_takes_charge(self._model, settings.charge, settings.spin)
        self._evaluator = Evaluator(self._model, dtype, device)
        self._batch_atoms = batch_atoms(self._model.module, device)
        self.model_info: dict[str, Any] = model_info(
            self._model, device=settings.device, dtype=settings.dtype
        )

    def rows(self, structures: Sequence[Structure]) -> list[Row]:
        """The row of each structure, without verdict."""
        rows: list[Row | None] = []
        copies: list[Atoms] = []
        owners: list[int] = []
        for k, structure in enumerate(structures):
            reason = self._why_not(structure.atoms)
            rows.append(_row(structure, reason=reason) if reason else None)
            if not reason:
                own = [structure.atoms, *self._displaced(structure)]
                copies += own
                owners += [k] * len(own)
        answers: dict[int, list[ExactEvaluation | str]] = {k: [] for k in owners}
        with np.errstate(over="ignore", invalid="ignore"):
            for k, answer in zip(owners, self._answers(copies), strict=True):
                answers[k].append(answer)
            return [row or self._evaluated(structures[k], answers[k]) for k, row in enumerate(rows)]

    def _why_not(self, atoms: Atoms) -> str:
        """Why a structure cannot be evaluated; empty if it can."""
        given = {"charge": self._settings.charge, "spin": self._settings.spin}
        atoms.info.update({name: value for name, value in given.items() if value is not None})
        try:
            check_structure(atoms, self._model)
            charge_and_spin(atoms, self._model)
        except ForceDeltaError as error:
            return str(error)
        return ""

    def _displaced(self, structure: Structure) -> list[Atoms]:
        settings = self._settings
        if not settings.copies:
            return []
        large = enlarged(structure.atoms)
        return displaced(large, settings.rattle, settings.copies, settings.seed, structure.geometry)

    def _answers(self, copies: Sequence[Atoms]) -> Iterator[ExactEvaluation | str]:
        batch: list[Atoms] = []
        atoms = 0
        for copy in copies:
            if batch and atoms + len(copy) > self._batch_atoms:
                yield from self._evaluator.batch_or_reasons(batch)
                batch, atoms = [], 0
            batch.append(copy)
            atoms += len(copy)
        if batch:
            yield from self._evaluator.batch_or_reasons(batch)

    def _evaluated(self, structure: Structure, answers: list[ExactEvaluation | str]) -> Row:
        """The row of a structure from its evaluation as given and those of its copies."""
        found = [answer for answer in answers if not isinstance(answer, str)]
        if len(found) < len(answers):
            return _row(structure, reason=next(text for text in answers if isinstance(text, str)))
        given, copies = found[0], found[1:]
        deltas, force_delta = given.force_deltas, given.force_delta
        if copies:
            # rows of images and copies, columns of atoms
            square = np.concatenate([copy.force_deltas for copy in copies]) ** 2
            deltas = np.sqrt(square.reshape(-1, len(structure.atoms)).mean(axis=0))
            force_delta = float(np.sqrt(np.mean(deltas**2)))
        size = float(np.linalg.norm(given.direct_forces, axis=1).max())
        if not np.isfinite([force_delta, given.force_delta, given.energy, size]).all():
            return _row(structure, reason=_NOT_FINITE)
        known: dict[str, Any] = {"energy": given.energy, "largest_force": size, "symmetric": False}
        forces = (given.direct_forces, given.conservative_forces)
        if all(np.abs(force).max() <= SMALL_FORCES for force in forces):
            known["symmetric"] = forces_vanish(structure.atoms, *forces)
            if self._isolated(structure.atoms):
                return _row(
                    structure, **known, reason="no atom has a neighbour within the model's cutoff of "
                    f"{self._model.cutoff:g} Å, so that there are no forces to compare",
                )  # fmt: skip
        worst = int(deltas.argmax())
        return _row(
            structure,
            **known,
            force_delta=force_delta,
            force_delta_as_given=given.force_delta,
            worst_atom=worst,
            worst_force_delta=float(deltas[worst]),
        )

    def _isolated(self, atoms: Atoms) -> bool:
        pairs, _ = neighbour_pairs(atoms.positions, atoms.cell.array, atoms.pbc, self._model.cutoff)
        return not pairs.size


def _row(structure: Structure, **known: Any) -> Row:
    atoms = structure.atoms
    formula = atoms.get_chemical_formula() if len(atoms) else ""
    return Row(structure.file, structure.frame, formula, len(atoms), **known)


@lru_cache(maxsize=1)
def _of_this_process(settings: ScreenSettings) -> StructureEvaluator:
    return StructureEvaluator(settings)


def evaluate_in_process(
    settings: ScreenSettings, structures: Sequence[Structure]
) -> tuple[dict[str, Any], list[Row]]:
    """The job that executors run; a process loads the model once.

    Returns:
        `StructureEvaluator.model_info`, and the rows.
    """
    evaluator = _of_this_process(settings)
    return evaluator.model_info, evaluator.rows(structures)
