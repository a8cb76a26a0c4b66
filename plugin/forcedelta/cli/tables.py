"""Tables on stdout: coloured on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from md_hooks.progress import QuietStream
from md_hooks.text import printable

_PLAIN_WIDTH, _WIDEST = 120, 140


def width() -> int:
    """Width of the terminal in columns, or of piped output."""
    if not QuietStream(sys.stdout).isatty() and "COLUMNS" not in os.environ:
        return _PLAIN_WIDTH
    return min(shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns, _WIDEST)


def cell(text: object, style: str = "") -> Text:
    """A cell whose text is interpreted neither as markup nor as escape codes."""
    return Text(printable(text), style)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, wrapped: int = -1) -> Table:
    """A table without a frame.

    Args:
        heads: column headings; all empty for a table without a heading line.
        rows: texts, or cells made by `cell`.
        wrapped: the column whose text may wrap.
    """
    made = Table(
        box=box.SIMPLE_HEAD if any(heads) else None, show_header=any(heads), pad_edge=False
    )
    last = wrapped % len(heads)
    for k, head in enumerate(heads):
        made.add_column(head, no_wrap=k != last, overflow="fold")
    for row in rows:
        made.add_row(*(entry if isinstance(entry, Text) else cell(entry) for entry in row))
    return made


def show(*parts: Table | Text | str) -> None:
    """Print tables and lines to stdout, regardless of its encoding and state."""
    stream = QuietStream(sys.stdout)
    stream.write(rendered(parts, stream.isatty()))
    stream.flush()


def rendered(parts: Iterable[Table | Text | str], coloured: bool) -> str:
    """Tables and lines as text, with colours if requested and not disabled by ``NO_COLOR``."""
    text = io.StringIO()
    console = Console(
        file=text, width=width(), force_terminal=coloured, highlight=False, markup=False,
        emoji=False, legacy_windows=False,
    )  # fmt: skip
    for part in parts:
        if isinstance(part, Table):
            console.print(part)
        else:  # a piped line is not wrapped
            console.print(cell(part) if isinstance(part, str) else part, soft_wrap=not coloured)
    lines = text.getvalue().split("\n")
    return "\n".join(line.rstrip() for line in lines)
