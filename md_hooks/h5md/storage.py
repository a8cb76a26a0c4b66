"""What lies under an HDF5 file that is written: changes reach the disk as a whole or not at all.

HDF5 overwrites its headers and indices in place and in an order of its own, so that a process
which is killed, or whose disk fails, in the middle of a flush can leave a file that nobody can
read. `Storage` is the file-like object that h5py writes to instead. What HDF5 appends goes to the
disk at once, behind the end of the file that readers know; what it overwrites is held back until
`Storage.commit`, which

1. writes the held-back changes behind the end of the file, as a journal with a checksum,
2. makes the changes: first the header, then the indices from the root down, then the rest,
3. cuts the journal off.

A process that dies before the journal is complete leaves the old state (HDF5 ignores what lies
behind its end), one that dies after it the new one: whoever opens the file finds the journal and
makes its changes. Other programs ignore the journal; the order of step 2 is the one that makes
sense to them at each moment.

An error of the operating system is kept and raised by `commit`, never given to HDF5, which cannot
recover from one.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterable
from itertools import pairwise

_FOOTER = struct.Struct("<8sQQI4x")
"""The last bytes of a journal: magic, bytes of its records, end of the data, CRC-32."""
_MAGIC = b"FDJOURN\n"
_RECORD = struct.Struct("<QQ")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_END_OF_FILE = 40
"""Where the header of the oldest format, which the recorder writes, has the end of the data."""

Change = tuple[int, bytes]


class Storage:
    """An open file as h5py wants it, with changes that are made by `commit`.

    Args:
        fd: the file; it stays open when HDF5 closes, and belongs to the caller.
        writable: whether it is open for writing too. The changes of a journal that a killed
            process left are then made; else they are only seen.

    Attributes:
        error: the first error of the operating system; after it nothing is written any more.
    """

    def __init__(self, fd: int, writable: bool = True) -> None:
        self._fd = fd
        self._position = 0
        self.error: OSError | None = None
        self._abandoned = False
        self._changes: dict[tuple[int, int], bytes] = {}
        """Held back, by place and length, in the order in which they were made."""
        found = _journal(fd)
        size = os.fstat(fd).st_size
        if found is None:
            self._end = min(size, _end_of_data(fd, size))
        else:
            self._end, changes = found
            if writable:
                _make(fd, changes, self._end)
            else:
                self._changes = {(at, len(data)): data for at, data in changes}
        if writable and os.fstat(fd).st_size > self._end:
            os.ftruncate(fd, self._end)  # what a killed process had appended, but not committed
        self.committed = self._end
        """Bytes of the file as readers know it."""
        self.size = self._end
        """Bytes of the file on the disk, with what was appended since."""

    # --- what h5py calls -----------------------------------------------------------------------

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """As of a file."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        data = bytearray(max(0, self._end - self._position) if size < 0 else size)
        self.readinto(data)
        return bytes(data)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """As of a file; zeros stand for what lies behind its end."""
        view = memoryview(buffer)
        at, length = self._position, len(view)
        done = 0
        try:
            while done < length:
                count = os.preadv(self._fd, [view[done:]], at + done)
                if count == 0:
                    view[done:] = bytes(length - done)
                    break
                done += count
        except OSError as error:
            self.error = self.error or error
            raise
        for (start, size), data in self._changes.items():
            low, high = max(start, at), min(start + size, at + length)
            if low < high:
                view[low - at : high - at] = data[low - start : high - start]
        self._position += length
        return length

    def write(self, data: bytes | memoryview) -> int:
        """Append behind the committed end at once, hold back what lies before it."""
        at, length = self._position, len(data)
        self._position += length
        self._end = max(self._end, at + length)
        old = min(length, max(0, self.committed - at))
        if old:
            self._changes.pop((at, old), None)  # to the end: the order is that of the last writes
            self._changes[at, old] = bytes(data[:old])
        if old < length and self.error is None and not self._abandoned:
            self.size = max(self.size, at + length)
            try:
                _write(self._fd, data[old:], at + old)
            except OSError as error:
                self.error = error
        return length

    def truncate(self, size: int | None = None) -> int:
        """Where the data are to end."""
        self._end = self._position if size is None else size
        return self._end

    def flush(self) -> None:
        """Nothing: `commit` says when the file is in a state that readers may see."""

    # --- what the recorder calls ---------------------------------------------------------------

    def commit(self) -> None:
        """Make what was written since the last commit the state of the file.

        Raises:
            OSError: the operating system could not; the file is in the state of the last commit,
                or its journal holds the new one.
        """
        if self.error is not None:
            self.roll_back()
            raise self.error
        if not self._changes and self.size == self._end == self.committed:
            return
        changes = _in_order(_within(self._changes, self._end))
        try:
            if changes:
                # behind the old end too: until the journal is complete, the old state counts
                begin = max(self._end, self.committed)
                if self.size > begin:  # appended, then given up: the journal has to be the last
                    os.ftruncate(self._fd, begin)
                _write(self._fd, _encode(changes, self._end), begin)
        except OSError as error:
            self.error = error
            self.roll_back()
            raise
        try:
            _make(self._fd, changes, self._end)
        except OSError as error:
            self.error = error  # the journal has the changes: whoever opens the file makes them
            raise
        self._changes.clear()
        self.committed = self.size = self._end

    def roll_back(self) -> None:
        """Forget what was not committed, for good: nothing is written any more."""
        self._abandoned = True
        self._changes.clear()
        if self.size > self.committed:
            self.size = self.committed
            with contextlib.suppress(OSError):  # HDF5 and `Storage` ignore what lies there
                os.ftruncate(self._fd, self.committed)


