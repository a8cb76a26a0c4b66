"""Predictions of a comparison: one audit file for each model and structure file, in one folder.

Models whose libraries exclude each other are audited in environments of their own, into the same
folder: what is in it already is not computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from forcedelta.audit.many import audit
from forcedelta.audit.settings import just_created
from forcedelta.comparison.structures import StructureFile
from forcedelta.errors import ForceDeltaError
from forcedelta.reading_options import ReadingOptions
from md_hooks import HookError, Trajectory

if TYPE_CHECKING:
    from forcedelta.models.loaded import LoadedModel

_log = logging.getLogger(__name__)

SAME = 1e-6
"""Å; positions that agree this well are the same."""
_SETTINGS = ("dtype", "architecture", "compile")
"""Settings of an audit that change its numbers."""


@dataclass(frozen=True)
class Auditing:
    """How the models are evaluated; see `forcedelta.audit.many.audit` for the fields.

    Attributes:
        folder: of the audits, one folder for each model.
        overwrite: make the audits again.
        architecture, trust, compile, executor, workers, device, dtype, threads, progress, command: of
            the audits.
        reading: how the files are read.
    """

    folder: Path
    overwrite: bool = False
    architecture: str | None = None
    trust: bool = False
    compile: bool = False
    executor: Executor | None = None
    workers: int = 1
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    threads: int = 1
    progress: bool = False
    command: str | None = None
    reading: ReadingOptions = field(default_factory=ReadingOptions)

    def run(
        self, model: str | Path | LoadedModel, files: Sequence[StructureFile]
    ) -> tuple[str, list[str]]:
        """Audit all files with a model, as far as this has not been done.

        Returns:
            the name of the model's folder, and what failed, one line each: the model cannot be loaded,
            or a file cannot be audited.

        Raises:
            ForceDeltaError: an audit in the folder is of other weights, settings or structures.
            KeyboardInterrupt: an audit was interrupted; its file is closed and can be continued.
        """
        import torch  # takes seconds to import

        from forcedelta.evaluation import DTYPES, usable_device
        from forcedelta.models import load_model

        torch.set_num_threads(self.threads)
        name = model_folder(model)
        try:
            loaded = load_model(
                model, DTYPES[self.dtype], usable_device(self.device), architecture=self.architecture,
                trust=self.trust, compile=self.compile,
            )  # fmt: skip
        except ForceDeltaError as error:
            return name, [f"model '{name}': {error}"]
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        pending = [
            file for file in files
            if self.overwrite or not self._done(folder / f"{file.stem}.h5", file, loaded)
        ]  # fmt: skip
        several = len(pending) > 1 and (self.workers > 1 or self.executor is not None)
        if several and isinstance(model, str | Path):
            try:
                failed = self._audit([file.path for file in pending], model, folder)
            except (ForceDeltaError, HookError) as error:
                failed = [str(error)]
            return name, [f"model '{loaded.name}': {problem}" for problem in failed]
        problems = []
        for file in pending:
            try:
                self._audit([file.path], loaded, folder / f"{file.stem}.h5")
            except (ForceDeltaError, HookError) as error:
                problems.append(f"model '{loaded.name}': {error}")
        return name, problems

    def _audit(self, paths: list[Path], model: str | Path | LoadedModel, out: Path) -> list[str]:
        """The files of several that cannot be audited, with the reason."""
        several: dict[str, Any] = {}
        if len(paths) > 1:
            several = {"executor": self.executor, "workers": self.workers}
        results = audit(
            paths, model, out, record_every=1, mode="overwrite" if self.overwrite else "restart",
            architecture=self.architecture, trust=self.trust, compile=self.compile, device=self.device,
            dtype=self.dtype, threads=self.threads, progress=self.progress, command=self.command,
            given={*_SETTINGS, *vars(self.reading), "start", "stop", "every"},
            **vars(self.reading), **several,
        )  # fmt: skip
        if any(result.reason == "interrupted" for result in results):
            _log.info("interrupted: the same command continues the audits in %s", self.folder)
            raise KeyboardInterrupt
        return [f"{result.trajectory}: {result.problem}" for result in results if result.failed]

    def _done(self, out: Path, file: StructureFile, model: LoadedModel) -> bool:
        """Whether a finished audit of the same structures by the same model is there."""
        if not out.exists() or just_created(out):
            return False
        found = Trajectory(out)
        again = "pass --overwrite to replace it, or give another --out"
        weights = found.metadata.get("model", {}).get("weights_hash")
        if weights != model.weights_hash:
            raise ForceDeltaError(
                f"{out} was made with other weights ({weights}) than those of '{model.name}' "
                f"({model.weights_hash}): {again}"
            )
        stored = found.metadata.get("settings", {})
        for name in _SETTINGS:
            if stored.get(name) != getattr(self, name):
                raise ForceDeltaError(
                    f"{out} was made with {name} {stored.get(name)}, not {getattr(self, name)}: {again}"
                )
        difference = differs(found, file)
        if difference:
            raise ForceDeltaError(f"{difference}: {again}")
        frames = [*found.series.get("source_frame", ()), *(r.frame for r in found.remarks())]
        complete = bool(frames) and max(frames) >= file.structures[-1].frame
        return found.outcome.get("reason") == "finished" and complete


def model_folder(model: str | Path | LoadedModel) -> str:
    """Name of the folder of a model's audits: its name, or that of its file without ending."""
    if not isinstance(model, str | Path):
        name = model.name
    else:
        name = Path(model).stem if Path(model).is_file() else str(model)
    return name.replace("/", "_").strip(".") or "model"


def differs(audit: Trajectory, file: StructureFile) -> str:
    """How an audit shows that it was made of other structures than those of a file; "" if it does not."""
    known = {structure.frame: structure for structure in file.structures}
    for source, frame in zip(source_frames(audit), audit.frames(), strict=True):
        structure = known.get(source)
        if structure is None or not (
            np.array_equal(structure.numbers, frame.numbers)
            and _same(structure.positions, frame.positions)
            and _same(structure.cell, frame.cell)
        ):
            return (
                f"{audit.path} was made of other structures than those in {file.path} (frame {source}, "
                "counted from 0)"
            )
    return ""


def _same(one: NDArray[np.floating], other: NDArray[np.floating]) -> bool:
    return np.allclose(one, other, rtol=0, atol=SAME, equal_nan=True)


def source_frames(audit: Trajectory) -> list[int]:
    """Position in the source of each stored frame of an audit."""
    series = audit.series
    rows = np.searchsorted(series["step"], audit.frame_steps)
    return [int(source) for source in series["source_frame"][rows]]
