"""Parts of pages that are made from the program: a page marks their place by ``<!-- generated: NAME -->``."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from forcedelta import guarded_run
from forcedelta.cli.exit_status import ExitStatus

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = re.compile(r"<!-- generated: ([\w-]+) -->")
STRUCTURE = Path(__file__).parents[2] / "examples" / "acetylacetone.xyz"


def commands() -> str:
    """All commands with their options, by typer; its title is left to the page."""
    program = ["-m", "typer", "forcedelta.cli", "utils", "docs", "--name", "forcedelta"]
    text = subprocess.run(
        [sys.executable, *program], check=True, capture_output=True, encoding="utf-8"
    ).stdout
    return re.sub(r"^# `forcedelta`\n", "", text.replace("&#x27;", "'"))


def exit_statuses() -> str:
    rows = [f"| {status:d} | {status.meaning} |" for status in ExitStatus]
    return "\n".join(["| exit status | meaning |", "|---|---|", *rows])


def h5md_tree() -> str:
    """The tree of a file that a run of a few steps has written."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        path = Path(folder) / "run.h5"
        guarded_run(STRUCTURE, "acac", 20, out=path, flag_above=1.0, seed=1)
        with h5py.File(path) as file:
            return "```text\n" + "\n".join(tree_of(file)) + "\n```"


def tree_of(group: h5py.Group, indent: str = "") -> list[str]:
    """One line for each group, element, dataset and attribute below a group.

    An element of H5MD is a group of value, step and time; its line tells the value.
    """
    lines = [f"{indent}@{name} = {_shortened(value)}" for name, value in group.attrs.items()]
    for name, item in group.items():
        value = item.get("value") if isinstance(item, h5py.Group) else item
        if isinstance(value, h5py.Dataset):
            shape = " x ".join(map(str, value.shape))
            lines.append(
                f"{indent + name:<32}{value.dtype!s:<9}{shape:<13}{value.attrs.get('unit', '')}"
            )
        else:
            lines += [f"{indent}{name}/", *tree_of(item, indent + "    ")]
    return [line.rstrip() for line in lines]


def _shortened(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "exit-statuses": exit_statuses,
    "h5md-tree": h5md_tree,
}


def fill(app: Sphinx, page: str, content: list[str]) -> None:
    content[0] = MARK.sub(lambda mark: PARTS[mark[1]](), content[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
