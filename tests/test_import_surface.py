"""The names at the package root, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import forcedelta


@pytest.mark.parametrize("name", forcedelta.__all__)
def test_every_name_is_there(name):
    if name == "openmm":
        pytest.importorskip("openmm")
    assert getattr(forcedelta, name) is not None
    assert name in dir(forcedelta)


def test_submodules_are_attributes():
    pytest.importorskip("openmm")
    code = (
        "import forcedelta; forcedelta.openmm.add_force_delta; forcedelta.ase.ForceDeltaCalculator"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "code",
    ["import forcedelta", "import forcedelta.cli as cli; cli.main(['--help'])"],
)
def test_neither_import_nor_help_loads_torch(code):
    program = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'openmm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_ase_md_can_be_imported_first():
    """It loads ASE's file formats, and among them ours: no circle may leave that out."""
    program = "import ase.md.verlet, ase.io.formats as io; assert 'forcedelta-h5md' in io.ioformats"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
