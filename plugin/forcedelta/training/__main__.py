"""Commands: train a model after a recipe, and measure a model on labelled structures."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import ase.io
import numpy as np
import torch
import typer
from ase import Atoms

from forcedelta.cli import status_of
from forcedelta.cli.checked import CheckedCommand
from forcedelta.cli.standard_streams import flush_streams, open_streams
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
)
from forcedelta.training.loop import train
from forcedelta.training.quality import Errors, join, measure, predictors, ranked, summary
from forcedelta.training.recipe import Recipe, read_recipe
from md_hooks.progress import say

app = typer.Typer(
    name="forcedelta.training",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Data = Annotated[Path, typer.Option(help="folder of the labelled extended-XYZ files")]


def _tell(line: str) -> None:
    say(line, sys.stdout)


def split(recipe: Recipe, data: Path) -> tuple[list[Atoms], list[Atoms]]:
    """Training and held-out frames of a recipe; the same ones whenever it is called."""
    generator = np.random.default_rng(recipe.split_seed)
    training: list[Atoms] = []
    held_out: list[Atoms] = []
    for name in recipe.training:
        frames = read_labelled(data / name)
        count = round(recipe.validation * len(frames))
        chosen = set(generator.choice(len(frames), count, replace=False).tolist())
        for index, atoms in enumerate(frames):
            (held_out if index in chosen else training).append(atoms)
    return training, held_out


def new_network(
    recipe: Recipe, frames: list[Atoms], parts: list[Batch], data: Path
) -> DirectForceNetwork:
    """A network with random weights and the scales of the training set."""
    elements = sorted({int(number) for atoms in frames for number in atoms.numbers})
    isolated: list[Atoms] = []
    if recipe.isolated_atoms:
        isolated = read_frames(data / recipe.isolated_atoms)
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


@app.command("train", cls=CheckedCommand)
def train_command(
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="TOML file, or the name of a shipped one")
    ],
    out: Annotated[Path, typer.Option(help="file of weights to write (.safetensors)")],
    data: Data = Path("."),
    seed: Annotated[int | None, typer.Option(metavar="N", help="instead of the recipe's")] = None,
    report_every: Annotated[
        int, typer.Option(metavar="N", help="epochs between two lines of progress")
    ] = 10,
) -> None:
    """Train a model; writes the averaged weights and what they are into OUT.

    One thread: batches of small structures gain nothing from more.
    """
    if not out.parent.is_dir():
        raise ForceDeltaError(f"{out} cannot be written: make the folder {out.parent} first")
    torch.set_num_threads(1)
    recipe = read_recipe(recipe_name)
    if seed is not None:
        recipe = replace(recipe, settings=replace(recipe.settings, seed=seed))
    settings = recipe.settings
    frames, held_out = split(recipe, data)
    if len(frames) < settings.batch_size:
        raise ForceDeltaError(
            f"{len(frames)} frames to train on are fewer than a batch of {settings.batch_size}: lower "
            "batch_size under [settings] in the recipe, or label more frames"
        )
    cutoff = recipe.network["cutoff"]
    parts = [to_batch(atoms, cutoff) for atoms in frames]
    tests = [to_batch(atoms, cutoff) for atoms in held_out]
    network = new_network(recipe, frames, parts, data)
    _tell(f"{len(parts)} frames to train on, {len(tests)} held out")
    _tell(f"labels: {energy_words(frames)}; forces of all atoms, without constraints")
    if warning := mixed_levels(frames + held_out):
        say(f"warning: {warning}", sys.stderr)

    def report(epoch: int, loss: float, seconds: float, averaged: DirectForceNetwork) -> None:
        if epoch % report_every == 0 or epoch == settings.epochs - 1:
            numbers = summary(measure(averaged, tests)) if tests else {}
            _tell(f"epoch {epoch}: loss {loss:.4f}, {seconds:.1f} s, held out {numbers}")

    start = time.perf_counter()
    averaged = train(network, parts, settings, report)
    _tell(f"trained in {(time.perf_counter() - start) / 60:.1f} min")
    metadata = dict(recipe.metadata)
    metadata["training_frames"] = len(parts)
    metadata["tests"] = {"held_out": summary(measure(averaged, tests))} if tests else {}
    save_network(out, averaged, metadata)


@app.command("held-out", cls=CheckedCommand)
def held_out_command(
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="TOML file, or the name of a shipped one")
    ],
    out: Annotated[Path, typer.Option(help="extended XYZ file to write")],
    data: Data = Path("."),
) -> None:
    """Write the labelled frames that a recipe keeps out of training, to calibrate with."""
    held_out = split(read_recipe(recipe_name), data)[1]
    if not held_out:
        raise ForceDeltaError(f"recipe {recipe_name} trains on all frames: none are held out")
    ase.io.write(out, held_out, format="extxyz")
    _tell(f"{len(held_out)} frames in {out}")


def network_of(model: LoadedModel) -> DirectForceNetwork:
    """The network of a model of ours; others keep their energies in other ways."""
    if not isinstance(model.module, DirectForceNetwork):
        raise ForceDeltaError(f"model '{model.name}' is no network of this training program")
    return model.module


def table(title: str, errors: Errors, members: list[Errors]) -> list[str]:
    """Rows of a Markdown table: every predictor's ranking of the errors of this set."""
    numbers = summary(errors)
    rows = [
        "",
        f"**{title}**: {numbers['frames']} frames; MAE of direct forces "
        f"{numbers['direct_mae_meV_per_A']} meV/Å, of conservative forces "
        f"{numbers['conservative_mae_meV_per_A']} meV/Å, of the energy "
        f"{numbers['energy_mae_meV_per_atom']} meV/atom",
        "",
        "| predictor of the error of the direct forces | r_s | AUROC, worst tenth |",
        "|---|---|---|",
    ]
    for name, values in ranked(predictors(errors, members), errors.epsilon).items():
        rows.append(f"| {name} | {values['spearman']:.3f} | {values['auroc']:.3f} |")
    return rows


@app.command(cls=CheckedCommand)
def quality(
    model: Annotated[str, typer.Argument(help="registered name or file of weights")],
    recipe_name: Annotated[
        str, typer.Option("--recipe", help="whose held-out frames are the first set")
    ],
    also: Annotated[
        list[Path] | None, typer.Option(help="further labelled files, each a set of its own")
    ] = None,
    member: Annotated[
        list[str] | None, typer.Option(help="models of an ensemble to compare with")
    ] = None,
    data: Data = Path("."),
) -> None:
    """Print errors, and how well the Force Delta ranks them beside its controls, as Markdown."""
    torch.set_num_threads(1)
    recipe = read_recipe(recipe_name)
    sets = {"held out": split(recipe, data)[1]}
    sets |= {path.stem: read_labelled(data / path) for path in also or []}
    loaded = [load_model(name) for name in (model, *(member or []))]
    results: list[list[Errors]] = []
    for name, frames in sets.items():
        parts = [to_batch(atoms, loaded[0].cutoff) for atoms in frames]
        results.append([measure(network_of(entry), parts) for entry in loaded])
        _tell("\n".join(table(name, results[-1][0], results[-1][1:])))
    if len(sets) > 1:
        pooled = [join(column) for column in zip(*results, strict=True)]
        _tell("\n".join(table("pooled: " + " + ".join(sets), pooled[0], pooled[1:])))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; errors for the user are one line and exit status 2."""
    open_streams()
    code = status_of(app, arguments, "python -m forcedelta.training")
    flush_streams()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
