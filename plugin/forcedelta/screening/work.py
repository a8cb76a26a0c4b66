"""The work of a screen: units of structures, evaluated here or elsewhere, and recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import TYPE_CHECKING, Any, NamedTuple

from forcedelta.calibration.result import Calibration
from forcedelta.errors import ForceDeltaError
from forcedelta.screening.displaced import FEWEST_ATOMS
from forcedelta.screening.progress import ScreenProgress
from forcedelta.screening.record import Record
from forcedelta.screening.rows import Row
from forcedelta.screening.settings import ScreenSettings
from forcedelta.screening.sources import Structure, Unreadable, structures_of
from md_hooks.signals import end_after_the_step, first_completed
from md_hooks.versions import versions_of

if TYPE_CHECKING:
    from forcedelta.models.loaded import LoadedModel

UNIT_ATOMS, UNIT_STRUCTURES = 2048, 100
"""Evaluated between two writes to the record, displaced copies included: about a second, or 10 s of a large
model. Units depend on the structures alone, so that a continued screen repeats them to the last bit."""

_MOST_PENDING = 256  # units sent to an executor ahead of their results


class _Place(NamedTuple):
    number: int
    structure: Structure
    key: str


class Work:
    """Reads structures, has them evaluated and keeps their rows.

    Args:
        files: to read.
        settings: of the screen.
        record: rows that are known already, and to which new ones are added.
        command: the command line, for the record.
        calibrations: behind the thresholds; they hold for one model only.

    Attributes:
        interrupted: whether Ctrl-C or SIGTERM ended the work.
        model: what is known about the model, as in the record.
    """

    def __init__(
        self,
        files: Sequence[str],
        settings: ScreenSettings,
        record: Record,
        command: str,
        calibrations: Sequence[Calibration],
    ) -> None:
        self._files, self._settings, self._record = files, settings, record
        self._command, self._calibrations = command, calibrations
        self._rows: dict[int, Row] = {}
        self.interrupted = False
        self.model: dict[str, Any] = {}
        if record.header.get("model"):
            self._check_model(record.header["model"])

    @property
    def rows(self) -> list[Row]:
        """The rows so far, in the order of files and frames."""
        return [row for _, row in sorted(self._rows.items())]

    def here(self, loaded: LoadedModel | None, progress: bool) -> None:
        """Evaluate in this process, with a model in memory or that of the settings."""
        from forcedelta.screening.evaluate import StructureEvaluator  # imports PyTorch

        evaluator = StructureEvaluator(self._settings, loaded)
        self._check_model(evaluator.model_info)
        with end_after_the_step(self._interrupt):
            for unit in self._units(progress):
                self._take(unit, evaluator.rows([place.structure for place in unit]))
                if self.interrupted:
                    return

    def through(self, executor: Executor, progress: bool) -> None:
        """Evaluate through an executor.

        Raises:
            ForceDeltaError: the first error of a unit; a broken executor.
        """
        from forcedelta.screening.evaluate import evaluate_in_process

        pending: dict[Future[tuple[dict[str, Any], list[Row]]], list[_Place]] = {}

        def collect() -> None:
            for future in first_completed(pending):
                unit = pending.pop(future)
                model, rows = future.result()
                self._check_model(model)
                self._take(unit, rows)

        with end_after_the_step(self._interrupt):
            try:
                for unit in self._units(progress):
                    structures = [place.structure for place in unit]
                    pending[executor.submit(evaluate_in_process, self._settings, structures)] = unit
                    while len(pending) >= _MOST_PENDING and not self.interrupted:
                        collect()
                    if self.interrupted:
                        break
                while pending:
                    if self.interrupted:  # units in work are finished
                        for future in [future for future in pending if future.cancel()]:
                            del pending[future]
                    collect()
            except BrokenExecutor as error:
                if not self.interrupted:  # SIGTERM may have ended the processes, too
                    raise ForceDeltaError(
                        "a worker process died, killed or out of memory: pass --restart to "
                        "continue, as nothing that was written is lost"
                    ) from error
            finally:
                for future in pending:
                    future.cancel()

    def begin_record(self) -> None:
        """Write the head of the record, unless it is there."""
        self._record.begin(
            {
                "settings": self._settings.stored(),
                "model": self.model,
                "versions": versions_of("forcedelta", "torch", "ase", "numpy", "spglib"),
                "command": self._command,
            }
        )

    def _interrupt(self, reason: str) -> None:
        self.interrupted = True

    def _check_model(self, model: dict[str, Any]) -> None:
        """Refuse rows of another model than those in the record, and calibrations of another."""
        known = self.model.get("weights_hash")
        if known is not None and model.get("weights_hash") != known:
            raise ForceDeltaError(
                f"model '{model['name']}' has the weights {model['weights_hash']}, but the rows in "
                f"{self._record.path} are of the weights {known}: use that model, or make a new screen "
                "with --overwrite or another --out"
            )
        if known is None:
            self.model = model
            for calibration in self._calibrations:
                calibration.check_use(str(model["name"]), str(model["weights_hash"]))

    def _units(self, progress: bool) -> Iterator[list[_Place]]:
        """Structures to evaluate; the rows of all others are known."""
        self._progress = ScreenProgress(len(self._files), progress)
        unit: list[_Place] = []
        atoms = structures = 0
        try:
            for index, item in enumerate(self._items()):
                if isinstance(item, Unreadable):
                    self._rows[index] = Row(item.file, item.frame, reason=item.reason)
                    self._progress.done(1)
                    continue
                size = max(len(item.atoms), FEWEST_ATOMS) * (1 + self._settings.copies)
                if structures and (atoms + size > UNIT_ATOMS or structures == UNIT_STRUCTURES):
                    if unit:
                        yield unit
                    unit, atoms, structures = [], 0, 0
                atoms, structures = atoms + size, structures + 1
                key = item.key
                row = self._record.find(item.file, item.frame, key)
                if row is None:
                    unit.append(_Place(index, item, key))
                else:
                    self._rows[index] = row
                    self._progress.done(1)
            if unit:
                yield unit
        finally:
            self._progress.close()

    def _items(self) -> Iterator[Structure | Unreadable]:
        settings = self._settings
        for file in self._files:
            yield from structures_of(file, self._progress.found, settings.reading)

    def _take(self, unit: Sequence[_Place], rows: Sequence[Row]) -> None:
        self.begin_record()
        self._record.add(rows, [place.key for place in unit])
        self._rows |= {place.number: row for place, row in zip(unit, rows, strict=True)}
        self._progress.done(len(unit))
