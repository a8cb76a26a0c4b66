"""Every broken model gets the verdict that it must get, and sound ones are not accused."""

import numpy as np
import pytest
import torch
from ase import Atoms
from check_cases import CASES, CAVEATS, MOLECULE, NOT_USABLE, SOUND, Case, in_float32

from forcedelta import load_model
from forcedelta.evaluation import ExactEvaluation
from forcedelta.verify import agreement
from forcedelta.verify.derivatives import gradient_error
from forcedelta.verify.heads import compare, compare_heads
from forcedelta.verify.probe import Probe
from forcedelta.verify.resolution import energy_resolution, step_between

pytestmark = pytest.mark.usefixtures("silent")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(case: Case) -> None:
    found = case.inspect(quick=not case.quick)
    assert found.verdict == case.verdict, found.reasons
    assert case.word in " ".join(found.reasons)


def test_the_table_is_worth_its_name() -> None:
    verdicts = [case.verdict for case in CASES]
    assert len(CASES) - verdicts.count(SOUND) >= 40
    assert min(verdicts.count(verdict) for verdict in (SOUND, CAVEATS, NOT_USABLE)) >= 5


@pytest.mark.parametrize("case", [case for case in CASES if case.quick], ids=lambda case: case.name)
def test_a_quick_check_says_what_it_left_out(case: Case) -> None:
    found = case.inspect(quick=True)
    assert found.verdict == case.quick
    (skipped,) = (finding for finding in found.findings if finding.key == "skipped")
    assert "jumps of the energy" in skipped.text


@pytest.mark.parametrize("only_single", [False, True])
def test_a_right_gradient_of_a_coarse_energy_is_not_called_wrong(only_single: bool) -> None:
    """From ten thousand to a million eV."""
    for offset in (0.0, -1e5, -1e6):
        case = Case("", "", in_float32(offset), only_single=only_single)
        dtype = torch.float32 if only_single else torch.float64
        found = gradient_error(Probe(case.load(dtype), dtype), MOLECULE, directions=6)
        assert found.error <= 3.0 * found.uncertainty, offset
        assert found.resolution >= np.spacing(np.float32(abs(offset))) / 2


def test_a_wrong_gradient_of_a_coarse_energy_is_called_wrong() -> None:
    """Half of it, where the energy is good enough to tell."""

    def change(model, graph):
        energy, forces = in_float32(9091.0)(model, graph)
        return 0.5 * energy + 0.5 * energy.detach(), forces

    probe = Probe(Case("", "", change).load(torch.float64), torch.float64)
    assert gradient_error(probe, MOLECULE, directions=6).verdict(1e-2) == "wrong"


def test_resolution_of_energies() -> None:
    rng = np.random.default_rng(0)
    energies = -9391 + rng.normal(size=9)
    assert step_between(energies) < 1e-11
    single = energies.astype(np.float32).astype(float)
    assert step_between(single) == np.spacing(np.float32(9391))
    assert step_between(single + 1 / 3) == np.spacing(np.float32(9391))
    assert step_between(np.full(9, 8192.0)) < 1e-11  # nothing is known of it
    assert np.isnan(step_between(np.array([np.nan, 1.0])))
    probe = Probe(load_model("acac", torch.float64), torch.float64)
    assert energy_resolution(probe, probe.graph(MOLECULE), MOLECULE) < 1e-10


def test_comparison_by_hand() -> None:
    conservative = np.array([[1.0, 0, 0], [0, 2.0, 0]])
    found = compare(2.0 * conservative, conservative, 1.0)
    assert (found.cosine, found.ratio, found.explained) == pytest.approx((1.0, 2.0, 1.0))
    assert found.direct == pytest.approx(2.0)
    across = np.array([[0, 1.0, 0], [0, 2.0, 0]])
    found = compare(across, conservative, 1.0)
    assert (found.cosine, found.ratio) == pytest.approx((4 / 5, 4 / 5))
    assert found.explained == pytest.approx(0.2**2 * 5 / 2)


def test_comparison_by_element() -> None:
    rng = np.random.default_rng(1)
    atoms = Atoms("OHH", rng.normal(size=(3, 3)))
    pairs = []
    for _ in range(4):
        conservative = rng.normal(size=(3, 3))
        direct = conservative * np.array([[-1.0], [0.5], [0.5]])
        pairs.append(ExactEvaluation(0.0, direct, conservative, np.ones(3), 1.0))
    found = compare_heads(atoms, pairs)
    assert found.elements["O"].cosine == pytest.approx(-1)
    assert found.elements["H"].ratio == pytest.approx(0.5)
    assert found.others["O"].cosine == pytest.approx(1)


def test_a_turn_is_found() -> None:
    rng = np.random.default_rng(2)
    conservative = rng.normal(size=(8, 3))
    for turn in agreement.random_rotations(3, 0):
        evaluation = ExactEvaluation(0.0, conservative @ turn, conservative, np.ones(8), 1.0)
        found = compare_heads(Atoms("C8"), [evaluation])
        assert found.turned.cosine == pytest.approx(1)
        assert found.rest == pytest.approx(0, abs=1e-20)
        assert found.turn == pytest.approx(np.linalg.norm(turn - np.eye(3)))


def test_copies_do_not_see_each_other() -> None:
    both = agreement.doubled(MOLECULE, 5.0)
    first, second = both.positions[:15], both.positions[15:]
    gaps = np.linalg.norm(first[:, None] - second[None], axis=-1)
    assert gaps.min() > 14.9
    cell = Atoms("C", cell=[3, 4, 5], pbc=[False, True, True])
    assert agreement.doubled(cell, 5.0).cell.lengths().tolist() == [3, 8, 5]
