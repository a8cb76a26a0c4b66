"""An attack that was killed or interrupted continues as if nothing had happened."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule as built

from forcedelta import ForceDeltaError, attack
from forcedelta.adversarial import search
from forcedelta.force_delta_gradient import GradientEvaluator
from md_hooks import Trajectory, load_checkpoint, recorder

pytestmark = pytest.mark.usefixtures("here")

SAME = {"starts": 3, "steps": 7, "picks": 0, "ceiling": 2.0, "rate": 0.03}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, and everything is written at once."""
    monkeypatch.setattr(search, "batch_atoms", lambda module, device: 16)
    monkeypatch.setattr(recorder, "WRITE_OUT_SECONDS", -1.0)


def structures(molecule: Atoms) -> list[Atoms]:
    return [molecule, built("H2O")]


def same(one: str, other: str) -> None:
    a, b = Trajectory(one), Trajectory(other)
    assert a.series.keys() == b.series.keys()
    for name in a.series:
        np.testing.assert_array_equal(a.series[name], b.series[name], err_msg=name)
    assert len(a) == len(b)
    for index in range(len(a)):
        np.testing.assert_array_equal(a.frame(index).positions, b.frame(index).positions)
    assert sorted(map(str, a.remarks())) == sorted(map(str, b.remarks()))


@pytest.mark.slow
def test_copies_at_every_evaluation_continue_alike(
    molecule: Atoms, wet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the file is what a kill at that moment leaves."""
    copies: list[Path] = []
    gradients = GradientEvaluator.gradients_or_reasons

    def copying(self: GradientEvaluator, *arguments: object) -> object:
        if Path("whole.h5").exists():
            copies.append(Path(f"copy{len(copies)}.h5"))
            shutil.copy("whole.h5", copies[-1])
        return gradients(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(GradientEvaluator, "gradients_or_reasons", copying)
        whole = attack(structures(molecule), wet, "whole.h5", **SAME)  # type: ignore[arg-type]
    assert len(copies) > 12
    with_frames = [copy for copy in copies if len(Trajectory(copy).series["step"])]
    for copy in with_frames[::5]:
        result = attack(structures(molecule), wet, copy, mode="restart", **SAME)  # type: ignore[arg-type]
        same("whole.h5", str(copy))
        assert result.paths == whole.paths


@pytest.mark.slow
def test_copies_between_frames_of_a_step_continue_alike(
    molecule: Atoms, wet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Path] = []
    observe = recorder.Recorder.observe

    def copying(self: recorder.Recorder, *arguments: object) -> None:
        observe(self, *arguments)  # type: ignore[arg-type]
        copies.append(Path(f"copy{len(copies)}.h5"))
        shutil.copy("whole.h5", copies[-1])

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "observe", copying)
        attack(structures(molecule), wet, "whole.h5", **SAME)  # type: ignore[arg-type]
    for copy in copies[1::7]:
        attack(structures(molecule), wet, copy, mode="restart", **SAME)  # type: ignore[arg-type]
        same("whole.h5", str(copy))


def test_interrupted_attack_continues(
    molecule: Atoms, wet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack(structures(molecule), wet, "whole.h5", **SAME)  # type: ignore[arg-type]
    gradients = GradientEvaluator.gradients_or_reasons
    calls = []

    def interrupting(self: GradientEvaluator, *arguments: object) -> object:
        calls.append(0)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return gradients(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(GradientEvaluator, "gradients_or_reasons", interrupting)
        first = attack(structures(molecule), wet, "part.h5", **SAME)  # type: ignore[arg-type]
    assert first.reason == "interrupted"
    assert 0 < first.frames < len(Trajectory("whole.h5"))
    second = attack(structures(molecule), wet, "part.h5", mode="restart", **SAME)  # type: ignore[arg-type]
    assert second.reason == "finished"
    same("whole.h5", "part.h5")


def test_finished_attack_is_left_alone(molecule: Atoms, wet: str) -> None:
    first = attack(molecule, wet, "a.h5", **SAME)  # type: ignore[arg-type]
    again = attack(molecule, wet, "a.h5", mode="restart", **SAME)  # type: ignore[arg-type]
    assert again.paths == first.paths
    assert load_checkpoint("a.h5").step == first.frames - 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 2.0}, "alpha 2.0 differs"),
        ({"seed": 1}, "seed 1 differs"),
        ({"torsions": ["all"]}, "torsions all differs"),
    ],
)
def test_other_settings_are_refused(
    molecule: Atoms, wet: str, change: dict[str, object], words: str
) -> None:
    attack(molecule, wet, "a.h5", **SAME)  # type: ignore[arg-type]
    with pytest.raises(ForceDeltaError, match=words):
        attack(molecule, wet, "a.h5", mode="restart", **{**SAME, **change})  # type: ignore[arg-type]


def test_other_structure_or_model_is_refused(molecule: Atoms, wet: str, solid: str) -> None:
    attack(molecule, wet, "a.h5", **SAME)  # type: ignore[arg-type]
    other = molecule.copy()
    other.rattle(0.01)
    with pytest.raises(ForceDeltaError, match="attack of other structures"):
        attack(other, wet, "a.h5", mode="restart", **SAME)  # type: ignore[arg-type]
