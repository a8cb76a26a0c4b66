"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small models are slower with threads, and their sums depend on them."""
    torch.set_num_threads(1)


@pytest.fixture
def silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fails a test that prints: a library leaves the terminal to its user."""
    yield
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""
