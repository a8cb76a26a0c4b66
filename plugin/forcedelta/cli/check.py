"""``forcedelta check``: validate the energy, forces and U of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..structures import read_structure
from .exit_status import ExitStatus, described
from .options import Architecture, Charge, Device, Spin, Trust
from .printing import print_json
from .tables import show

if TYPE_CHECKING:
    from ..verify.check import CheckResult

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
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> int:  # fmt: skip
    """Check that MODEL's F_c is -dE/dr on STRUCTURE, so that its U means something.

    Compares the conservative forces with finite differences of the energy, and measures the sign and
    scale of the direct forces by element, size consistency, net forces, rotational equivariance,
    noise, jumps where the neighbour list changes, agreement with the model's own library, and the
    cost of U. All measurements except U itself use a copy with random displacements of 0.05 Å,
    since forces, and errors of the gradient, vanish in a symmetric structure.
    """
    atoms = read_structure(structure)  # before PyTorch, which takes seconds to import
    from ..verify.check import check as checked
    from .check_screen import CheckScreen

    with CheckScreen(structure, quiet=json) as screen:
        result = checked(
            model, atoms, architecture=architecture, trust=trust, charge=charge, spin=spin,
            device=device, dtype=dtype, quick=quick, listener=screen,
        )  # fmt: skip
    if json:
        print_json({**result.as_dict(), "structure": structure})
    else:
        show("", *_verdict(result))
    return ExitStatus.NOT_USABLE if result.verdict == "not usable" else ExitStatus.DONE


_SOUND = (
    ". F_c is the negative gradient of the energy, and U measures the disagreement of two predictions of "
    "the model. Whether U correlates with its errors must be tested against a reference"
)


def _verdict(result: CheckResult) -> list[str]:
    reasons = [f"- {reason}" for reason in result.reasons]
    return [f"verdict: {result.verdict}" + ("" if reasons else _SOUND), *reasons]
