"""Makes the helpers beside the tests importable, and keeps the hooks from printing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def silence(capfd):
    """Nothing is written to the terminal unless a test reads it itself."""
    yield
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
