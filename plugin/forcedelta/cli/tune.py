"""``forcedelta tune``: the energy of a model learns to agree with its direct forces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from md_hooks.progress import print_line

from .audit import mode
from .exit_status import ExitStatus, described
from .options import (
    OUTPUT,
    Architecture,
    Charge,
    Device,
    Dtype,
    FileFormat,
    Json,
    ModelArgument,
    NoPbc,
    Overwrite,
    Select,
    Spin,
    Threads,
    Topology,
    Trust,
    TypeMap,
)
from .printing import print_json

if TYPE_CHECKING:
    from ..tuning.tune import TuningResult

EPILOG = described(ExitStatus.DONE, ExitStatus.BAD_INPUT, ExitStatus.INTERRUPTED)
_TRAINING = "Training"


def tune(
    model: ModelArgument,
    frames: Annotated[
        list[Path],
        typer.Argument(
            metavar="FRAMES",
            help="Trajectories without labels: files of 'forcedelta run' or 'audit', or structure files "
            "that ASE reads. With --make-frames structures, whose frames the model makes itself.",
        ),
    ],
    reach: Annotated[
        Literal["head", "energy", "shared"],
        typer.Option(
            help="What is trained. head: a small head on the network's features, without "
            "another pass. energy: a copy of the network for the energy, one more forward pass where "
            "U is computed. shared: the whole network, which changes the direct forces.",
            rich_help_panel=_TRAINING,
        ),
    ] = "energy",
    make_frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Let the model run from the given structures with its direct forces, and tune on N frames of "
            "each run. They are kept beside --out.",
            rich_help_panel=_TRAINING,
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            metavar="K",
            help="Temperature of these runs; repeatable.",
            rich_help_panel=_TRAINING,
            show_default="300, 450, 600 and 900",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(metavar="N", help="Use every Nth frame.", rich_help_panel=_TRAINING)
    ] = 1,
    epochs: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Epochs at most; it ends after ten without improvement on the held-out tenth of the frames.",
            rich_help_panel=_TRAINING,
        ),
    ] = 20,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Frames per step.", rich_help_panel=_TRAINING)
    ] = 5,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Largest learning rate.",
            rich_help_panel=_TRAINING,
            show_default="1e-3 head and energy, 3e-4 shared",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Seed of split, order and new weights.", rich_help_panel=_TRAINING
        ),
    ] = 0,
    judge: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Compare both models on these frames too, e.g. hotter or labelled ones; repeatable.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Tuned model to write.", rich_help_panel=OUTPUT)
    ] = Path("tuned.pt"),
    overwrite: Overwrite = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Continue an interrupted tuning from OUT.partial.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: Json = False,
    architecture: Architecture = None,
    trust: Trust = False,
    charge: Charge = None,
    spin: Spin = None,
    topology: Topology = None,
    file_format: FileFormat = None,
    type_map: TypeMap = None,
    no_pbc: NoPbc = False,
    select: Select = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 1,
) -> int:
    """Tune the energy of MODEL to agree with its direct forces, without labels.

    U of a model that was trained on energies and direct forces only is mostly the error of the
    gradient of its energy. Tuning reduces that part on frames of your own. With the reaches head and
    energy the direct forces stay as they are.

    The tuned model is used as any model: forcedelta run STRUCTURE --model tuned.pt. It needs its base
    model, which it names by the hash of its weights.
    """
    from ..reading_options import ReadingOptions
    from ..tuning.tune import tune as tuned

    treatment = mode(restart, overwrite)
    result = tuned(
        model, frames, reach, out, judge_on=judge or [], make_frames=make_frames,
        temperatures=temperature, every=every, epochs=epochs,
        batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        mode=treatment, charge=charge, spin=spin, architecture=architecture, trust=trust,
        reading=ReadingOptions(file_format, type_map, no_pbc, select, topology=topology),
        device=device, dtype=dtype, threads=threads, report=lambda epoch: print_line(epoch.line),
    )  # fmt: skip
    if json:
        print_json(result.as_dict())
    else:
        for line in _shown(result):
            print_line(line, sys.stdout)
    return ExitStatus.DONE


def _shown(result: TuningResult) -> list[str]:
    before, after = result.before, result.after
    lines = [
        f"{result.frames[key]} {key.replace('_', '-')} frames: U {before[key]:.4f} -> {after[key]:.4f} eV/Å"
        for key in ("training", "held_out")
    ]
    for found in result.judged:
        lines += _judged(found["file"], found["frames"], found["before"], found["after"])
    if result.best_epoch == 0:
        lines.append("no epoch improved the held-out frames: the tuned model equals its base")
    if result.overfit:
        lines.append(
            "overfit: the held-out frames gained much less than the training frames; add frames"
        )
    for one in result.worse:
        where = "displaced frames" if one["frames"] == "displaced" else one["frames"]
        measure = "U" if one["measure"] == "force_delta" else "the error of F_c"
        lines.append(
            f"worse: on {where} {measure} has grown, {one['before']:.4f} -> {one['after']:.4f} eV/Å; add such frames"
            + (", or pass --reach energy" if result.reach == "head" else "")
        )
    if result.reach == "energy":
        lines.append("cost: one more forward pass than the base model where U is computed")
    if result.reach == "shared":
        lines.append("the direct forces differ from those of the base model")
    ended = " (no further improvement)" if result.stopped_early else ""
    lines.append(
        f"{result.parameters} parameters, {result.epochs} epochs{ended}, {result.seconds:.0f} s: "
        f"{result.file}"
    )
    return lines


def _judged(file: str, frames: int, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    lines = [f"{file}, {frames} frames: U {_change(before, after, 'force_delta')} eV/Å"]
    if before["labelled"]:
        lines.append(
            f"  {before['labelled']} labelled: RMS error of F_c "
            f"{_change(before, after, 'conservative_error')}, of F_nc "
            f"{_change(before, after, 'direct_error')} eV/Å"
        )
    if before["ranking"] is not None:
        for name in before["ranking"]:
            pair = before["ranking"][name], after["ranking"][name]
            lines.append(
                f"  errors ranked by {name}: r_s {_change(*pair, 'spearman', 3)}, AUROC of the worst "
                f"tenth {_change(*pair, 'auroc_worst_tenth', 3)}"
            )
    return lines


def _change(before: dict[str, Any], after: dict[str, Any], key: str, digits: int = 4) -> str:
    return f"{before[key]:.{digits}f} -> {after[key]:.{digits}f}"
