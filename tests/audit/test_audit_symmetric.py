"""Frames whose forces vanish by symmetry are named, and a report on them is not green."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from ase.build import bulk

from forcedelta.audit import audit
from md_hooks import Trajectory


@pytest.mark.parametrize("displaced", [0, 1, 5])
def test_ideal_crystals(here, files, displaced):
    frames = [bulk("Si", cubic=True) for _ in range(6)]
    for k, atoms in enumerate(frames[6 - displaced :]):
        atoms.rattle(0.05, seed=k)
    ase.io.write("frames.xyz", frames)
    [result] = audit(
        "frames.xyz", files / "solid.safetensors", "audit.h5", stop_above=1e6, report="page.html"
    )
    ideal = 6 - displaced
    assert result.symmetric == result.as_dict()["remarks"]["symmetric"] == ideal
    assert f"U is 0 by symmetry in {ideal}, for any model" in result.line
    remarks = Trajectory("audit.h5").remarks()
    assert [(remark.frame, remark.kind) for remark in remarks] == [
        (k, "symmetric") for k in range(ideal)
    ]
    page = Path("page.html").read_text(encoding="utf-8")
    assert f"In {ideal} of 6 frames the forces vanish by symmetry" in page
    assert ("No frame is above the threshold" in page) == (displaced == 5)


def test_others_say_nothing(here, files):
    [result] = audit(files / "move.xyz", files / "wet.safetensors", "audit.h5")
    assert result.symmetric == 0
    assert "symmetry" not in result.line
