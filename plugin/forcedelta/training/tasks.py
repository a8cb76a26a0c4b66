"""Training tasks as functions: train from a recipe, return its held-out frames, measure models."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from forcedelta.errors import ForceDeltaError
from forcedelta.models.files import save_network
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.network import DirectForceNetwork
from forcedelta.models.registry import load_model
from forcedelta.training.data import (
    Batch,
    energy_words,
    mixed_levels,
    read_frames,
    read_labelled,
    reference_energies,
    to_batch,
    with_labels,
)
from forcedelta.training.loop import train
from forcedelta.training.quality import Errors, join, measure, summary
from forcedelta.training.recipe import Recipe, recipe_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A trained network.

    Attributes:
        network: with averaged weights.
        metadata: as written to its file.
        held_out: errors on the held-out frames (`quality.summary`); empty without such frames.
        seconds: duration of the training.
    """

    network: DirectForceNetwork
    metadata: Mapping[str, Any]
    held_out: Mapping[str, float]
    seconds: float


def train_recipe(
    recipe: str | Path | Recipe,
    data: str | Path = ".",
    out: str | Path | None = None,
    *,
    seed: int | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    report_every: int = 10,
    report: Callable[[str], None] = _log.info,
) -> TrainingResult:
    """Train a network from a recipe, in one thread.

    More threads do not speed up batches of small structures.

    Args:
        recipe: a recipe, its TOML file, or the name of a shipped one.
        data: folder of the labelled extended-XYZ files.
        out: file of weights to write (.safetensors).
        seed: replaces the recipe's seed.
        energy_key, forces_key: replace the recipe's names of the labels.
        report_every: epochs between two lines of progress.
        report: called with each line; by default the log "forcedelta", which is silent.

    Raises:
        ForceDeltaError: an invalid recipe, unusable labels, or too few frames.
    """
    if out is not None and not Path(out).parent.is_dir():
        raise ForceDeltaError(f"{out} cannot be written: make the folder {Path(out).parent} first")
    torch.set_num_threads(1)
    made = recipe_of(recipe, energy_key, forces_key)
    if seed is not None:
        made = replace(made, settings=replace(made.settings, seed=seed))
    settings, folder = made.settings, Path(data)
    frames, held_out = split(made, folder)
    if len(frames) < settings.batch_size:
        raise ForceDeltaError(
            f"the {len(frames)} training frames do not fill a batch of {settings.batch_size}: lower "
            "batch_size under [settings] in the recipe, or label more frames"
        )
    cutoff = made.network["cutoff"]
    parts = [to_batch(atoms, cutoff) for atoms in frames]
    tests = [to_batch(atoms, cutoff) for atoms in held_out]
    network = new_network(made, frames, parts, folder)
    report(f"{len(parts)} training frames, {len(tests)} held out")
    report(
        f"labels: {made.energy_key or energy_words(frames)}; {made.forces_key or 'forces'} of all atoms, "
        "without constraints"
    )
    if warning := mixed_levels(frames + held_out):
        _log.warning(warning)

    def after(epoch: int, loss: float, seconds: float, averaged: DirectForceNetwork) -> None:
        if epoch % report_every == 0 or epoch == settings.epochs - 1:
            numbers = summary(measure(averaged, tests)) if tests else {}
            report(f"epoch {epoch}: loss {loss:.4f}, {seconds:.1f} s, held out {numbers}")

    start = time.perf_counter()
    averaged = train(network, parts, settings, after)
    seconds = time.perf_counter() - start
    report(f"trained in {seconds / 60:.1f} min")
    errors = summary(measure(averaged, tests)) if tests else {}
    metadata = {
        **made.metadata,
        "training_frames": len(parts),
        "tests": {"held_out": errors} if tests else {},
    }
    if out is not None:
        save_network(Path(out), averaged, metadata)
    return TrainingResult(averaged, metadata, errors, seconds)


