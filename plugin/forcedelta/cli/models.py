"""``forcedelta models``: which models there are, and what is known about them."""

from __future__ import annotations

import json as json_module
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from md_hooks.progress import say

if TYPE_CHECKING:
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
    """List the models that 'forcedelta run --model NAME' knows.

    Those that come with the package or from other packages first, then the published ones of each
    library, and how to install the library where it is missing. Those of other packages are
    imported, but not loaded, to see whether they can be used: in processes of their own.
    """
    from ..models.catalogue import families

    found = known_models()
    if json:
        everything = found + [model for family in families() for model in _published(family)]
        say(json_module.dumps(everything, ensure_ascii=False), sys.stdout)
        return 0
    say("\n\n".join([*map(_describe, found), *map(_describe_family, families())]), sys.stdout)
    return 0


def _published(family: Family) -> list[dict[str, Any]]:
    """The models of a library, JSON-able; "error" says why it cannot be used here."""
    facts: dict[str, Any] = {"library": family.title, "package": family.distribution}
    problem = family.problem()
    if problem:
        facts |= {"error": problem, "install": family.install}
        if family.apart:
            facts["apart"] = family.apart
    return [asdict(model) | facts for model in family.published]


def _describe_family(family: Family) -> str:
    problem = family.problem()
    lines = [family.title]
    if problem:
        lines += [f"  {problem}: {family.install}"]
        lines += [f"  {family.apart}"] if family.apart else []
    else:
        lines += [f"  installed: {family.distribution} {version(family.distribution)}"]
    if family.architectures:
        lines += _wrapped("local files: --architecture " + ", ".join(family.architectures))
    width = max((len(model.name) for model in family.published), default=0)
    for model in family.published:
        state = ", charge and spin" if model.charge_spin else ""
        (structures,) = _text("periodic", model.periodic)
        parts = [f"{structures}{state}", model.elements, model.licence, model.note]
        lines.append(f"  {model.name:<{width}}  {'; '.join(part for part in parts if part)}")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="    ")


def known_models() -> list[dict[str, Any]]:
    """Name and metadata of each model outside of `forcedelta.models.catalogue`, JSON-able.

    With "error" where one cannot be used.
    """
    from ..errors import ForceDeltaError
    from ..models.files import read_metadata
    from ..models.plugins import problems
    from ..models.registry import embedded_models, registered_models

    found: list[dict[str, Any]] = []
    for name, path in embedded_models().items():
        try:
            facts = dict(read_metadata(path))
        except ForceDeltaError as error:
            facts = {"error": str(error)}
        found.append({**facts, "name": name, "package": "forcedelta"})
    registered = registered_models()
    broken = problems(registered)
    for name, point in registered.items():
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        problem = {"error": broken[name]} if name in broken else {}
        found.append({"name": name, "package": package, **problem})
    return found


def _describe(model: Mapping[str, Any]) -> str:
    lines = [str(model["name"])]
    for label, key in _ROWS:
        if key not in model:
            continue
        first, *more = _text(key, model[key])
        lines.append(f"  {label:<16} {first}")
        lines += [f"  {'':<16} {line}" for line in more]
    return "\n".join(lines)


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
