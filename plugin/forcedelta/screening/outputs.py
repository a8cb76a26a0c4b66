"""The files that a screen writes, and what they must not replace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forcedelta.errors import ForceDeltaError
from forcedelta.outputs import Named, check_outputs, refuse_existing
from forcedelta.thresholds import GivenThreshold

Mode = Literal["create", "restart", "overwrite"]


@dataclass(frozen=True)
class ScreenFiles:
    """The files of one screen.

    Attributes:
        table: CSV.
        report: HTML, or None.
    """

    table: Path
    report: Path | None

    @property
    def record(self) -> Path:
        """From which a restart continues."""
        return self.table.with_suffix(".rows.jsonl")

    @property
    def written(self) -> list[Path]:
        """All of them."""
        pages = [] if self.report is None else [self.report, self.report.with_suffix(".png")]
        return [self.table, self.record, *pages]

    def check(
        self,
        files: Sequence[str],
        model: object,
        thresholds: Sequence[GivenThreshold],
        mode: Mode,
    ) -> None:
        """Check them before anything is read.

        Args:
            files: structure files.
            model: name or file, or None.
            thresholds: as given; some may be files of calibrations.
            mode: see `forcedelta.screening.many.screen`.

        Raises:
            ForceDeltaError: one is an input or another output, exists, or cannot be written.
        """
        if self.table.suffix != ".csv":
            raise ForceDeltaError(
                f"--out {self.table}: the table is written as CSV: give FILE.csv (--json prints JSON, "
                "--report writes HTML)"
            )
        inputs = [Named("structure file", file) for file in files]
        inputs.append(Named("model", str(model) if isinstance(model, str | Path) else None))
        for given in thresholds:
            inputs.append(Named("calibration", given if isinstance(given, str | Path) else None))
        names = ("--out", "the record beside --out", "--report", "the report's picture")
        check_outputs([Named(*pair) for pair in zip(names, self.written, strict=False)], inputs)
        if self.report is not None:
            from forcedelta.report.html import check_report  # Matplotlib takes a second

            check_report(self.report, replace=mode == "overwrite", continues=mode == "restart")
        for path in (self.table, self.record):
            refuse_existing("--out", path, overwrite=True)  # folders, and what is no file
            if path.exists() and mode == "create":
                raise ForceDeltaError(
                    f"{path} exists: pass --restart to continue that screen, --overwrite to replace "
                    "it, or give another --out"
                )
        if mode == "restart" and self.table.exists() and not self.record.exists():
            raise ForceDeltaError(
                f"{self.table} cannot be continued without its record {self.record}: pass --overwrite, "
                "or give another --out"
            )
