"""Remarks on the frames of a stored trajectory, such as gaps and frames that were skipped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KIND_BYTES, TEXT_BYTES = 24, 400

ROW = np.dtype(
    [
        ("after", "i8"),
        ("frame", "i8"),
        ("step", "i8"),
        ("kind", f"S{KIND_BYTES}"),
        ("text", f"S{TEXT_BYTES}"),
    ]
)
"""One remark in a file; "after" is the step of the frame that was recorded before it."""


@dataclass(frozen=True)
class Remark:
    """Something about one frame of a stored trajectory that is replayed.

    Attributes:
        frame: its number in the source, counted from 0.
        step: its step; None where it has none or could not be read.
        kind: one word or two, the same for remarks of the same sort ("gap", "not audited", ...).
        text: one readable line.
    """

    frame: int
    step: int | None
    kind: str
    text: str

    def row(self, after: int) -> tuple[int, int, int, bytes, bytes]:
        """As it is stored, with the number of steps shown before, ``after``; too long a text is cut off."""
        step = -1 if self.step is None else self.step
        text = self.text.encode()[:TEXT_BYTES].decode(errors="ignore").encode()
        return after, self.frame, step, self.kind.encode(), text

    @staticmethod
    def of_row(row: np.void) -> Remark:
        """The reverse of `row`."""
        step = int(row["step"])
        return Remark(
            int(row["frame"]), None if step < 0 else step,
            row["kind"].decode(), row["text"].decode(),
        )  # fmt: skip
