"""The flags that say which model is meant, shared by the commands."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Model"

Architecture = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="With the path of another library's checkpoint: which network it holds, e.g. "
        "orb-v3-direct-20, or a published name of 'forcedelta models'.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load a local file that can run code: a pickle, as fairchem's checkpoints are, TorchScript "
        "that does more than compute, or a metatomic model with compiled extensions. Only for files "
        "whose origin you know.",
        rich_help_panel=PANEL,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Hand the network to torch.compile, where its library supports it: slow to start.",
        rich_help_panel=PANEL,
    ),
]
Charge = Annotated[
    int | None,
    typer.Option(
        metavar="e",
        help="Total charge, e, for models that take one.",
        rich_help_panel=PANEL,
        show_default="that of the structure file",
    ),
]
Spin = Annotated[
    int | None,
    typer.Option(
        metavar="2S+1",
        help="Spin multiplicity, 1 for a closed shell, for models that take one.",
        rich_help_panel=PANEL,
        show_default="that of the structure file",
    ),
]
