"""A recipe: all settings of a training run, as a TOML file."""

import tomllib
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from forcedelta.errors import ForceDeltaError
from forcedelta.limits import check_type
from forcedelta.reading_files import read_toml
from forcedelta.training.loop import Settings


@dataclass(frozen=True)
class Recipe:
    """Training set, network, settings, and the metadata of the file of weights."""

    training: list[str]  # extended-XYZ files with energies (eV) and forces (eV/Å)
    network: dict[str, Any]  # arguments of DirectForceNetwork except the elements; cutoff in Å
    settings: Settings
    metadata: dict[str, Any]  # name, source, licence, level_of_theory, regime, periodic
    isolated_atoms: str | None = None  # file with one isolated atom of each element
    validation: float = 0.1  # fraction of the frames of each file that is held out
    split_seed: int = 0
    energy_key: str | None = None  # name of the labelled energies; None: ASE's results
    forces_key: str | None = None


def shipped_recipes() -> list[str]:
    """Names of the recipes that made the embedded models."""
    folder = files("forcedelta.training") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir())


def read_recipe(name: str) -> Recipe:
    """A recipe by the name of a shipped one or the path of a TOML file.

    Raises:
        ForceDeltaError: the file does not exist, is not TOML, or has a missing, unknown or invalid
            key.
    """
    if name in shipped_recipes():
        table = tomllib.loads(
            (files("forcedelta.training") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        )
    elif not Path(name).exists():
        shipped = ", ".join(shipped_recipes())
        raise ForceDeltaError(f"{name}: no such recipe; pass a TOML file or one of {shipped}")
    else:
        table = read_toml(name, f"pass a TOML file or one of {', '.join(shipped_recipes())}")
    known = {field.name for field in fields(Recipe)}
    unknown = sorted(set(table) - known)
    missing = sorted({"training", "network", "settings", "metadata"} - set(table))
    if unknown or missing:
        problems = [
            f"{kind} keys {', '.join(keys)}"
            for kind, keys in (("unknown", unknown), ("missing", missing))
            if keys
        ]
        raise ForceDeltaError(
            f"{name}: {'; '.join(problems)}; the keys of a recipe are {', '.join(sorted(known))}"
        )
    for key, hint in get_type_hints(Recipe).items():
        if key in table:
            _check_type(name, key, table[key], hint)
    if not all(isinstance(file, str) and file for file in table["training"]):
        raise ForceDeltaError(f"{name}: training must be a list of file names")
    given = table.pop("settings")
    for key, value in given.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
            raise ForceDeltaError(f"{name}: [settings] {key} must be a non-negative number")
    try:
        settings = Settings(**given)
    except TypeError as error:
        raise ForceDeltaError(f"{name}: [settings]: {error}") from error
    return Recipe(settings=settings, **table)


def recipe_of(
    recipe: str | Path | Recipe, energy_key: str | None = None, forces_key: str | None = None
) -> Recipe:
    """A recipe given as such, by name or as a file, with other names of labels where they are given.

    Raises:
        ForceDeltaError: as `read_recipe`.
    """
    made = recipe if isinstance(recipe, Recipe) else read_recipe(str(recipe))
    return replace(
        made,
        energy_key=made.energy_key if energy_key is None else energy_key,
        forces_key=made.forces_key if forces_key is None else forces_key,
    )


def _check_type(name: str, key: str, value: Any, hint: Any) -> None:
    words = {list: "a list", dict: "a table", Settings: "a table", float: "a number"}
    kind = get_origin(hint) or hint
    if kind in words:
        allowed: Any = {Settings: dict, float: (int, float)}.get(kind, kind)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ForceDeltaError(f"{name}: {key} must be {words[kind]}")
    else:
        check_type(key, value, hint, f"{name}: {key}")
