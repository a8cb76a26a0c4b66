"""``forcedelta check``: whether a model's forces are what they are said to be."""

from __future__ import annotations

import json as json_module
import math
import shutil
import sys
import textwrap
from functools import partial
from typing import Annotated, Any, Literal

import typer
from ase import Atoms
from tqdm import tqdm

from md_hooks.progress import QuietStream, say
from md_hooks.text import printable

from ..simulation.structures import read_structure
from .model_options import Architecture, Charge, Spin, Trust

NOT_USABLE = 4

EPILOG = (
    "Exit status: 0 sound or usable with caveats; 4 not usable, since F_c is not the gradient of "
    "the energy or another finding makes U meaningless; 2 bad input, one line on stderr."
)
_MARKS = {"ok": "ok", "caveat": "caveat", "bad": "BAD", "info": ""}
_COLOURS = {"ok": "green", "caveat": "yellow", "bad": "red", "info": None}
_TITLE, _MARK = 31, 7


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
    device: Annotated[str, typer.Option(help="Device of torch: cpu, cuda, cuda:1, mps, xpu.")] = "cpu",
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
    atoms = read_structure(structure)
    tell = partial(say, stream=sys.stdout)
    import torch

    from ..ase import usable_device
    from ..models import LoadedModel, load_model
    from ..verify.inspection import DISPLACEMENT, Inspector

    where = usable_device(device)

    def load(precision: torch.dtype) -> LoadedModel:
        loaded = load_model(model, precision, where, architecture=architecture, trust=trust)
        _set_charge_and_spin(atoms, loaded, charge, spin)
        return loaded

    inspector = Inspector(load, atoms, getattr(torch, dtype), where, quick)
    precision = str(inspector.exact.dtype).removeprefix("torch.")
    if not json:
        tell(
            f"{inspector.used.model.name} ({inspector.used.model.library}) on {structure}: "
            f"{_describe(atoms)}; {dtype}"
        )
        tell(f"measured on a copy with displacements of {DISPLACEMENT:g} Å, in {precision}\n")
    steps = inspector.steps
    out, shown = QuietStream(sys.stderr), QuietStream(sys.stdout)
    with tqdm(total=len(steps), unit="", leave=False, file=out, disable=not out.isatty()) as bar:
        for step in steps:
            bar.set_description(step[1])
            for finding in inspector.run(step):
                if not json:
                    bar.clear()
                    shown.write(f"{_row(finding, shown.isatty())}\n")
                    shown.flush()
            bar.update()
            if inspector.hopeless:
                break
    result = inspector.result()
    if json:
        facts = {
            "model": result.model.name,
            "library": result.model.library,
            "weights_hash": result.model.weights_hash,
            "structure": structure,
            "formula": str(atoms.symbols),
            "atoms": len(atoms),
            "dtype": dtype,
            "measured_in": precision,
            "verdict": result.verdict,
            "reasons": result.reasons,
            "findings": [vars(finding) for finding in result.findings],
        }
        tell(json_module.dumps(_finite(facts), ensure_ascii=False))
    else:
        tell("")
        tell(_fill(f"verdict: {result.verdict}" + ("" if result.reasons else _SOUND)))
        for reason in result.reasons:
            tell(_fill(f"- {reason}", "  "))
    return NOT_USABLE if result.verdict == "not usable" else 0


_SOUND = (
    ". F_c is the gradient of the energy, so that U is the disagreement of two predictions of the "
    "model. Whether U follows its errors is another question: compare it with a reference"
)


def _set_charge_and_spin(atoms: Atoms, model: Any, charge: int | None, spin: int | None) -> None:
    from ..checks import check_takes_charge
    from ..graph import charge_and_spin

    given = {"charge": charge, "spin": spin}
    if not model.takes_charge_spin:
        check_takes_charge(model, charge, spin)
        return
    atoms.info.update({name: value for name, value in given.items() if value is not None})
    charge_and_spin(atoms, model)


def _describe(atoms: Atoms) -> str:
    directions = int(atoms.pbc.sum())
    kind = f"periodic in {directions} directions" if directions else "molecule"
    return f"{atoms.get_chemical_formula()}, {len(atoms)} atoms, {kind}"


def _row(finding: Any, coloured: bool) -> str:
    mark = f"{_MARKS[finding.level]:<{_MARK}}"
    if coloured:
        mark = typer.style(mark, fg=_COLOURS[finding.level])
    indent = " " * (_MARK + _TITLE)
    width = max(40, _width() - len(indent))
    first, *more = textwrap.wrap(printable(finding.text), width) or [""]
    return "\n".join([f"{mark}{finding.title:<{_TITLE}}{first}", *(indent + line for line in more)])


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _width(), subsequent_indent=indent)


def _width() -> int:
    return min(shutil.get_terminal_size((120, 24)).columns, 140)


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
