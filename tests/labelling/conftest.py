"""A recorded run with flagged frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from doubtful_frames import ACETYLACETONE

from forcedelta.cli import status


@pytest.fixture(scope="session")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 steps of acac at 400 K with a band that holds a part of the frames."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    code = status(
        ["run", str(ACETYLACETONE), "--model", "acac", "--temperature", "400", "--steps", "600",
         "--flag-above", "0.04", "--stop-above", "0.6", "--record-every", "50", "--seed", "3",
         "--out", str(path)]
    )  # fmt: skip
    assert code == 0
    return path
