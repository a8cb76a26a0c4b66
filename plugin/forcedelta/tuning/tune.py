"""Consistency tuning as a function, see `tune`."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ase import Atoms

from ..checks import check_takes_charge
from ..errors import ForceDeltaError
from ..evaluation import DTYPES, Evaluator, usable_device
from ..limits import check_value
from ..models.loaded import LoadedModel
from ..models.registry import is_name, load_model
from ..models.tuned import Assembled, Reach, assemble, save_tuned
from ..outputs import Named, check_outputs, refuse_existing
from ..reading_options import ReadingOptions
from ..structures import read_structure
from ..versions import __version__
from .frames import displaced, read_usable, split
from .judge import Judgement, judge, mean_force_delta
from .loop import Epoch, Loop, Target, TuningSettings, loss_of, trained_parameters
from .own_runs import TEMPERATURES, OwnRuns, files_of, own_frames

_log = logging.getLogger(__name__)

LEARNING_RATES = {"head": 1e-3, "energy": 1e-3, "shared": 3e-4}
OVERFIT = 1.5
"""U of held-out over that of training frames, from which a tuned model is said to be overfit."""
SETS = ("training", "held_out", "displaced")


@dataclass(frozen=True)
class TuningResult:
    """A tuned model, before and after; U in eV/Å.

    Attributes:
        file: of the tuned model.
        reach: what was trained.
        base: the base model: ``model``, ``architecture`` and ``weights_hash``.
        parameters: number of trained parameters.
        epochs: that were run.
        best_epoch: whose weights were kept; 0: no epoch was better than the base.
        stopped_early: the held-out frames had stopped improving.
        seconds: duration of this call's training.
        frames: number of ``training`` and ``held_out`` frames.
        before: mean U of the ``training`` and of the ``held_out`` frames with the base model, eV/Å, and of
            copies of the latter with random displacements (``displaced``,
            `forcedelta.tuning.frames.DISPLACEMENT`).
        after: the same with the tuned model, eV/Å.
        judged: for each further file its name, number of frames, and
            `forcedelta.tuning.judge.Judgement` before and after.
    """

    file: str
    reach: str
    base: dict[str, Any]
    parameters: int
    epochs: int
    best_epoch: int
    stopped_early: bool
    seconds: float
    frames: dict[str, int]
    before: dict[str, float]
    after: dict[str, float]
    judged: list[dict[str, Any]]

    @property
    def overfit(self) -> bool:
        """Whether the held-out frames gained much less than the training frames."""
        gain = {
            key: self.after[key] / max(self.before[key], 1e-12) for key in ("training", "held_out")
        }
        return gain["held_out"] > OVERFIT * gain["training"]

    @property
    def worse(self) -> list[dict[str, Any]]:
        """Where F_c became worse: ``frames`` (a file, or "displaced"), ``measure``, before and after.

        Measured by F_c's error where there are labels, and by U where there are none.
        """
        sets = [("displaced", "force_delta", self.before["displaced"], self.after["displaced"])]
        for one in self.judged:
            measure = "conservative_error" if one["before"]["labelled"] else "force_delta"
            sets.append((one["file"], measure, one["before"][measure], one["after"][measure]))
        return [
            {"frames": frames, "measure": measure, "before": before, "after": after}
            for frames, measure, before, after in sets
            if after > before
        ]

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {**asdict(self), "overfit": self.overfit, "worse": self.worse}


def tune(
    model: str | Path,
    frames: str | Path | Sequence[str | Path],
    reach: Reach = "energy",
    out: str | Path = "tuned.pt",
    *,
    judge_on: Sequence[str | Path] = (),
    make_frames: int | None = None,
    temperatures: Sequence[float] | None = None,
    every: int = 1,
    epochs: int = 20,
    batch_size: int = 5,
    learning_rate: float | None = None,
    seed: int = 0,
    mode: Literal["create", "restart", "overwrite"] = "create",
    charge: int | None = None,
    spin: int | None = None,
    reading: ReadingOptions | None = None,
    architecture: str | None = None,
    trust: bool = False,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    threads: int = 1,
    report: Callable[[Epoch], None] = lambda epoch: _log.info(epoch.line),
) -> TuningResult:
    """Tune the energy of a model to agree with its direct forces on unlabelled frames.

    The loss is the mean of ``|F_c - F_nc|`` over the atoms. With the reaches ``head`` and ``energy`` F_nc is
    that of the base model to the last bit, and stays so in the tuned model. F_c remains the gradient
    of an energy. Only differences of that energy are tuned, so that its zero may shift.

    >>> tuned = tune("acac-direct", "run.h5", "head", "tuned.pt", every=2, epochs=1)
    >>> load_model("tuned.pt").name
    'tuned'

    Args:
        model: name or file of the base model.
        frames: trajectories that an audit reads: recorded runs, audits, structure files. A tenth of
            each is held out. With ``make_frames`` structure files, from which the model makes frames.
        reach: ``head``, a small head on the network's features, without another pass; ``energy``, a
            copy of the network for the energy, one more forward pass where U is computed; or ``shared``,
            the whole network, which changes the direct forces.
        out: file to write; ``forcedelta.load_model`` and all commands accept it as a model.
        judge_on: further trajectories on which the base and the tuned model are compared, with or without
            reference forces.
        make_frames: number of frames of each run that the model makes itself, with its direct forces,
            from each structure at each temperature (`forcedelta.tuning.own_runs.own_frames`). They stay beside ``out``.
        temperatures: of these runs, K; by default `forcedelta.tuning.own_runs.TEMPERATURES`.
        every: use every Nth frame.
        epochs: at most so many; it ends after ten without improvement on the held-out frames.
        batch_size: frames per step.
        learning_rate: the largest learning rate; by default that of `LEARNING_RATES` for the reach.
        seed: of the split, of the order of the frames and of a new head.
        mode: "restart" continues an interrupted tuning from the file beside ``out`` with the ending
            ``.partial``, bit for bit on a CPU; "overwrite" replaces ``out``.
        charge, spin: see `forcedelta.guarded_run`.
        reading: how all trajectories are read.
        architecture, trust: see `forcedelta.load_model`.
        device, dtype, threads: of torch.
        report: called after every epoch; by default the log "forcedelta", which is silent.

    Raises:
        ForceDeltaError: the model does not support the reach; too few or unusable frames; the output
            exists or cannot be written; nothing to continue, or something else.
    """
    paths = [frames] if isinstance(frames, str | Path) else list(frames)
    if not paths:
        raise ForceDeltaError("there are no frames to tune on: give at least one trajectory")
    rate = LEARNING_RATES.get(reach) if learning_rate is None else learning_rate
    for name, value in (
        ("reach", reach), ("every", every), ("epochs", epochs), ("batch_size", batch_size),
        ("learning_rate", rate), ("seed", seed), ("dtype", dtype),
    ):  # fmt: skip
        check_value(name, value)
    assert rate is not None  # the reach is known
    target = Path(out)
    own = _own_runs(make_frames, temperatures)
    made = [] if own is None else files_of(target, len(paths), own)
    checkpoint = target.with_name(target.name + ".partial")
    check_outputs(
        [
            Named("--out", out),
            Named("checkpoint", checkpoint),
            *(Named("own frames", f) for f in made),
        ],
        [Named("model", model), *(Named("trajectory", path) for path in [*paths, *judge_on])],
    )
    refuse_existing("--out", target, mode == "overwrite")
    for file in made:
        refuse_existing("own frames", file, mode != "create")
    if checkpoint.exists() != (mode == "restart") and mode != "overwrite":
        raise ForceDeltaError(
            f"{checkpoint} does not exist: omit --restart"
            if mode == "restart"
            else f"{checkpoint} is of an interrupted tuning: pass --restart to continue, or --overwrite"
        )
    torch.set_num_threads(threads)
    place = usable_device(device)

    def load() -> LoadedModel:
        return load_model(model, DTYPES[dtype], place, architecture=architecture, trust=trust)

    base = load()
    check_takes_charge(base, charge, spin)
    if own is not None:
        given = reading or ReadingOptions()
        starts = [
            read_structure(
                str(path), given.type_map, given.no_pbc, file_format=given.file_format, select=given.select
            )
            for path in paths
        ]  # fmt: skip
        shared = {
            "charge": charge,
            "spin": spin,
            "device": device,
            "dtype": dtype,
            "threads": threads,
        }
        runs = own_frames(
            base, starts, own, target, {"seed": seed, **shared}, reuse=mode == "restart"
        )
        read = [read_usable(path, base, every, charge, spin) for path in runs]
    else:
        read = [read_usable(path, base, every, charge, spin, reading) for path in paths]
    judged = [read_usable(path, base, 1, charge, spin, reading) for path in judge_on]
    training, held_out = split(read, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        assembled = assemble(reach, load)
    settings = TuningSettings(epochs=epochs, batch_size=batch_size, learning_rate=rate, seed=seed)
    identity = {"reach": reach, "base": base.weights_hash, "frames": _digest(training + held_out)}
    before, after, loop, seconds = _train(
        assembled, reach, settings, (training, held_out, judged), checkpoint, identity,
        Evaluator(base, DTYPES[dtype], place), mode == "restart", report,
    )  # fmt: skip
    name = os.fspath(model)
    result = TuningResult(
        file=str(target),
        reach=reach,
        base={
            "model": name if is_name(name) else str(Path(name).resolve()),
            "architecture": architecture,
            "weights_hash": base.weights_hash,
        },
        parameters=sum(weight.numel() for weight in loop.parameters.values()),
        epochs=loop.epoch,
        best_epoch=loop.best_epoch,
        stopped_early=loop.exhausted and loop.epoch < epochs,
        seconds=seconds,
        frames={"training": len(training), "held_out": len(held_out)},
        before={name: one.force_delta for name, one in zip(SETS, before, strict=False)},
        after={name: one.force_delta for name, one in zip(SETS, after, strict=False)},
        judged=[
            {
                "file": str(path),
                "frames": len(found),
                "before": asdict(first),
                "after": asdict(second),
            }
            for path, found, first, second in zip(
                judge_on, judged, before[len(SETS) :], after[len(SETS) :], strict=True
            )
        ],
    )
    summary = {
        key: value
        for key, value in result.as_dict().items()
        if key not in ("file", "base", "reach")
    }
    save_tuned(
        target, reach, result.base, loop.parameters,
        {**summary, "settings": asdict(settings), "forcedelta": __version__},
    )  # fmt: skip
    checkpoint.unlink()
    return result


def _own_runs(frames: int | None, temperatures: Sequence[float] | None) -> OwnRuns | None:
    """What the model runs itself; None if it is given frames.

    Raises:
        ForceDeltaError: values out of range, or temperatures without a number of frames.
    """
    if frames is None:
        if temperatures:
            raise ForceDeltaError(
                "--temperature is that of runs which the model makes itself: pass --make-frames, too"
            )
        return None
    check_value("make_frames", frames)
    chosen = tuple(temperatures or TEMPERATURES)
    for temperature in chosen:
        check_value("temperature", temperature)
    if len(set(chosen)) < len(chosen) or min(chosen) <= 0:
        raise ForceDeltaError("--temperature must be positive, and each one different")
    return OwnRuns(frames, chosen)


def _train(
    assembled: Assembled,
    reach: Reach,
    settings: TuningSettings,
    frames: tuple[list[Atoms], list[Atoms], list[list[Atoms]]],
    checkpoint: Path,
    identity: dict[str, Any],
    base: Evaluator,
    restart: bool,
    report: Callable[[Epoch], None],
) -> tuple[list[Judgement], list[Judgement], Loop, float]:
    """Judgements of all sets before and after, the finished loop, and its duration in seconds."""
    training, held_out, judged = frames
    module = assembled.model.module
    tuned = Evaluator(assembled.model, base.dtype, base.device)
    first_order_only = bool(getattr(module, "first_order_only", False))
    if first_order_only and reach == "shared":
        raise ForceDeltaError(
            f"model '{assembled.model.name}' has first derivatives only, and its direct forces cannot be "
            "tuned with the energy: pass --reach energy"
        )
    sets = [training, held_out, displaced(held_out, settings.seed), *judged]
    before = [judge(base, one) for one in sets]
    targets = [_target(base, atoms) for atoms in training]
    parameters = trained_parameters(assembled.part, assembled.energy, targets[0])
    if reach == "shared":
        for name, parameter in assembled.part.named_parameters():
            parameters[name] = parameter.requires_grad_(True)
    loop = Loop(parameters, settings, checkpoint, identity)
    if restart:
        loop.restore()
    start = time.perf_counter()
    loop.run(
        lambda batch: loss_of(
            assembled.energy, batch, shared=reach == "shared", first_order_only=first_order_only
        ),
        targets,
        lambda: mean_force_delta(tuned, held_out),
        report,
    )
    seconds = time.perf_counter() - start
    return before, [judge(tuned, one) for one in sets], loop, seconds


def _target(base: Evaluator, atoms: Atoms) -> Target:
    graph = base.graph_of([atoms])
    with torch.no_grad():
        return Target(graph, base.model.module(*graph)[1])


def _digest(frames: Sequence[Atoms]) -> str:
    """Hash of structures: elements, positions and cells."""
    digest = hashlib.sha256()
    for atoms in frames:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array):
            digest.update(array.tobytes())
    return digest.hexdigest()
