"""What lies under the recorded file: a commit is made as a whole, whenever the process dies."""

from __future__ import annotations

import errno
import os

import h5py
import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from md_hooks.h5md import storage
from md_hooks.h5md.storage import Storage


class DiedError(BaseException):
    """Stands for kill -9: nothing that runs after it touches the file."""


def write(file, at, data):
    file.seek(at)
    file.write(data)


def content(path, repair):
    """What a reader sees, who makes the changes of a journal or only looks through them."""
    fd = os.open(path, os.O_RDWR if repair else os.O_RDONLY)
    try:
        file = Storage(fd, writable=repair)
        file.seek(0)
        return file.read()
    finally:
        os.close(fd)


writes = st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=80)), max_size=8)


def dies_at(path, first, second, shrink, at, part_of):
    """Commit some writes, die at the n-th operation of the next commit, and look at the file.

    Args:
        shrink: so many bytes are cut off before the second commit.
        part_of: how much of the write it dies in is made.
    """
    path.write_bytes(b"")
    states = []
    count = 0

    def dying(function):
        def operation(fd, *arguments):
            nonlocal count
            count += 1
            if count == at:
                if function is pwrite:
                    view, place = arguments
                    pwrite(fd, bytes(view)[: part_of(len(view))], place)
                raise DiedError
            return function(fd, *arguments)

        return operation

    pwrite, ftruncate = os.pwrite, os.ftruncate
    fd = os.open(path, os.O_RDWR)
    try:
        file = Storage(fd)
        model = bytearray()
        for changes in (first, second):
            for place, text in changes:
                model.extend(bytes(max(0, place + len(text) - len(model))))
                model[place : place + len(text)] = text
            if changes is second:
                del model[max(0, len(model) - shrink) :]
            states.append(bytes(model))
        for place, text in first:
            write(file, place, text)
        file.commit()
        assert content(path, repair=False) == states[0]
        storage.os.pwrite, storage.os.ftruncate = dying(pwrite), dying(ftruncate)
        try:
            for place, text in second:
                write(file, place, text)
            file.truncate(len(states[1]))
            file.seek(0)
            assert file.read() == states[1]
            file.commit()
            finished = True
        except DiedError:
            finished = False
    finally:
        storage.os.pwrite, storage.os.ftruncate = pwrite, ftruncate
        os.close(fd)
    if finished:
        assert path.read_bytes() == states[1]
    else:
        seen = content(path, repair=False)
        # what a killed process appended without a journal lies behind the end that HDF5's header
        # has, which these bytes do not have
        assert seen == states[1] or seen.startswith(states[0])
        assert content(path, repair=True) == seen
        assert content(path, repair=False) == seen


@given(
    first=writes, second=writes, shrink=st.integers(0, 50), at=st.integers(1, 30), data=st.data()
)
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_commit_is_made_as_a_whole(tmp_path, first, second, shrink, at, data):
    dies_at(
        tmp_path / "file", first, second, shrink, at,
        lambda length: data.draw(st.integers(0, length)),
    )  # fmt: skip


@pytest.mark.parametrize("at", range(1, 10))
@pytest.mark.parametrize(
    ("first", "second", "shrink"),
    [
        ([(2, b"a")], [(0, b"b"), (1, b"c"), (2, b"de")], 2),  # a change behind the new end
        ([(0, b"abc")], [(0, b"d"), (3, b"e" * 200)], 200),  # appended more than the journal needs
    ],
)
def test_a_commit_that_makes_the_file_shorter(tmp_path, first, second, shrink, at):
    dies_at(tmp_path / "file", first, second, shrink, at, lambda length: length // 2)


def test_hdf5_meets_no_error_and_the_file_is_as_it_was(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "full")

    path = tmp_path / "r.h5"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    file = Storage(fd)
    with h5py.File(file, "w", libver="earliest") as data:
        data.create_dataset("x", (0,), "f8", maxshape=(None,), chunks=(100,))
        file.commit()
        for count in (1, 2):
            data["x"].resize(1000 * count, axis=0)
            data["x"][1000 * (count - 1) :] = count
            data.flush()
            if count == 1:
                file.commit()
            else:
                before = path.read_bytes()[: file.committed]
                monkeypatch.setattr(storage, "_write", fail)
                with pytest.raises(OSError, match="full"):
                    file.commit()
        monkeypatch.undo()
    os.close(fd)
    assert path.read_bytes() == before
    with h5py.File(path) as data:
        np.testing.assert_array_equal(data["x"], np.ones(1000))


def test_what_is_appended_can_be_read_before_it_is_committed(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    file = Storage(fd)
    write(file, 0, b"abc")
    file.commit()
    write(file, 1, b"BCDE")
    file.seek(-5, os.SEEK_END)
    assert file.read() == b"aBCDE"
    file.seek(3)
    buffer = bytearray(b"xxxx")
    file.readinto(buffer)
    assert buffer == b"DE\0\0"
    assert (tmp_path / "file").read_bytes()[:3] == b"abc"
    os.close(fd)


def test_indices_are_written_from_the_root_down():
    def node(level):
        return b"TREE\x01" + bytes([level]) + bytes(10)

    changes = [
        (500, b"x" * 16), (300, node(0)), (400, node(2)), (350, node(1)), (0, b"header.."),
        (600, b"last"),
    ]  # fmt: skip
    places = [at for at, _ in storage._in_order(changes)]
    assert places == [0, 400, 350, 300, 500, 600]
    overlapping = [(10, b"abcd"), (12, b"TREE"), (0, b"head")]
    assert [at for at, _ in storage._in_order(overlapping)] == [10, 12, 0]
