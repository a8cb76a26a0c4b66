"""``forcedelta models``: list the available models and their properties."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .exit_status import ExitStatus
from .printing import print_json
from .tables import cell, show, table

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ..models.catalogue import Family

_ROWS = (
    ("elements", "elements"),
    ("structures", "periodic"),
    ("cutoff", "cutoff"),
    ("level of theory", "level_of_theory"),
    ("training set", "training_set"),
    ("source", "source"),
    ("regime", "regime"),
    ("licence", "licence"),
    ("tests", "tests"),
    ("package", "package"),
    ("error", "error"),
)


def models(
    json: Annotated[bool, typer.Option("--json", help="Print a list as JSON.")] = False,
) -> int:
    """List the models that 'forcedelta run --model NAME' accepts.

    Models of this and of other packages come first, then the published models of each library, with
    the command that installs the library if it is missing. Models of other packages are imported,
    but not loaded, in separate processes, to test whether they can be used.
    """
    from ..models.listing import families, known_models, published_models

    found = known_models()
    if json:
        print_json(found + published_models())
        return ExitStatus.DONE
    for model in found:
        show(cell(model["name"], "bold"), _properties(model), "")
    for family in families():
        show(cell(family.title, "bold"), *_family(family), "")
    return ExitStatus.DONE


def _family(family: Family) -> list[Text | Table]:
    """A library, its installation status, and its published models."""
    problem = family.problem()
    lines = (
        [f"{problem}: {family.install}", family.apart]
        if problem
        else [f"installed: {family.distribution} {version(family.distribution)}"]
    )
    if family.architectures:
        lines.append("local files: --architecture " + ", ".join(family.architectures))
    rows = []
    for model in family.published:
        state = ", charge and spin" if model.charge_spin else ""
        (structures,) = _text("periodic", model.periodic)
        parts = [f"{structures}{state}", model.elements, model.licence, model.note]
        rows.append([f"  {model.name}", "; ".join(part for part in parts if part)])
    return [
        *(cell(f"  {line}") for line in lines if line),
        *([table(["", ""], rows)] if rows else []),
    ]


def _properties(model: Mapping[str, Any]) -> Table:
    """The properties of a model, one row each."""
    rows = []
    for label, key in _ROWS:
        if key in model:
            rows += [
                [f"  {label if k == 0 else ''}", line]
                for k, line in enumerate(_text(key, model[key]))
            ]
    return table(["", ""], rows)


def _text(key: str, value: Any) -> list[str]:
    if key == "periodic":
        known = {True: "periodic in three directions", False: "molecules"}
        return [known.get(value, "molecules and periodic")]
    if key == "cutoff":
        return [f"{value:g} Å"]
    if isinstance(value, Mapping):
        return [f"{name}: {_flat(number)}" for name, number in value.items()] or ["none"]
    if isinstance(value, list):
        return [" ".join(str(item) for item in value)]
    return [str(value)]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)
