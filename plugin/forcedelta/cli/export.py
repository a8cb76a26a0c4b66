"""``forcedelta export``: a model as a TorchScript file for OpenMM."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from md_hooks.progress import print_line

from ..errors import ForceDeltaError
from ..installing import command
from ..outputs import Named, check_outputs, refuse_existing
from .exit_status import ExitStatus
from .options import Architecture, Charge, Dtype, Overwrite, Spin, Trust
from .printing import print_json


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Name of a model (see 'forcedelta models') or path of its file."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.pt", help="File to write.")],
    dtype: Dtype = "float32",
    architecture: Architecture = None,
    trust: Trust = False,
    charge: Charge = None,
    spin: Spin = None,
    overwrite: Overwrite = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the metadata of the file as JSON.")
    ] = False,
) -> int:
    """Write MODEL as a TorchScript file that OpenMM's TorchForce evaluates in C++.

    The file includes the neighbour list. Input positions are in nm; output energies are in kJ/mol
    and forces in kJ/(mol nm). In Python: add_force_delta(system, "FILE.pt", topology,
    path="torchscript"). Charge and spin are fixed in the file.
    """
    check_outputs([Named("--out", out)], [Named("model", model)])
    refuse_existing("--out", out, overwrite)
    try:
        from ..openmm.export import export as write
    except ModuleNotFoundError as error:
        raise ForceDeltaError(
            f"export needs the package {error.name}: {command('openmm')}"
        ) from error
    written = write(
        model, out, dtype=dtype, charge=charge, spin=spin, architecture=architecture, trust=trust
    )
    if json:
        print_json({**written, "file": str(out)})
    else:
        line = f"{written['name']}, {written['dtype']}, written by torch {written['torch']}: {out}"
        print_line(line, sys.stdout)
    return ExitStatus.DONE