def _write(fd: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view = view[count:]
        at += count


def _make(fd: int, changes: Iterable[Change], end: int) -> None:
    for at, data in changes:
        _write(fd, data, at)
    os.ftruncate(fd, end)


def _within(changes: dict[tuple[int, int], bytes], end: int) -> list[Change]:
    """The changes before the end of the data; what lies behind it is cut off anyway."""
    return [(at, data[: end - at]) for (at, _), data in changes.items() if at < end]


def _in_order(given: list[Change]) -> list[Change]:
    """The changes in an order in which each is of use to a reader of those before it.

    First HDF5's header, which holds the end of the data; then the nodes of its indices from the
    root down, so that new nodes are found before old ones lose entries to them; then the rest as
    HDF5 wrote it, data before the headers that count them.
    """
    places = sorted((at, at + len(data)) for at, data in given)
    if any(low < end for (_, end), (low, _) in pairwise(places)):
        return given  # space that was used twice: only the order of the writes is right

    def rank(change: Change) -> int:
        at, data = change
        if at == 0:
            return -257
        return -1 - data[5] if data[:4] == b"TREE" and len(data) > 5 else 0

    return sorted(given, key=rank)


def _encode(changes: list[Change], end: int) -> bytes:
    parts = []
    for at, data in changes:
        parts += [_RECORD.pack(at, len(data)), data]
    records = b"".join(parts)
    return records + _FOOTER.pack(_MAGIC, len(records), end, zlib.crc32(records))


def _journal(fd: int) -> tuple[int, list[Change]] | None:
    """End of the data and changes of a journal that is complete; None where there is none."""
    size = os.fstat(fd).st_size
    if size < _FOOTER.size:
        return None
    magic, length, end, crc = _FOOTER.unpack(os.pread(fd, _FOOTER.size, size - _FOOTER.size))
    begin = size - _FOOTER.size - length
    if magic != _MAGIC or not 0 <= end <= begin:
        return None
    records = os.pread(fd, length, begin)
    if len(records) != length or zlib.crc32(records) != crc:
        return None
    changes = []
    offset = 0
    while offset < length:
        at, count = _RECORD.unpack_from(records, offset)
        offset += _RECORD.size
        if at + count > end or offset + count > length:
            return None
        changes.append((at, records[offset : offset + count]))
        offset += count
    return end, changes


def has_journal(fd: int) -> bool:
    """Whether a process was killed, or is just now, between a journal and its changes."""
    return _journal(fd) is not None


def _end_of_data(fd: int, size: int) -> int:
    """Where HDF5 has the end of the data; ``size`` where its header does not tell."""
    head = os.pread(fd, _END_OF_FILE + 8, 0)
    if len(head) < _END_OF_FILE + 8 or head[:8] != _SIGNATURE or head[8] != 0 or head[13] != 8:
        return size
    return int.from_bytes(head[_END_OF_FILE:], "little")
