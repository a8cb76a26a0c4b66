"""``forcedelta models``: which models there are, and what is known about them."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from typing import Annotated, Any

import typer

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

    Those of other packages are imported, but not loaded, to see whether they can be used.
    """
    found = known_models()
    if json:
        print(json_module.dumps(found, ensure_ascii=False))
    elif not found:
        print("no models are installed; 'forcedelta run --model' takes the path of one")
    else:
        print("\n\n".join(_describe(model) for model in found))
    return 0


def known_models() -> list[dict[str, Any]]:
    """Name and metadata of each model, JSON-able; with "error" where one cannot be used."""
    from ..errors import ForceDeltaError
    from ..models.files import read_metadata
    from ..models.registry import embedded_models, registered_models

    found: list[dict[str, Any]] = []
    for name, path in embedded_models().items():
        try:
            facts = dict(read_metadata(path))
        except ForceDeltaError as error:
            facts = {"error": str(error)}
        found.append({**facts, "name": name, "package": "forcedelta"})
    for name, point in registered_models().items():
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        entry: dict[str, Any] = {"name": name, "package": package}
        try:
            point.load()
        except Exception as error:  # whatever an import of another package may raise
            reason = " ".join(str(error).split())
            entry["error"] = f"cannot be imported ({type(error).__name__}: {reason})"
        found.append(entry)
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
