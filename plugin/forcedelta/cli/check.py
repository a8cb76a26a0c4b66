"""``forcedelta check``: validate the energy, forces and U of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import ForceDeltaError
from ..structures import read_structure
from .exit_status import ExitStatus, described
from .options import (
    Architecture,
    Charge,
    Device,
    FileFormat,
    NoPbc,
    Select,
    Spin,
    Trust,
    TypeMap,
)
from .printing import print_json
from .tables import cell, show, table

if TYPE_CHECKING:
    from ..verify.check import CheckResult
    from ..verify.time_steps import TimeSteps

EPILOG = described(ExitStatus.DONE, ExitStatus.BAD_INPUT, ExitStatus.NOT_USABLE)


def check(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name of a model (see 'forcedelta models') or path of its file.")
    ],
    structure: Annotated[
        str,
        typer.Argument(
            metavar="STRUCTURE", help="Structure file that ASE reads, similar to those that you intend to run."
        ),
    ],
    architecture: Architecture = None,
    trust: Trust = False,
    charge: Charge = None,
    spin: Spin = None,
    type_map: TypeMap = None,
    no_pbc: NoPbc = False,
    file_format: FileFormat = None,
    select: Select = None,
    device: Device = "cpu",
    dtype: Annotated[
        Literal["float32", "float64"],
        typer.Option(help="Precision of the intended run; derivatives, symmetries "
                     "and jumps are measured in float64 if the model supports it."),
    ] = "float32",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer finite differences, and no search for hidden jumps."),
    ] = False,
    mts: Annotated[
        bool,
        typer.Option("--mts", help="Also find the largest --inner of 'forcedelta run --forces mts' that "
                     "conserves energy on STRUCTURE, from NVE runs of 0.4 ps, and its cost."),
    ] = False,
    drift_bound: Annotated[
        float,
        typer.Option(metavar="meV/atom/ps", help="Largest drift of the energy for --mts; 1 leaves 0.4 K of "
                     "heating with a thermostat of 100 fs."),
    ] = 1.0,
    timestep: Annotated[
        float, typer.Option(metavar="fs", help="Time step for --mts, fs.")
    ] = 0.5,
    temperature: Annotated[
        float, typer.Option(metavar="K", help="Temperature for --mts, K.")
    ] = 300.0,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> int:  # fmt: skip
    """Check that MODEL's F_c is -dE/dr on STRUCTURE, so that its U means something.

    Compares the conservative forces with finite differences of the energy, and measures the sign and
    scale of the direct forces by element, size consistency, net forces, rotational equivariance,
    noise, jumps where the neighbour list changes, agreement with the model's own library, and the
    cost of U. All measurements except U itself use a copy with random displacements of 0.05 Å,
    since forces, and errors of the gradient, vanish in a symmetric structure.
    """
    if not mts and (drift_bound, timestep, temperature) != (1.0, 0.5, 300.0):
        raise ForceDeltaError(
            "--drift-bound, --timestep and --temperature belong to --mts: pass it too, or omit them"
        )
    # before PyTorch, which takes seconds to import
    atoms = read_structure(structure, type_map, no_pbc, file_format=file_format, select=select)
    from ..verify.check import check as checked
    from .check_screen import CheckScreen

    with CheckScreen(structure, quiet=json) as screen:
        result = checked(
            model, atoms, architecture=architecture, trust=trust, charge=charge, spin=spin,
            device=device, dtype=dtype, quick=quick, listener=screen,
        )  # fmt: skip
    if not json:
        show("", *_verdict(result))
    steps = None
    if mts and result.verdict != "not usable":
        from ..verify.time_steps import time_steps

        steps = time_steps(
            result.subject.model, result.subject.atoms, timestep=timestep, temperature=temperature,
            drift_bound=drift_bound, device=device, dtype=dtype,
        )  # fmt: skip
    if json:
        known = {"time_steps": None if steps is None else steps.as_dict()} if mts else {}
        print_json({**result.as_dict(), "structure": structure, **known})
    elif steps is not None:
        show("", *_time_steps(steps))
    return ExitStatus.NOT_USABLE if result.verdict == "not usable" else ExitStatus.DONE


_SOUND = (
    ". F_c is the negative gradient of the energy, and U measures the disagreement of two predictions of "
    "the model. Whether U correlates with its errors must be tested against a reference"
)


def _verdict(result: CheckResult) -> list[str]:
    reasons = [f"- {reason}" for reason in result.reasons]
    return [f"verdict: {result.verdict}" + ("" if reasons else _SOUND), *reasons]


def _time_steps(found: TimeSteps) -> list[Any]:
    """Table of the NVE runs, and the recommended inner steps."""
    rows = [
        [
            cell("U at every step" if leg.forces == "conservative" else leg.forces),
            cell(f"{leg.inner}" if leg.forces == "mts" else ""),
            cell(f"{leg.inner * found.timestep:g}" if leg.forces == "mts" else ""),
            cell("explodes" if leg.drift is None else str(leg.drift)),
            cell(f"{leg.seconds / found.direct.seconds:.2f}"),
        ]
        for leg in found.legs
    ]
    largest = found.largest
    if largest is None:
        advice = (
            f"no --inner keeps the drift below {found.bound:g} meV/atom/ps: pass a shorter --timestep, or "
            "run with --forces conservative"
        )
    else:
        advice = (
            f"recommended: --forces mts --inner {largest.inner}, at "
            f"{largest.seconds / found.direct.seconds:.2f} times the cost of direct forces alone and "
            f"{largest.seconds / found.conservative.seconds:.2f} times that of U at every step"
        )
    title = f"NVE at {found.temperature:g} K, {found.timestep:g} fs"
    columns = ["forces", "inner", "outer step (fs)", "drift", "cost"]
    return [title, table(columns, rows), advice]
