"""``python -m forcedelta.training``: train a model from a recipe, evaluate a model on labels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import ase.io
import typer

from md_hooks.progress import print_line

from ..training.quality import Errors, predictors, ranked, summary
from ..training.tasks import held_out_frames, measure_models, train_recipe
from . import status_of
from .checked import CheckedCommand
from .standard_streams import flush_streams, open_streams

app = typer.Typer(
    name="forcedelta.training",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
Data = Annotated[Path, typer.Option(help="folder with the labelled extended-XYZ files")]
EnergyKey = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="name of the labelled energies, eV, e.g. REF_energy; instead of the recipe's energy_key",
        show_default="'energy' or 'free_energy'",
    ),
]
ForcesKey = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="name of the labelled forces, eV/Å, e.g. REF_forces; instead of the recipe's forces_key",
        show_default="'forces'",
    ),
]


@app.command("train", cls=CheckedCommand)
def train_command(
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="TOML file, or the name of an included recipe")
    ],
    out: Annotated[Path, typer.Option(help="file of weights to write (.safetensors)")],
    data: Data = Path("."),
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="seed to use instead of the recipe's")
    ] = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    report_every: Annotated[
        int, typer.Option(metavar="N", help="print progress every N epochs")
    ] = 10,
) -> None:
    """Train a model and write the averaged weights and their metadata to OUT.

    Training uses one thread: batches of small structures gain nothing from more.
    """
    train_recipe(
        recipe_name, data, out, seed=seed, energy_key=energy_key, forces_key=forces_key,
        report_every=report_every,
        report=lambda line: print_line(line, sys.stdout),
    )  # fmt: skip


@app.command("held-out", cls=CheckedCommand)
def held_out_command(
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help="TOML file, or the name of an included recipe")
    ],
    out: Annotated[Path, typer.Option(help="extended XYZ file to write")],
    data: Data = Path("."),
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
) -> None:
    """Write the labelled frames that a recipe holds out from training, for calibration."""
    frames = held_out_frames(recipe_name, data, energy_key=energy_key, forces_key=forces_key)
    ase.io.write(out, frames, format="extxyz")
    print_line(f"{len(frames)} frames written to {out}", sys.stdout)


@app.command(cls=CheckedCommand)
def quality(
    model: Annotated[str, typer.Argument(help="registered name or file of weights")],
    recipe_name: Annotated[
        str, typer.Option("--recipe", help="recipe whose held-out frames are the first test set")
    ],
    also: Annotated[
        list[Path] | None, typer.Option(help="additional labelled files, each a separate test set")
    ] = None,
    member: Annotated[
        list[str] | None, typer.Option(help="models of an ensemble for comparison")
    ] = None,
    data: Data = Path("."),
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
) -> None:
    """Print errors, and how well the Force Delta and its controls rank them, as Markdown."""
    measured = measure_models(
        [model, *(member or [])], recipe_name, also or [], data, energy_key=energy_key,
        forces_key=forces_key,
    )  # fmt: skip
    for name, errors in measured.items():
        print_line("\n".join(_table(name, errors[0], errors[1:])), sys.stdout)


def _table(title: str, errors: Errors, members: list[Errors]) -> list[str]:
    """Markdown table: how well each predictor ranks the errors of this test set."""
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; user errors print one line and give exit status 2."""
    open_streams()
    code = status_of(app, arguments, "python -m forcedelta.training")
    flush_streams()
    raise SystemExit(code)
