"""Keeps the hooks from printing."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def silence(capfd):
    """Nothing is written to the terminal unless a test reads it itself."""
    yield
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""
