"""Command-line options that several commands share, in the panels of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

MODEL, GUARD, OUTPUT, MACHINE = "Model", "Guard", "Output", "Machine"
READING = "Reading"

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Name of a model (see 'forcedelta models') or path of its file."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Name of a model (see 'forcedelta models') or path of its file.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Network in a checkpoint of another library, e.g. orb-v3-direct-20, or a published name "
        "of 'forcedelta models'.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load a local file that can run code: a pickle, such as fairchem's checkpoints, "
        "TorchScript that does more than compute, or a metatomic model with compiled extensions. "
        "Only for files of known origin.",
        rich_help_panel=MODEL,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the network with torch.compile, where its library supports it: slow to start.",
        rich_help_panel=MODEL,
    ),
]
Charge = Annotated[
    int | None,
    typer.Option(
        metavar="e",
        help="Total charge, e, for models that take one.",
        rich_help_panel=MODEL,
        show_default="that of the structure file",
    ),
]
Spin = Annotated[
    int | None,
    typer.Option(
        metavar="2S+1",
        help="Spin multiplicity, 1 for a closed shell, for models that take one.",
        rich_help_panel=MODEL,
        show_default="that of the structure file",
    ),
]

TypeMap = Annotated[
    str | None,
    typer.Option(
        metavar="1=Si,2=O",
        help="Elements of the atom types of LAMMPS.",
        rich_help_panel=READING,
        show_default=False,
    ),
]
NoPbc = Annotated[
    bool,
    typer.Option(
        "--no-pbc",
        help="Ignore cells and periodicity, as for a molecule in the box of another program.",
        rich_help_panel=READING,
    ),
]

FileFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Format of the files, by its name in ASE ('ase info --formats').",
        rich_help_panel=READING,
        show_default="from name and content",
    ),
]
Select = Annotated[
    str | None,
    typer.Option(
        metavar="ATOMS",
        help="Keep these atoms: indices counted from 0, as in 0:9,12, or a selection of MDAnalysis, "
        "as in 'element C O', evaluated for the first frame.",
        rich_help_panel=READING,
        show_default="all",
    ),
]
Topology = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Topology with the elements of the atoms: PDB with element column, PRMTOP, TPR, PSF, "
        "or a structure that ASE reads. MDAnalysis then reads the trajectory, and --format is a name of "
        "MDAnalysis.",
        rich_help_panel=READING,
        show_default=False,
    ),
]
ForcesKey = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Array of the files that holds the reference forces, eV/Å, if its name is not 'forces', "
        "e.g. REF_forces.",
        rich_help_panel=READING,
        show_default=False,
    ),
]

On = Annotated[
    Literal["force_delta", "worst_atom"],
    typer.Option(
        help="Quantity that the thresholds apply to: U of the frame, or the largest u_i of its atoms.",
        rich_help_panel=GUARD,
    ),
]
StopFactor = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Multiple of the upper end of the burn-in's usual values used by --stop-above auto.",
        rich_help_panel=GUARD,
    ),
]
FlagFactor = Annotated[
    float,
    typer.Option(
        metavar="X",
        help="Multiple of the upper end of the burn-in's usual values used by --flag-above auto.",
        rich_help_panel=GUARD,
    ),
]

StopAbove = Annotated[
    str | None,
    typer.Option(
        metavar="eV/Å|auto|FILE",
        help="Threshold of the guard, eV/Å: a run stops at a frame above it, an audit marks the frame. "
        "auto: --stop-factor times the upper end of the usual values of the burn-in; a burn-in that is "
        "not calm ends the run. FILE.json: threshold of 'forcedelta calibrate'. Values that are not "
        "finite always stop.",
        rich_help_panel=GUARD,
        show_default="none",
    ),
]
FlagAbove = Annotated[
    str | None,
    typer.Option(
        metavar="eV/Å|auto|FILE",
        help="Flag frames above this, eV/Å, and not above --stop-above. auto: with --flag-factor; "
        "FILE.json: as for --stop-above.",
        rich_help_panel=GUARD,
        show_default="auto with --stop-above auto, else none",
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json",
        help="File of 'forcedelta calibrate': predict the error of the direct forces of each frame, eV/Å, "
        "with its interval.",
        rich_help_panel=GUARD,
        show_default=False,
    ),
]
StopError = Annotated[
    float | None,
    typer.Option(
        metavar="eV/Å",
        help="Stop above this predicted error (an audit marks the frame); needs --calibration.",
        rich_help_panel=GUARD,
        show_default="none",
    ),
]
FlagError = Annotated[
    float | None,
    typer.Option(
        metavar="eV/Å",
        help="Flag frames above this predicted error, and those outside the calibrated range.",
        rich_help_panel=GUARD,
        show_default="none",
    ),
]
Patience = Annotated[
    str,
    typer.Option(
        metavar="K/N",
        help="Stop when K of the last N frames with U are above.",
        rich_help_panel=GUARD,
    ),
]
BurnIn = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Length of the burn-in, from which auto takes its thresholds: steps of a run, at the start "
        "temperature, or steps of a trajectory.",
        rich_help_panel=GUARD,
    ),
]
Flags = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.xyz",
        help="Collect flagged frames in an extended XYZ file too; with several trajectories, in one "
        "beside each audit.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Threads of the model on the CPU, per process. More than one pays off only for large "
        "systems.",
        rich_help_panel=MACHINE,
    ),
]

Workers = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Number of processes; each takes a part of the files or structures at a time.",
        rich_help_panel=MACHINE,
    ),
]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace --out.", rich_help_panel=OUTPUT)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)
]

Device = Annotated[
    str,
    typer.Option(help="Device of torch: cpu, cuda, cuda:1, mps, xpu.", rich_help_panel=MACHINE),
]
Dtype = Annotated[
    Literal["float32", "float64"],
    typer.Option(help="Precision of the model.", rich_help_panel=MACHINE),
]
