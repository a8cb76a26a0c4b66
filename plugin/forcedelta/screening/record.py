"""The record beside a table: settings, model and every evaluated row, in the order of evaluation.

One JSON value a line, appended and brought to disk (fsync) unit by unit: a kill costs the unit in work, and
a line that it cut off is dropped when the record is opened again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, get_type_hints

from forcedelta.errors import ForceDeltaError
from forcedelta.limits import check_type
from forcedelta.screening.rows import Row
from md_hooks.locking import LockHeldError, lock_alone, warn_unlocked

FORMAT = "forcedelta screen 1"
_START = f'{{"format": "{FORMAT}"'.encode()
_HINTS = get_type_hints(Row)


class Record:
    """Rows on disk, for one process at a time.

    Args:
        path: the file; made if missing.
        fresh: what it holds is replaced once the first rows are known.

    Attributes:
        header: settings, model, versions and command of the screen; empty in a new record.

    Raises:
        ForceDeltaError: it cannot be used, is in use, or is no record of a screen.
    """

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self._rows: dict[tuple[str, int | None, str], Row] = {}
        try:
            # unbuffered: what could not be written must not come back when the file is closed
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise ForceDeltaError(
                f"{path} cannot be written ({error.strerror}): give another --out"
            ) from error
        try:
            try:
                warn_unlocked(path, lock_alone(self._file.fileno()))
            except LockHeldError as error:
                raise ForceDeltaError(
                    f"{path} is in use by another screen: wait for it, or give another --out"
                ) from error
            if not fresh:
                self._read()
        except BaseException:
            self._file.close()
            raise

    def _read(self) -> None:
        self._file.seek(0)
        *lines, rest = self._file.read().split(b"\n")
        if not (lines[0] if lines else rest).startswith(_START[: None if lines else len(rest)]):
            raise self._damaged(1)
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
                if number == 1:
                    if not isinstance(values["settings"], dict) or not isinstance(
                        values["model"], dict
                    ):
                        raise TypeError("settings or model")
                    self.header = values
                    continue
                for entry in values["rows"]:
                    key = entry.pop("key")
                    row = _row_of(entry, str(self.path))
                    self._rows[row.file, row.frame, key] = row
            except (ValueError, TypeError, KeyError, AttributeError, ForceDeltaError) as error:
                raise self._damaged(number) from error
        if rest:
            self._file.truncate(self._file.tell() - len(rest))

    def _damaged(self, line: int) -> ForceDeltaError:
        return ForceDeltaError(
            f"{self.path} is no record of a screen (line {line}): pass --overwrite, or give another "
            "--out"
        )

    def find(self, file: str, frame: int | None, key: str) -> Row | None:
        """The recorded row of an unchanged structure, if it has a U: others are tried again."""
        row = self._rows.get((file, frame, key))
        return None if row is None or row.force_delta is None else row

    def begin(self, header: Mapping[str, Any]) -> None:
        """Write the header, over what a fresh record replaces; one that names the model stays."""
        if self.header.get("model"):
            return
        self._file.truncate(0)
        self.header = {"format": FORMAT, **header}
        self._write(self.header)

    def add(self, rows: Sequence[Row], keys: Sequence[str]) -> None:
        """Append the rows of a unit; on disk when this returns."""
        entries = [row.as_dict() | {"key": key} for row, key in zip(rows, keys, strict=True)]
        self._write({"rows": entries})

    def _write(self, values: Mapping[str, Any]) -> None:
        data = json.dumps(values).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise ForceDeltaError(
                f"{self.path} cannot be written to ({error.strerror}): free some space and pass "
                "--restart, as nothing that was written is lost"
            ) from error

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close the file; one without a header, made by a screen that failed, is removed."""
        if os.fstat(self._file.fileno()).st_size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()


def _row_of(values: dict[str, Any], where: str) -> Row:
    """A row from its entry.

    Raises:
        TypeError, ForceDeltaError: unknown names, other types.
    """
    for entry in fields(Row):
        if entry.name in values:
            check_type(entry.name, values[entry.name], _HINTS[entry.name], where)
    return Row(**values)
