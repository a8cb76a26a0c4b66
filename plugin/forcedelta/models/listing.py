"""All models that have names: those of packages, and the published ones of each library."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import Family, families
from forcedelta.models.files import read_metadata
from forcedelta.models.plugins import problems
from forcedelta.models.registry import embedded_models, registered_models


def known_models() -> list[dict[str, Any]]:
    """Name and metadata of each model outside `forcedelta.models.catalogue`, JSON-able.

    "error" is the reason why a model cannot be used.
    """
    found: list[dict[str, Any]] = []
    for name, path in embedded_models().items():
        try:
            metadata = dict(read_metadata(path))
        except ForceDeltaError as error:
            metadata = {"error": str(error)}
        found.append({**metadata, "name": name, "package": "forcedelta"})
    registered = registered_models()
    broken = problems(registered)
    for name, point in registered.items():
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        problem = {"error": broken[name]} if name in broken else {}
        found.append({"name": name, "package": package, **problem})
    return found


def published_models() -> list[dict[str, Any]]:
    """Published models of all libraries, JSON-able; "error" is the reason why one cannot be used."""
    return [model for family in families() for model in _published(family)]


def _published(family: Family) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {"library": family.title, "package": family.distribution}
    problem = family.problem()
    if problem:
        shared |= {"error": problem, "install": family.install}
        if family.apart:
            shared["apart"] = family.apart
    return [asdict(model) | shared for model in family.published]
