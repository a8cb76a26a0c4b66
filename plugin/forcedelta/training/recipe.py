"""A recipe: everything that a training run depends on, as a TOML file."""

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from forcedelta.errors import ForceDeltaError
from forcedelta.training.loop import Settings


@dataclass(frozen=True)
class Recipe:
    """What to train on, how, and what the file of weights says about itself."""

    training: list[str]  # extended-XYZ files with energies (eV) and forces (eV/Å)
    network: dict[str, Any]  # arguments of DirectForceNetwork but for the elements; cutoff in Å
    settings: Settings
    metadata: dict[str, Any]  # name, source, licence, level_of_theory, regime, periodic
    isolated_atoms: str | None = None  # file with one frame of each element alone
    validation: float = 0.1  # share of the frames of each file that is kept out of training
    split_seed: int = 0


def shipped_recipes() -> list[str]:
    """Names of the recipes that made the embedded models."""
    folder = files("forcedelta.training") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir())


def read_recipe(name: str) -> Recipe:
    """A recipe by the name of a shipped one or by the path of a TOML file.

    Raises ForceDeltaError for a file that does not exist, is no TOML, or has a key missing or unknown.
    """
    if name in shipped_recipes():
        text = (files("forcedelta.training") / "recipes" / f"{name}.toml").read_text()
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise ForceDeltaError(
                f"{name}: no such recipe; give a TOML file or one of {', '.join(shipped_recipes())}"
            ) from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ForceDeltaError(f"{name}: not a TOML file ({error})") from error
    known = {field.name for field in fields(Recipe)}
    unknown = sorted(set(table) - known)
    missing = sorted({"training", "network", "settings", "metadata"} - set(table))
    if unknown or missing:
        raise ForceDeltaError(
            f"{name}: unknown keys {unknown}, missing keys {missing}; a recipe has {sorted(known)}"
        )
    try:
        settings = Settings(**table.pop("settings"))
    except TypeError as error:
        raise ForceDeltaError(f"{name}: [settings]: {error}") from error
    return Recipe(settings=settings, **table)
