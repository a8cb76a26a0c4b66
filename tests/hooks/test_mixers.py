"""U of a model inside ASE's mixers and wrappers, and the error where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import (
    AverageCalculator,
    LinearCombinationCalculator,
    MixedCalculator,
    SumCalculator,
)
from helpers import TwoForces, argon, langevin

from md_hooks import Guard, HookError, Recorder, Trajectory, run


def weak() -> LennardJones:
    """A small correction, as a dispersion energy is one."""
    return LennardJones(epsilon=0.0005, sigma=3.4, rc=8.0, smooth=True)


MIXERS = {
    "sum": lambda model: SumCalculator([model, weak()]),
    "sum, second": lambda model: SumCalculator([weak(), model]),
    "linear": lambda model: LinearCombinationCalculator([model, weak()], [0.7, 0.3]),
    "mixed": lambda model: MixedCalculator(model, weak(), 0.5, 0.5),
    "average": lambda model: AverageCalculator([weak(), model]),
    "nested": lambda model: SumCalculator([weak(), AverageCalculator([weak(), model])]),
    "alone in a sum": lambda model: SumCalculator([model]),
}


class Collector:
    def __init__(self):
        self.frames = []

    def __call__(self, frame):
        self.frames.append(frame)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_frame_holds_the_models_own_predictions(mixer):
    atoms = argon()
    model = atoms.calc
    atoms.calc = MIXERS[mixer](model)
    seen = Collector()
    result = run(langevin(atoms), 5, [seen, Guard(stop_above=10.0)])
    assert (result.reason, result.evaluations) == ("finished", 6)
    for frame in seen.frames:
        reference = argon()
        reference.positions = frame.positions
        reference.get_forces()
        own = reference.calc.results
        assert frame.force_delta == pytest.approx(own["force_delta"])
        np.testing.assert_allclose(frame.force_deltas, own["force_deltas"])
        np.testing.assert_allclose(frame.direct_forces, own["direct_forces"], atol=1e-12)
        np.testing.assert_allclose(
            frame.conservative_forces, own["conservative_forces"], atol=1e-12
        )
    last = seen.frames[-1]
    np.testing.assert_allclose(last.forces, atoms.calc.results["forces"])
    if mixer != "alone in a sum":
        assert np.abs(last.forces - last.direct_forces).max() > 1e-6


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_guard_stops_where_it_would_without_the_mixer(mixer, tmp_path):
    atoms = argon(error=1.0)
    atoms.calc = MIXERS[mixer](atoms.calc)
    path = tmp_path / "run.h5"
    result = run(langevin(atoms), 200, [Guard(stop_above=0.02), Recorder(path)])
    assert result.reason == "stopped"
    assert result.force_delta > 0.02
    trajectory = Trajectory(path)
    assert trajectory.stops.tolist() == [result.step]
    assert trajectory.metadata["model"]["name"] == "two-forces"


def test_u_between_exact_evaluations_is_not_missed():
    atoms = argon(every=3)
    atoms.calc = SumCalculator([atoms.calc, weak()])
    seen = Collector()
    assert run(langevin(atoms), 7, [seen, Guard(stop_above=10.0)]).reason == "finished"
    with_u = [frame.step for frame in seen.frames if frame.force_delta is not None]
    assert with_u == [0, 3, 6]


class Wrapper(Calculator):
    """Hands atoms on to the calculator inside: changed, or at each third step only."""

    implemented_properties = ("energy", "forces")

    def __init__(self, inner, change=lambda atoms: None, every=1):
        super().__init__()
        self.calc, self.change, self.every, self.calls = inner, change, every, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.calls % self.every == 0:
            inside = atoms.copy()
            self.change(inside)
            inside.calc = self.calc
            forces = np.zeros((len(atoms), 3))
            forces[: len(inside)] = inside.get_forces()
            self.kept = {"energy": inside.get_potential_energy(), "forces": forces}
        self.calls += 1
        self.results = self.kept


def move(atoms):
    atoms.positions += 1.5
    atoms.wrap()


def test_predictions_for_another_structure_are_not_those_of_a_frame():
    """A wrapper that evaluates its model at some steps only leaves old results in between."""
    for inside, steps in (
        (lambda model: Wrapper(model, every=3), [0, 3, 6]),
        (lambda model: SumCalculator([Wrapper(model, every=3), weak()]), [0, 3, 6]),
        (lambda model: Wrapper(model, move), list(range(8))),  # the same structure elsewhere
    ):
        atoms = argon()
        atoms.calc = inside(atoms.calc)
        seen = Collector()
        assert run(langevin(atoms), 7, [seen, Guard(stop_above=10.0)]).reason == "finished"
        assert [frame.step for frame in seen.frames if frame.force_delta is not None] == steps


def drop(atoms):
    del atoms[-1]


def stretch(atoms):
    atoms.positions *= 1.01


@pytest.mark.parametrize(
    ("change", "said"), [(drop, r"evaluated \d+ atoms, where"), (stretch, "another structure")]
)
def test_a_wrapper_that_never_evaluates_the_structure_of_the_run_is_an_error(change, said):
    atoms = argon()
    model = atoms.calc
    model.reference = None  # taken from the structure that it sees first
    model.reset()
    atoms.calc = Wrapper(model, change)
    with pytest.raises(HookError, match=f"step 0, 0 fs carries no Force Delta.*{said}"):
        run(langevin(atoms), 5, [Guard(stop_above=10.0)])


@pytest.mark.parametrize(
    "threshold", [{"stop_above": 1.0}, {"flag_above": 1.0}, {"stop_above": "auto"}]
)
@pytest.mark.parametrize(
    "calculator", [EMT, weak, lambda: SumCalculator([weak(), weak()])], ids=["emt", "lj", "sum"]
)
def test_without_any_u_the_first_frame_is_an_error(calculator, threshold):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = calculator()
    with pytest.raises(HookError, match=r"step 0, 0 fs carries no Force Delta.*no second force"):
        run(langevin(atoms), 50, [Guard(**threshold)])


def test_without_thresholds_no_u_is_needed():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    assert run(langevin(atoms), 5, [Guard()]).reason == "finished"


def test_two_models_in_one_mixer_are_named():
    atoms = argon()
    one, other = atoms.calc, TwoForces()
    other.model_info = {"name": "another"}
    atoms.calc = AverageCalculator([one, SumCalculator([weak(), other])])
    with pytest.raises(
        HookError, match=r"2 calculators with a Force Delta \(two-forces, another\)"
    ):
        run(langevin(atoms), 5, [Guard(stop_above=1.0)])


def test_one_model_that_is_in_a_mixer_twice_is_one():
    atoms = argon()
    model = atoms.calc
    atoms.calc = LinearCombinationCalculator([model, model, weak()], [0.5, 0.5, 1.0])
    assert run(langevin(atoms), 5, [Guard(stop_above=10.0)]).force_delta is not None


def test_a_calculator_that_owes_its_u_is_named():
    class Owing(TwoForces):
        force_delta_due = True

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if self.evaluations == 4:
                del self.results["force_delta"]

    atoms = argon()
    atoms.calc = Owing()
    with pytest.raises(
        HookError, match=r"step 3, 6 fs carries no Force Delta.*two-forces gave none"
    ):
        run(langevin(atoms), 10, [Guard(stop_above=10.0)])
