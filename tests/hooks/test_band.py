"""Nudged elastic bands under guard: every image has its U, and the worst is judged and recorded."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.mixing import SumCalculator
from ase.mep import NEB, DyNEB
from ase.mep.neb import NEBOptimizer
from ase.optimize import BFGS, FIRE, LBFGS
from helpers import TwoForces, argon

from md_hooks import (
    Action,
    FlagStore,
    Guard,
    HookError,
    Recorder,
    RunInfo,
    Trajectory,
    attach,
    load_checkpoint,
    restore,
    run,
)

IMAGES = 5
REFERENCE = argon().positions.copy()


def model(**settings) -> TwoForces:
    return TwoForces(reference=REFERENCE.copy(), **settings)


def images(shared: TwoForces | SumCalculator | None = None, **settings) -> list[Atoms]:
    """One atom moves along the surface of a cluster; the paths of the images bend outwards."""
    first = argon()
    first.set_momenta(None)
    last = first.copy()
    last.positions[7] += [0.6, 0.4, 0.9]
    band = [first.copy() for _ in range(IMAGES - 1)] + [last]
    for number, image in enumerate(band):
        image.positions += number / (IMAGES - 1) * (last.positions - image.positions)
        if 0 < number < IMAGES - 1:
            image.rattle(0.02, seed=number)
        image.calc = model(**settings) if shared is None else shared
    return band


def neb(band: list[Atoms], kind=NEB, **settings):
    return kind(band, **{"method": "improvedtangent", "k": 0.1, **settings})


def count(band: list[Atoms]) -> int:
    return sum(image.calc.evaluations for image in band)


def exact(positions: np.ndarray) -> tuple[float, float]:
    """U and energy at the positions of an image."""
    atoms = argon()
    atoms.set_momenta(None)
    atoms.positions = positions
    atoms.calc = model()
    energy = atoms.get_potential_energy()
    return atoms.calc.results["force_delta"], energy


class Watcher:
    """Keeps the frames, and the positions of all images at each of them."""

    def __init__(self, band: list[Atoms]) -> None:
        self.band = band
        self.frames, self.positions = [], []

    def __call__(self, frame):
        self.frames.append(frame)
        self.positions.append([image.positions.copy() for image in self.band])


@pytest.mark.parametrize("method", ["improvedtangent", "eb", "string", "spline", "aseneb"])
@pytest.mark.parametrize("climb", [False, True])
def test_each_image_has_its_u_and_the_worst_makes_the_frame(tmp_path, method, climb):
    band = images()
    watcher = Watcher(band)
    hooks = [watcher, Guard(stop_above=9.0), Recorder(tmp_path / "neb.h5", every=1)]
    result = run(FIRE(neb(band, method=method, climb=climb), logfile=None), 6, hooks, fmax=1e-9)
    ends = 0 if method == "aseneb" else 2  # that method needs no energies of the end points
    assert result.evaluations == count(band) == (IMAGES - 2) * 7 + ends
    series = Trajectory(tmp_path / "neb.h5").series
    recorded = list(Trajectory(tmp_path / "neb.h5").frames())
    assert [frame.step for frame in recorded] == list(range(7))
    for step, (frame, positions) in enumerate(zip(watcher.frames, watcher.positions, strict=True)):
        expected = [exact(place) for place in positions]
        if not ends:
            expected[0] = expected[-1] = (np.nan, np.nan)
        u = [value for value, _ in expected]
        worst = int(np.nanargmax(u))
        assert frame.extra["image"] == worst
        assert frame.force_delta == u[worst]
        np.testing.assert_array_equal(frame.positions, positions[worst])
        for number, (own, energy) in enumerate(expected):
            np.testing.assert_array_equal(series[f"force_delta_image_{number}"][step], own)
            np.testing.assert_array_equal(series[f"energy_image_{number}"][step], energy)
        np.testing.assert_array_equal(recorded[step].positions, positions[worst])
        assert ase.io.read(tmp_path / "neb.h5", step).info["image"] == worst
    assert Trajectory(tmp_path / "neb.h5").metadata["settings"]["images"] == IMAGES


@pytest.mark.parametrize(
    ("kind", "optimiser"), [(NEB, FIRE), (NEB, BFGS), (NEB, LBFGS), (DyNEB, FIRE), (DyNEB, BFGS)]
)
def test_the_guard_neither_evaluates_nor_changes_the_path(kind, optimiser):
    free, guarded = images(), images()
    for band, hooked in ((free, False), (guarded, True)):
        dynamics = optimiser(neb(band, kind), logfile=None)
        if hooked:
            run(dynamics, 5, [Guard(stop_above=9.0)], fmax=0.001)
        else:
            dynamics.run(fmax=0.001, steps=5)
    assert count(free) == count(guarded)
    for one, other in zip(free, guarded, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)


def test_images_that_share_a_calculator_are_evaluated_once_a_step():
    own = images()
    run(FIRE(neb(own), logfile=None), 5, [Guard(stop_above=9.0)], fmax=1e-9)
    shared = model()
    band = images(shared)
    watcher = Watcher(band)
    dynamics = FIRE(neb(band, allow_shared_calculator=True), logfile=None)
    result = run(dynamics, 5, [watcher, Guard(stop_above=9.0)], fmax=1e-9)
    assert result.evaluations == shared.evaluations == (IMAGES - 2) * 6 + 2
    assert all(image.calc is shared for image in band)
    for one, other in zip(own, band, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
    for frame, positions in zip(watcher.frames, watcher.positions, strict=True):
        assert frame.force_delta == max(exact(place)[0] for place in positions)


def test_a_shared_sum_of_calculators_shows_the_model_inside_of_it():
    class Nothing(TwoForces):
        implemented_properties = ("energy", "free_energy", "forces", "stress")

        def calculate(self, atoms=None, properties=None, system_changes=()):
            super().calculate(atoms, properties, system_changes)
            self.results = {
                "energy": 0.0, "free_energy": 0.0, "forces": np.zeros((8, 3)), "stress": np.zeros(6),
            }  # fmt: skip

    inner = model()
    band = images(SumCalculator([inner, Nothing()]))
    watcher = Watcher(band)
    dynamics = FIRE(neb(band, allow_shared_calculator=True), logfile=None)
    result = run(dynamics, 3, [watcher, Guard(stop_above=9.0)], fmax=1e-9)
    assert result.evaluations == inner.evaluations == (IMAGES - 2) * 4 + 2
    for frame, positions in zip(watcher.frames, watcher.positions, strict=True):
        assert frame.force_delta == max(exact(place)[0] for place in positions)


def test_the_worst_image_stops_the_band_and_is_the_last_frame(tmp_path):
    band = images()
    highest = max(exact(image.positions)[0] for image in band)
    hooks = [Guard(stop_above=0.9 * highest), Recorder(tmp_path / "neb.h5", every=100)]
    result = run(BFGS(neb(band), logfile=None), 50, hooks, fmax=1e-9)
    assert result.reason == "stopped"
    frame = Trajectory(tmp_path / "neb.h5").frame(-1)
    assert f"step {frame.step}, image {int(frame.extra['image'])}, " in result.message
    assert frame.force_delta == result.force_delta > 0.9 * highest


def test_an_image_that_is_not_finite_stops_the_band():
    band = images()
    band[2].calc.broken = {2: "energy"}
    result = run(FIRE(neb(band), logfile=None), 9, [Guard(stop_above=9.0)], fmax=1e-9)
    assert result.reason == "stopped"
    assert result.message.startswith("step 2, image 2, 0 fs: energy is not finite")


def test_flagged_images_say_which_they_are(tmp_path):
    band = images()
    flagged = FlagStore(tmp_path / "flagged.xyz")
    run(FIRE(neb(band), logfile=None), 3, [lambda frame: Action.FLAG, flagged], fmax=1e-9)
    for atoms in ase.io.read(tmp_path / "flagged.xyz", ":"):
        u, energy = exact(atoms.positions)
        assert atoms.info["force_delta"] == pytest.approx(u, abs=1e-7)
        assert atoms.info["model_energy"] == pytest.approx(energy, abs=1e-7)
        assert 0 <= atoms.info["image"] < IMAGES


@pytest.mark.parametrize("optimiser", [FIRE, BFGS])
def test_a_band_continues_from_its_checkpoint(tmp_path, optimiser):
    whole = images()
    run(optimiser(neb(whole), logfile=None), 12, [Recorder(tmp_path / "a.h5")], fmax=1e-9)
    band = images()
    path = tmp_path / "b.h5"
    run(optimiser(neb(band), logfile=None), 6, [Recorder(path)], fmax=1e-9)
    continued = images()
    dynamics = optimiser(neb(continued), logfile=None)
    checkpoint = load_checkpoint(path)
    restore(dynamics, checkpoint)
    for one, other in zip(band, continued, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
    info = RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
    run(dynamics, 6, [Recorder(path, mode="append")], info, fmax=1e-9)
    assert list(Trajectory(path).series["step"]) == list(range(13))
    if optimiser is FIRE:  # BFGS keeps a Hessian without its place in the file of ASE
        for one, other in zip(whole, continued, strict=True):
            np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-9)


def test_the_checkpoint_of_another_band_is_refused(tmp_path):
    band = images()
    run(FIRE(neb(band), logfile=None), 2, [Recorder(tmp_path / "neb.h5")], fmax=1e-9)
    checkpoint = load_checkpoint(tmp_path / "neb.h5")
    with pytest.raises(HookError, match="has 5 images of a band and this run 4"):
        restore(FIRE(neb(images()[:-1]), logfile=None), checkpoint)
    with pytest.raises(HookError, match="has 5 images of a band and this run none"):
        restore(FIRE(argon(), logfile=None), checkpoint)


@pytest.mark.parametrize("method", ["static", "ode"])
def test_the_optimiser_of_bands(method):
    band = images()
    watcher = Watcher(band)
    dynamics = NEBOptimizer(neb(band, method="string"), logfile=None, method=method)
    run(dynamics, 4, [watcher, Guard(stop_above=9.0)], fmax=1e-9)
    assert len(watcher.frames) > 2
    for frame, positions in zip(watcher.frames, watcher.positions, strict=True):
        worst = int(frame.extra["image"])
        np.testing.assert_array_equal(frame.positions, positions[worst])


def test_attach_gives_a_shared_calculator_back_after_an_error():
    shared = model(broken={8: "raise"})
    band = images(shared)
    dynamics = FIRE(neb(band, allow_shared_calculator=True), logfile=None)
    with pytest.raises(RuntimeError, match="the model broke"), attach(dynamics, [Guard()]):
        dynamics.run(fmax=1e-9, steps=5)
    assert all(image.calc is shared for image in band)


def test_what_cannot_be_guarded_is_told_in_one_line():
    band = images(model(every=2))
    dynamics = FIRE(neb(band, allow_shared_calculator=True), logfile=None)
    with pytest.raises(HookError, match="share a calculator, whose every counts") as caught:
        run(dynamics, 2, [Guard(stop_above=1.0)])
    assert "\n" not in str(caught.value)
    assert all(image.calc is band[0].calc for image in band)


def test_between_exact_evaluations_the_image_of_the_highest_energy_is_shown():
    band = images(every=2)
    watcher = Watcher(band)
    run(FIRE(neb(band), logfile=None), 4, [watcher, Guard(stop_above=9.0)], fmax=1e-9)
    assert [frame.force_delta is None for frame in watcher.frames] == [False, True] * 2 + [False]
    for frame, positions in zip(watcher.frames, watcher.positions, strict=True):
        u, energies = zip(*map(exact, positions), strict=True)
        if frame.force_delta is None:
            assert frame.extra["image"] == 1 + np.argmax(energies[1:-1])
            assert np.isnan(frame.extra["force_delta_image_2"])
        else:
            assert frame.force_delta == max(u)


@pytest.mark.parametrize("shared", [False, True])
def test_bands_say_how_they_ended_and_continue_in_legs(tmp_path, shared):
    calc = model() if shared else None
    band = images(calc)
    path = tmp_path / "neb.h5"
    hooks = [Guard(stop_above=9.0), Recorder(path, every=1)]

    def relax(steps: int, fmax: float):
        dynamics = FIRE(neb(band, allow_shared_calculator=shared), logfile=None)
        return run(dynamics, steps, hooks, fmax=fmax)

    first = relax(3, 1e-9)
    assert first.reason == "out of steps"
    assert first.evaluations == (IMAGES - 2) * 4 + 2
    second = relax(400, 0.02)
    assert second.reason == "converged"
    series = Trajectory(path).series
    assert list(series["step"]) == list(range(second.step + 1))
    # what images keep between legs is theirs alone: those of a shared calculator begin anew
    moved = (IMAGES - 2) * (second.step - 3)
    assert second.evaluations == moved + (IMAGES if shared else 0)


def test_hooks_that_refuse_a_run_leave_shared_calculators_alone(tmp_path):
    (tmp_path / "neb.h5").write_text("of somebody else")
    shared = model()
    band = images(shared)
    dynamics = FIRE(neb(band, allow_shared_calculator=True), logfile=None)
    with pytest.raises(HookError, match=r"neb\.h5 exists"):
        run(dynamics, 2, [Recorder(tmp_path / "neb.h5")])
    assert all(image.calc is shared for image in band)
