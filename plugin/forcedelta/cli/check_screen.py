"""Live output of ``forcedelta check``: a table of findings, and a progress bar on a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from ase import Atoms
from tqdm import tqdm

from md_hooks.progress import QuietStream

from ..verify.check import CheckListener, CheckSubject
from ..verify.findings import Finding
from ..verify.inspection import DISPLACEMENT
from .tables import cell, show, table

_MARKS = {
    "ok": ("ok", "green"),
    "caveat": ("caveat", "yellow"),
    "bad": ("BAD", "red"),
    "info": ("", ""),
}
_MARK, _TITLE = 7, 31  # columns


class CheckScreen(CheckListener):
    """Prints each finding as soon as it is available.

    Args:
        structure: name of its file.
        quiet: show only the progress bar.
    """

    def __init__(self, structure: str, quiet: bool) -> None:
        self._structure = structure
        self._quiet = quiet
        self._bar: tqdm | None = None
        self._begun = 0

    def started(self, subject: CheckSubject, measurements: int) -> None:
        """Print the model and the structure."""
        if not self._quiet:
            show(
                f"{subject.model.name} ({subject.model.library}) on {self._structure}: "
                f"{_description(subject.atoms)}; {subject.dtype}",
                f"measured on a copy with displacements of {DISPLACEMENT:g} Å, in {subject.measured_in}",
                "",
            )
        out = QuietStream(sys.stderr)
        self._bar = tqdm(
            total=measurements, unit="", leave=False, file=out, disable=not out.isatty()
        )

    def measuring(self, title: str) -> None:
        """Show the measurement in the bar."""
        if self._bar is not None:
            self._bar.update(self._begun)
            self._begun = 1
            self._bar.set_description(title)

    def found(self, finding: Finding) -> None:
        """Print a row of the table."""
        if self._quiet or self._bar is None:
            return
        self._bar.clear()
        mark, colour = _MARKS[finding.level]
        title = f"{finding.title:<{_TITLE}}"
        show(table(["", "", ""], [[cell(f"{mark:<{_MARK - 1}}", colour), title, finding.text]]))

    def __enter__(self) -> CheckScreen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _description(atoms: Atoms) -> str:
    directions = int(atoms.pbc.sum())
    kind = f"periodic in {directions} directions" if directions else "molecule"
    return f"{atoms.get_chemical_formula()}, {len(atoms)} atoms, {kind}"