def held_out_frames(
    recipe: str | Path | Recipe,
    data: str | Path = ".",
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
) -> list[Atoms]:
    """The labelled frames that a recipe holds out of training; arguments as of `train_recipe`.

    Raises:
        ForceDeltaError: an invalid recipe, or one that trains on all frames.
    """
    held_out = split(recipe_of(recipe, energy_key, forces_key), Path(data))[1]
    if not held_out:
        raise ForceDeltaError(
            f"{_title(recipe)} trains on all frames: set validation above 0 to hold some out"
        )
    return held_out


def _title(recipe: str | Path | Recipe) -> str:
    return "the recipe" if isinstance(recipe, Recipe) else f"recipe {recipe}"


def measure_models(
    models: Sequence[str | Path],
    recipe: str | Path,
    also: Sequence[str | Path] = (),
    data: str | Path = ".",
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
) -> dict[str, list[Errors]]:
    """Errors of models on labelled sets: the recipe's held-out frames, other files, and all pooled.

    Args:
        models: names or files.
        recipe: its held-out frames are the first set.
        also: further labelled files in ``data``, each one a set.
        data: folder of the labelled extended-XYZ files.
        energy_key, forces_key: names of the labels in all of them; None: those of the recipe.

    Returns:
        the errors of each model, by set.
    """
    torch.set_num_threads(1)
    made = recipe_of(recipe, energy_key, forces_key)
    keys = made.energy_key, made.forces_key
    sets = {"held out": split(made, Path(data))[1]}
    sets |= {Path(path).stem: read_labelled(Path(data) / path, *keys) for path in also}
    loaded = [load_model(name) for name in models]
    results: dict[str, list[Errors]] = {}
    for name, frames in sets.items():
        parts = [to_batch(atoms, loaded[0].cutoff) for atoms in frames]
        results[name] = [measure(network_of(model), parts) for model in loaded]
    if len(sets) > 1:
        pooled = [join(column) for column in zip(*results.values(), strict=True)]
        results["pooled: " + " + ".join(sets)] = pooled
    return results


def network_of(model: LoadedModel) -> DirectForceNetwork:
    """The network of an embedded model; other models have no reference energies to subtract."""
    if not isinstance(model.module, DirectForceNetwork):
        raise ForceDeltaError(f"model '{model.name}' is not a network of forcedelta.training")
    return model.module


def split(recipe: Recipe, data: Path) -> tuple[list[Atoms], list[Atoms]]:
    """Training and held-out frames of a recipe; the split is the same in every call."""
    generator = np.random.default_rng(recipe.split_seed)
    training: list[Atoms] = []
    held_out: list[Atoms] = []
    for name in recipe.training:
        frames = read_labelled(data / name, recipe.energy_key, recipe.forces_key)
        count = round(recipe.validation * len(frames))
        chosen = set(generator.choice(len(frames), count, replace=False).tolist())
        for index, atoms in enumerate(frames):
            (held_out if index in chosen else training).append(atoms)
    return training, held_out


def new_network(
    recipe: Recipe, frames: list[Atoms], parts: list[Batch], data: Path
) -> DirectForceNetwork:
    """A network with random weights and with scales from the training set."""
    elements = sorted({int(number) for atoms in frames for number in atoms.numbers})
    isolated: list[Atoms] = []
    if recipe.isolated_atoms:
        path = data / recipe.isolated_atoms
        isolated = [
            with_labels(atoms, f"{path}, frame {index} (counted from 0)", recipe.energy_key, None)
            for index, atoms in enumerate(read_frames(path))
        ]
    torch.manual_seed(recipe.settings.seed)
    network = DirectForceNetwork(elements, **recipe.network)
    network.reference_energies.copy_(
        torch.from_numpy(reference_energies(frames, elements, isolated))
    )
    forces = torch.cat([part.forces for part in parts])
    network.energy_scale.fill_(float(forces.square().mean().sqrt()))
    neighbours = np.mean([part.edge_index.shape[1] / len(part.positions) for part in parts])
    network.density_scale.fill_(float(neighbours) ** -0.5)
    return network
