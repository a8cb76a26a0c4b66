"""Checksums of recorded rows, so that a byte that flips on a disk is no physics.

HDF5's own checksums (fletcher32) are made for whole chunks. The recorder adds rows to chunks that
are on disk already: a process killed in the middle of that would take the older rows of the chunk
with it. A sum of the words of each row costs less, and stands and falls with its own row.

The sum leaves out what only fills up (NaN, -1), so that it stays the same when a dataset gets
wider, or an element that came later gets empty rows.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
"""Stands for no checksum: of rows that another version appended."""


def of_rows(name: str, rows: NDArray[Any], fill: Any) -> NDArray[np.uint64]:
    """What an element adds to the checksums of its rows.

    Args:
        name: of the element; equal rows of two elements add different numbers.
        rows: [F, ...] as they are stored.
        fill: what fills up.

    Returns:
        [F], modulo 2^64.
    """
    size = rows.dtype.itemsize
    width = int(np.prod(rows.shape[1:], dtype=int))
    words = np.ascontiguousarray(rows).view(f"u{size}").reshape(len(rows), width)
    filled = int(np.array(fill, dtype=rows.dtype).view(f"u{size}"))
    total = np.zeros(len(rows), dtype=np.uint64)
    if size == 4 and width > 1:  # two at a time, which is twice as fast; the odd one is left
        pairs = words[:, : width - width % 2].view(np.uint64)
        total += np.add.reduce(pairs, axis=1)
        total -= np.uint64(pairs.shape[1] * (filled * (2**32 + 1)) % 2**64)
        words = words[:, width - width % 2 :]
    total += np.add.reduce(words, axis=1, dtype=np.uint64)
    total -= np.uint64(words.shape[1] * filled % 2**64)
    return total * np.uint64(zlib.crc32(name.encode()) | 1)


def stored(total: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Sums of `of_rows` over the elements, as they are stored."""
    signed = total.view(np.int64).copy()
    signed[signed == UNKNOWN] = 0
    return signed


def of_bytes(data: bytes | str) -> np.uint32:
    """Checksum of what has no rows."""
    return np.uint32(zlib.crc32(data.encode() if isinstance(data, str) else data))
