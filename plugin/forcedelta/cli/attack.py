"""``forcedelta attack``: structures of low energy at which a model disagrees most with itself."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

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
    Model,
    NoPbc,
    Overwrite,
    Select,
    Spin,
    Threads,
    Trust,
    TypeMap,
)
from .printing import print_json
from .run import source_of
from .tables import show, table

EPILOG = (
    described(ExitStatus.DONE, ExitStatus.BAD_INPUT, ExitStatus.INTERRUPTED)
    + " A path that ends early does not change the status; the table tells why it ended."
)
_STEPS, _LIMITS = "Steps", "Limits"
_ONLY_HERE = {"context", "restart", "overwrite", "json", "torsion"}


def attack(
    context: typer.Context,
    structures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STRUCTURE",
            help="Structures in any format that ASE reads; file@0:10 names several of one file, and the "
            "last one is taken otherwise. Optional with --restart.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    architecture: Architecture = None,
    trust: Trust = False,
    charge: Charge = None,
    spin: Spin = None,
    type_map: TypeMap = None,
    no_pbc: NoPbc = False,
    file_format: FileFormat = None,
    select: Select = None,
    starts: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Paths from each structure, each displaced anew.",
            rich_help_panel=_STEPS,
        ),
    ] = 8,
    steps: Annotated[
        int, typer.Option(metavar="N", help="Steps of a path.", rich_help_panel=_STEPS)
    ] = 50,
    optimizer: Annotated[
        Literal["plain", "adam"],
        typer.Option(
            help="plain: r + alpha grad U - beta grad E; adam: steps of Adam along this direction.",
            rich_help_panel=_STEPS,
        ),
    ] = "adam",
    alpha: Annotated[
        float,
        typer.Option(metavar="Å^3/eV", help="Weight of grad U.", rich_help_panel=_STEPS),
    ] = 1.0,
    beta: Annotated[
        float,
        typer.Option(
            metavar="Å^2/eV",
            help="Weight of grad E; with adam only its ratio to --alpha matters. Too large a weight keeps "
            "the paths in the minimum.",
            rich_help_panel=_STEPS,
        ),
    ] = 0.01,
    rate: Annotated[
        float,
        typer.Option(metavar="Å", help="Size of the first step of adam.", rich_help_panel=_STEPS),
    ] = 0.01,
    cap: Annotated[
        float,
        typer.Option(
            metavar="Å", help="Largest displacement of an atom in one step.", rich_help_panel=_STEPS
        ),
    ] = 0.05,
    displacement: Annotated[
        float,
        typer.Option(
            metavar="Å",
            help="Standard deviation of the random displacements at the starts.",
            rich_help_panel=_STEPS,
        ),
    ] = 0.02,
    strain: Annotated[
        bool,
        typer.Option("--strain", help="Strain the cell, too (crystals).", rich_help_panel=_STEPS),
    ] = False,
    torsion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="I-J-K-L|all",
            help="Change only this torsion of a molecule, four atoms counted from 0 (repeatable); all: every "
            "bond outside rings.",
            rich_help_panel=_STEPS,
            show_default=False,
        ),
    ] = None,
    ceiling: Annotated[
        float | None,
        typer.Option(
            metavar="eV",
            help="Highest energy above that of the structure.",
            rich_help_panel=_LIMITS,
            show_default="by --temperature",
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(metavar="K", help="The ceiling is k T per atom.", rich_help_panel=_LIMITS),
    ] = 1000.0,
    closest: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Shortest distance of two atoms, in sums of their covalent radii.",
            rich_help_panel=_LIMITS,
        ),
    ] = 0.7,
    dissociation: Annotated[
        bool,
        typer.Option(
            "--dissociation", help="Allow fragments to come apart.", rich_help_panel=_LIMITS
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(metavar="N", help="Seed of the displacements.", rich_help_panel=_STEPS),
    ] = 0,
    picks: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Structures with large U that differ most, written beside --out as FILE-picks.xyz for "
            "'forcedelta recalc'; 0: none.",
            rich_help_panel=OUTPUT,
        ),
    ] = 16,
    out: Annotated[
        str, typer.Option(metavar="FILE.h5", help="File to write, H5MD.", rich_help_panel=OUTPUT)
    ] = "attack.h5",
    overwrite: Overwrite = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Continue in --out an attack that was interrupted or killed.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: Json = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 1,
) -> int:
    """Search for structures of low energy at which the model's two forces disagree most.

    From displaced copies of each structure, paths climb the Force Delta U (eV/Å) and descend the
    energy (eV). Each accepted structure is a frame of --out. A path ends when its steps are made, at
    the energy ceiling, where atoms come too close, or where a molecule would fall apart.
    """
    values = {name: value for name, value in locals().items() if name not in _ONLY_HERE}
    given = {name for name in values if source_of(context, name) == "COMMANDLINE"}
    if torsion:
        given.add("torsions")
    from ..adversarial.attack import attack as attacked

    result = attacked(
        **{**values, "structures": structures or []}, torsions=torsion or (),
        mode=mode(restart, overwrite), progress=True, given=given - {"structures", "out"},
        command=shlex.join(["forcedelta", *sys.argv[1:]]),
    )  # fmt: skip
    if json:
        print_json(result.as_dict())
        print_line(result.line)
    else:
        rows = [
            (
                path.path, Path(result.structures[path.structure]).name, path.moves,
                *(_number(value) for value in (path.first, path.highest, path.rise)),
                path.reason or "interrupted",
            )
            for path in result.paths
        ]  # fmt: skip
        heads = ("path", "structure", "steps", "U at the start", "largest U", "E - E0", "ended")
        show(table(heads, rows), "U in eV/Å, E in eV", result.line)
    if result.problem:
        print_line(f"error: {result.problem}")
        return ExitStatus.BAD_INPUT
    return ExitStatus.INTERRUPTED if result.reason == "interrupted" else ExitStatus.DONE


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
