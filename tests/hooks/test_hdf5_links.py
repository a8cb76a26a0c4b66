"""HDF5 files of other programs that lead a reader into other files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from md_hooks.h5md.links import leads_elsewhere

VALUES = np.arange(6.0)


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = VALUES
    VALUES.tofile(tmp_path / "secret.bin")
    with h5py.File(tmp_path / "given.h5", "w") as file:
        file["particles/all/position"] = VALUES
        file["particles/all/velocity"] = h5py.SoftLink("/particles/all/position")
        file["again"] = file["particles"]  # a circle through hard links
        file["particles/all/up"] = file["particles"]
    return tmp_path / "given.h5"


def external(file, folder):
    file["particles/all/force"] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def storage(file, folder):
    data = [(str(folder / "secret.bin"), 0, VALUES.nbytes)]
    file.create_dataset("particles/all/force", shape=VALUES.shape, dtype="f8", external=data)


def virtual(file, folder):
    layout = h5py.VirtualLayout(VALUES.shape, "f8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", VALUES.shape)
    file.create_virtual_dataset("particles/all/force", layout)


def test_links_within_a_file_are_fine(path):
    assert leads_elsewhere(path) is None


@pytest.mark.parametrize("change", [external, storage, virtual])
def test_what_leads_out_of_a_file_is_named(path, change):
    with h5py.File(path, "r+") as file:
        change(file, path.parent)
    with h5py.File(path, "r") as file:
        assert np.array_equal(file["particles/all/force"], VALUES)  # readers do follow it
    assert "force is " in leads_elsewhere(path)


def test_a_damaged_file_is_not_trusted(path):
    path.write_bytes(path.read_bytes()[:600])
    assert "cannot be read" in leads_elsewhere(path)
