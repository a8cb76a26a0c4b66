"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest
import torch

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # its tests are skipped
    pass
else:
    # no verdict depends on the speed of the machine, or on the luck of a run
    settings.register_profile(
        "any machine",
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("any machine")


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
