"""Progress of a screen on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from md_hooks.progress import LINE_SECONDS, QuietStream, print_line


class ScreenProgress:
    """Counts structures. The total grows when a file turns out to have several frames.

    Args:
        files: their number.
        shown: whether anything is printed.
    """

    def __init__(self, files: int, shown: bool) -> None:
        stream = QuietStream(sys.stderr)
        self._bar = tqdm(
            total=files, unit="structure", file=stream, disable=not shown or not stream.isatty()
        )
        self._lines = shown and self._bar.disable
        self._total, self._done = files, 0
        self._due = time.monotonic() + LINE_SECONDS

    def found(self, frames: int) -> None:
        """A file has so many frames."""
        self._total += frames - 1
        self._bar.total = self._total
        self._bar.refresh()

    def done(self, structures: int) -> None:
        """So many more structures have their rows."""
        self._done += structures
        self._bar.update(structures)
        if self._lines and time.monotonic() >= self._due:
            self._due = time.monotonic() + LINE_SECONDS
            print_line(f"{self._done} of {self._total} structures screened")

    def close(self) -> None:
        """End the display."""
        self._bar.close()
