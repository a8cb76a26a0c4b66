"""``forcedelta check``: whether a model's forces are what they are said to be."""

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
            metavar="STRUCTURE", help="Structure file that ASE reads, of the kind that you want to run."
        ),
    ],
    architecture: Architecture = None,
    trust: Trust = False,
    charge: Charge = None,
    spin: Spin = None,
    device: Device = "cpu",
    dtype: Annotated[
        Literal["float32", "float64"],
        typer.Option(help="Precision of the run to come; derivatives, symmetries "
                     "and jumps are measured in float64 where the model can."),
    ] = "float32",
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer finite differences, and no search for hidden jumps."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> int:  # fmt: skip
    """Check that MODEL's F_c is -dE/dr on STRUCTURE, so that its U means something.

    Compares the conservative forces with finite differences of the energy, and measures signs and
    scale of the direct forces by element, whether two copies have twice the energy, net forces,
    the effect of rotation, noise, jumps where neighbours change, agreement with the model's own
    library, and the cost of U. All but U itself is measured on a copy with random displacements of
    0.05 Å, since in a symmetric structure forces vanish and a wrong gradient with them.
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
    ". F_c is the gradient of the energy, and U the disagreement of two predictions of the "
    "model. Whether U follows its errors is another question: compare it with a reference"
)


def _verdict(result: CheckResult) -> list[str]:
    reasons = [f"- {reason}" for reason in result.reasons]
    return [f"verdict: {result.verdict}" + ("" if reasons else _SOUND), *reasons]
