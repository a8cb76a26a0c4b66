"""The embedded models pass the conformance suite, and broken models fail the right tests of it."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch

from forcedelta import LoadedModel, load_model
from forcedelta.conformance import Conformance, crystal, molecule, small_cell
from forcedelta.models.isolation import torch_state_kept


class TestAcac(Conformance):
    structures = (molecule(),)

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model("acac", dtype)


class TestAcacDirect(Conformance):
    structures = (molecule(),)

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model("acac-direct", dtype)


class TestMlearn(Conformance):
    structures = (crystal("Si"), small_cell("Li"))

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model("mlearn", dtype)


GRADIENT = "test_conservative_forces_are_the_gradient"
STRESS = "test_stress_is_the_strain_derivative"
LIBRARY = "test_agrees_with_the_calculator_of_the_library"
JUMPS = "test_neighbours_come_and_go_without_a_jump"
REPEATED = "test_repeated_evaluation"
BATCH = "test_batch_equals_single"
SETTINGS = "test_evaluation_changes_no_setting_of_torch"

CAUGHT = {
    "Sound": set(),
    "DetachedPart": {GRADIENT, STRESS},
    "DetachedCell": {STRESS, "test_gradient_of_the_force_delta"},
    "WrongSign": {LIBRARY},
    "Oriented": {"test_rotation", LIBRARY},
    "Anchored": {"test_translation", "test_images_of_atoms", LIBRARY},
    "Ordered": {"test_permutation", BATCH, LIBRARY},
    "Nearest": {JUMPS, LIBRARY},
    "SecretlyNearest": {JUMPS, LIBRARY},
    "Trainable": {"test_parameters_are_frozen"},
    "Meddling": {"test_loading_changes_no_setting_of_torch", SETTINGS},
    "Twice": {"test_one_forward_and_one_backward"},
    "TwiceScripted": {"test_one_forward_and_one_backward"},
    "Averaging": {BATCH, LIBRARY},
    "Writing": {"test_arguments_are_left_alone"},
    "Silent": {"test_lonely_atom"},
}
"""Tests that fail for a broken model, and no others."""

CAUGHT_AMONG_OTHERS = {
    "Noisy": {REPEATED, SETTINGS, GRADIENT},
    "Remembering": {"test_other_structures_between_leave_no_trace"},
    "Rounding": {GRADIENT, STRESS},
}
"""Where a fault spoils whatever is measured, the tests that name it."""


class Outcomes:
    """A plugin of pytest that notes which tests failed, by the class that they are in."""

    def __init__(self) -> None:
        self.failed: defaultdict[str, set[str]] = defaultdict(set)
        self.ran: defaultdict[str, int] = defaultdict(int)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, kind, test = report.nodeid.split("::")
        kind = kind.removeprefix("Test")
        self.ran[kind] += report.when == "call"
        if report.failed:
            self.failed[kind].add(test.partition("[")[0])


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    """The suite, run on models with one thing wrong with each."""
    outcomes = Outcomes()
    file = Path(__file__).with_name("broken_models.py")
    with torch_state_kept():
        pytest.main(
            [str(file), "-q", "--no-summary", "--tb=no", "-p", "no:cacheprovider"],
            plugins=[outcomes],
        )
    return outcomes


@pytest.mark.parametrize("kind", [*CAUGHT, *CAUGHT_AMONG_OTHERS])
def test_broken_models_fail_the_right_tests(outcomes: Outcomes, kind: str) -> None:
    assert outcomes.ran[kind] > 30
    if kind in CAUGHT:
        assert outcomes.failed[kind] == CAUGHT[kind]
    else:
        assert outcomes.failed[kind] >= CAUGHT_AMONG_OTHERS[kind]
