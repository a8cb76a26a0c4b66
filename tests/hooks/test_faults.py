"""Kills and failing disks at chosen operations; `fault_sweep.py` tries all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

for library in ("MDAnalysis", "pyh5md", "znh5md"):  # the sweep reads its files with each
    pytest.importorskip(library)

SWEEP = Path(__file__).parent / "fault_sweep.py"


@pytest.mark.parametrize(("mode", "every"), [("create", 37), ("append", 29), ("overwrite", 41)])
def test_every_fault_leaves_a_file_that_is_read_and_continued(tmp_path, mode, every):
    done = subprocess.run(
        [sys.executable, str(SWEEP), str(tmp_path / "sweep"), "--mode", mode, "--every", str(every)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["wrong"] == []
    assert sum(outcome["tried"].values()) >= 8
