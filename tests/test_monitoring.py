"""Adaptive monitoring of molecular dynamics in ASE: what is exact, what it costs, restarts, records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.io import read
from ase.md import Bussi, Langevin, VelocityVerlet
from ase.md.velocitydistribution import thermalize_momenta
from systems import Counting, acetaldehyde, calm_network
from torch import Tensor, nn

from forcedelta import ForceDelta, ForceDeltaCalculator, ForceDeltaError, guarded_run, load_model
from forcedelta.ase import PropertyUnavailableError
from forcedelta.monitoring import ESTIMATE, recorded_monitoring, sentinel_of
from forcedelta.sentinel import AT_LEAST_EVERY, FEWEST
from md_hooks import FlagStore, Frame, Guard, HookChain, Recorder, RunInfo, Trajectory, restore, run
from md_hooks.h5md.checkpoint import load_checkpoint

MOLECULE = Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"


@pytest.fixture(scope="module")
def acac() -> Any:
    return load_model("acac", torch.float32)


def acetylacetone(model: Any, every: Any = "adaptive", seed: int = 1, kelvin: float = 300) -> Atoms:
    atoms = read(MOLECULE)
    assert isinstance(atoms, Atoms)
    atoms.calc = ForceDeltaCalculator(model, every=every)
    thermalize_momenta(atoms, kelvin, rng=np.random.default_rng(seed))
    return atoms


def langevin(atoms: Atoms, kelvin: float = 300, seed: int = 2) -> Langevin:
    return Langevin(
        atoms, 0.5 * units.fs, temperature_K=kelvin, friction=0.01 / units.fs, fixcm=False,
        rng=np.random.default_rng(seed),
    )  # fmt: skip


class Record:
    """Keeps the frames of a run."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def observe(self, frame: Frame, verdict: Any) -> None:
        self.frames.append(frame)

    @property
    def u(self) -> np.ndarray:
        return np.array([np.nan if f.force_delta is None else f.force_delta for f in self.frames])

    @property
    def estimate(self) -> np.ndarray:
        return np.array([f.extra[ESTIMATE] for f in self.frames])


def heat(model: Any, every: Any, seed: int, *hooks: Any) -> Any:
    """A ramp from 600 to 3000 K in 300 steps, which ends in a stop."""
    atoms = acetylacetone(model, every, seed, 600)
    dynamics = langevin(atoms, 600, seed)

    def ramp(frame: Frame) -> None:
        dynamics.set_temperature(temperature_K=600 + 2400 * min(1, frame.step / 300))

    return run(dynamics, 2000, [ramp, Guard(stop_above=0.6, flag_above=0.5), *hooks])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_ramp_stops_where_the_exact_one_does(acac, tmp_path, seed):
    seen = Record()
    exact = heat(acac, 1, seed)
    adaptive = heat(
        acac, "adaptive", seed, seen, FlagStore(tmp_path / "f.xyz"),
        Recorder(tmp_path / "r.h5", every=1000),
    )  # fmt: skip
    assert exact.reason == adaptive.reason == "stopped"
    assert 0 <= adaptive.step - exact.step <= 10
    assert exact.step > 150
    last = Trajectory(tmp_path / "r.h5").frame(-1)
    assert last.step == adaptive.step
    assert last.force_delta == pytest.approx(adaptive.force_delta)
    assert last.force_delta > 0.6
    counts = adaptive.monitoring
    assert counts["exact_evaluations"] == np.isfinite(seen.u).sum()
    assert counts["exact_evaluations"] < 0.35 * counts["evaluations"]
    assert counts["firings"] > 0
    flagged = Trajectory(tmp_path / "r.h5").flags
    series = Trajectory(tmp_path / "r.h5").series
    assert (series["force_delta"][np.searchsorted(series["step"], flagged)] > 0.5).all()


def test_a_calm_run_is_exact_on_schedule_and_the_passes_are_counted(acac):
    counted = Counting(acac.module)
    atoms = acetylacetone(ForceDelta(counted))
    result = run(VelocityVerlet(atoms, 0.5 * units.fs), 300, [Guard(stop_above=5.0)])
    counts = result.monitoring
    assert counts["evaluations"] == 301
    scheduled = FEWEST + (301 - FEWEST) // AT_LEAST_EVERY
    assert scheduled <= counts["exact_evaluations"] <= scheduled + 10
    assert counted.backwards == counts["exact_evaluations"]
    assert counted.forwards == counts["evaluations"] + counts["firings"] == result.evaluations


def test_passes_are_counted_where_it_fires(acac):
    counted = Counting(acac.module)
    result = heat(ForceDelta(counted), "adaptive", 3)
    counts = result.monitoring
    assert counts["firings"] > 0
    assert counted.backwards == counts["exact_evaluations"]
    assert counted.forwards == counts["evaluations"] + counts["firings"] == result.evaluations


def test_dynamics_are_those_of_direct_forces(acac):
    frames = []
    for every in (1, "adaptive"):
        seen = Record()
        run(langevin(acetylacetone(acac, every)), 120, [seen])
        frames.append(seen.frames)
    for one, other in zip(*frames, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-5)


class Noisy(nn.Module):
    """A model whose energy has noise, such as one of the edges of a neighbour list."""

    def __init__(self, model: nn.Module, size: float) -> None:
        super().__init__()
        self.model, self.size, self.cutoff = model, size, model.cutoff

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.model(*graph)
        seed = int(graph[0].detach().double().abs().sum() * 1e9)
        noise = np.random.default_rng(seed).normal(scale=self.size)
        return energy + noise, direct


def test_a_noisy_energy_fires_seldom(acac):
    atoms = acetylacetone(ForceDelta(Noisy(acac.module, 0.02)))
    result = run(langevin(atoms), 600, [Guard(stop_above=0.4)])
    counts = result.monitoring
    assert result.reason == "finished"
    assert counts["exact_evaluations"] < 0.15 * counts["evaluations"]


def bussi(atoms: Atoms) -> Bussi:
    return Bussi(atoms, 0.5 * units.fs, 300, 20 * units.fs, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("integrator", "fixed"), [(langevin, True), (bussi, False)])
def test_the_estimate_follows_u_under_thermostats_and_constraints(acac, integrator, fixed):
    atoms = acetylacetone(acac)
    if fixed:
        atoms.set_constraint(FixAtoms([0, 3, 4]))
    seen = Record()
    run(integrator(atoms), 300, [seen, Guard(stop_above=5.0)])
    known = np.isfinite(seen.u) & np.isfinite(seen.estimate)
    assert 10 < known.sum() < 60
    assert np.median(seen.estimate[known] / seen.u[known]) == pytest.approx(1, abs=0.4)


def test_wrapping_and_new_neighbour_lists_leave_the_estimate_alone():
    """A crystal at 900 K whose atoms on the faces of the cell are wrapped at every step, or never."""
    model = load_model("mlearn", torch.float32)
    estimates = []
    for wrap in (False, True):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.1, seed=0)
        atoms.calc = ForceDeltaCalculator(model, every="adaptive")
        thermalize_momenta(atoms, 900, rng=np.random.default_rng(0))
        seen = Record()
        dynamics = VelocityVerlet(atoms, units.fs)
        if wrap:
            dynamics.attach(atoms.wrap)
        run(dynamics, 150, [seen, Guard(stop_above=50.0)])
        places = np.array([frame.positions for frame in seen.frames])
        assert (np.abs(np.diff(places, axis=0)).max() > 5) == wrap
        estimates.append(seen.estimate[FEWEST + 2 :])
    assert np.corrcoef(*estimates)[0, 1] > 0.8  # wrapping makes a second evaluation of a step


def test_the_estimate_is_a_series_of_its_own_and_never_u(acac, tmp_path):
    result = guarded_run(
        MOLECULE, acac, 90, out=tmp_path / "r.h5", every="adaptive", record_every=1, seed=1,
        flag_above=0.06,
    )  # fmt: skip
    recorded = Trajectory(tmp_path / "r.h5")
    series = recorded.series
    exact = np.isfinite(series["force_delta"])
    assert exact.sum() == result.run.monitoring["exact_evaluations"] < len(exact)
    assert np.isfinite(series[ESTIMATE][FEWEST + 1 :]).all()
    assert (series["worst_atom"][~exact] == -1).all()
    assert not (series["action"][~exact] > 0).any()
    for index in np.flatnonzero(~exact)[:3]:
        frame = recorded.frame(int(index))
        assert frame.force_delta is None
        assert frame.force_deltas is None
        assert frame.conservative_forces is None
        assert frame.extra[ESTIMATE] == series[ESTIMATE][index]
    with h5py.File(tmp_path / "r.h5") as file:
        found = []
        file.visititems(lambda name, at: found.append(at) if name.endswith(ESTIMATE) else None)
        unit = found[0].attrs.get("unit") or found[0]["value"].attrs["unit"]
    assert (unit.decode() if isinstance(unit, bytes) else unit) == "eV Angstrom-1"
    assert result.as_dict()["monitoring"] == recorded.outcome["monitoring"]
    words = recorded_monitoring(recorded)
    assert words.startswith(f"U exact at {100 * exact.mean():.1f} % of the steps; fired ")


def _part(model: Any, path: Path, steps: int, **more: Any) -> Any:
    return guarded_run(
        None if more else MOLECULE, model, steps, out=path, every="adaptive", record_every=3,
        seed=5, temperature=900.0, stop_above=0.6, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(acac, tmp_path_factory) -> tuple[Any, Path]:
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    return _part(acac, path, 110), path


@pytest.mark.parametrize("at", [7, 26, 60])
def test_a_restart_equals_no_restart_bit_for_bit(acac, whole, tmp_path, at):
    """From a step of the start, from one at which it fired, and from a forward pass."""
    result, path = whole
    _part(acac, tmp_path / "parts.h5", at)
    continued = _part(acac, tmp_path / "parts.h5", 110, restart=True)
    one, two = Trajectory(path), Trajectory(tmp_path / "parts.h5")
    assert result.run.monitoring["firings"] > 3
    assert continued.run.monitoring == result.run.monitoring
    for name, values in one.series.items():
        np.testing.assert_array_equal(values, two.series[name], err_msg=name)
    np.testing.assert_array_equal(one.frame(-1).positions, two.frame(-1).positions)
    np.testing.assert_array_equal(one.frame(-1).velocities, two.frame(-1).velocities)


def test_a_restart_with_hooks_of_ones_own_in_the_same_process(acac, tmp_path):
    def hooks(path: Path) -> list[Any]:
        return [Guard(stop_above=0.5), Recorder(path, every=1, mode="append")]

    dynamics = langevin(acetylacetone(acac))
    run(dynamics, 60, hooks(tmp_path / "whole.h5"))
    dynamics = langevin(acetylacetone(acac))
    run(dynamics, 31, hooks(tmp_path / "parts.h5"))
    checkpoint = load_checkpoint(tmp_path / "parts.h5")
    restore(dynamics, checkpoint)
    chain = HookChain(hooks(tmp_path / "parts.h5"))
    chain.load_state_dict(checkpoint.hooks)
    result = run(
        dynamics, 29, chain, RunInfo(restart_step=checkpoint.step, restart_time=checkpoint.time)
    )
    assert result.monitoring["evaluations"] == 61
    one, two = (Trajectory(tmp_path / name).series for name in ("whole.h5", "parts.h5"))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_every_evaluation_is_exact_until_auto_has_chosen_its_threshold(acac):
    seen = Record()
    guard = Guard(stop_above="auto", burn_in=60, temperature=300)
    run(langevin(acetylacetone(acac)), 140, [seen, guard])
    assert np.isfinite(seen.u[:60]).all()
    assert np.isnan(seen.u[62:]).sum() > 40
    assert guard.stop_threshold is not None


def test_the_first_explosion_is_exact(acac):
    """Positions that are not finite give no forward pass that could decide."""
    atoms = acetylacetone(acac)
    run(langevin(atoms), 60, [])
    assert not sentinel_of(atoms).due
    atoms.positions[0] = np.nan
    atoms.get_forces()
    assert np.isnan(atoms.calc.results["force_delta"])
    assert atoms.calc.problem is not None


def test_properties_between_exact_evaluations_are_refused_by_name(acac):
    atoms = acetylacetone(acac)
    run(langevin(atoms), 60, [])
    atoms.positions[0] += 0.001
    assert not sentinel_of(atoms).due
    with pytest.raises(PropertyUnavailableError, match="every='adaptive'"):
        atoms.calc.get_property("force_delta", atoms)
    before = atoms.calc.evaluations
    atoms.get_forces()
    assert "force_delta" not in atoms.calc.results
    assert atoms.calc.results[ESTIMATE] > 0
    atoms.get_potential_energy()
    assert atoms.calc.evaluations == before + 1


def test_another_structure_begins_with_an_exact_evaluation(acac):
    atoms = acetylacetone(acac)
    run(langevin(atoms), 60, [])
    calculator = atoms.calc
    assert not calculator.sentinel.due
    other = atoms[[0, 1, 2]]
    assert calculator.get_property("force_delta", other) > 0


def test_without_adaptive_monitoring_nothing_is_added():
    atoms = acetaldehyde()
    atoms.calc = ForceDeltaCalculator(ForceDelta(calm_network()))
    seen = Record()
    result = run(langevin(atoms), 3, [seen])
    assert result.monitoring is None
    assert sentinel_of(atoms) is None
    assert ESTIMATE not in seen.frames[0].extra
    assert ESTIMATE not in atoms.calc.results


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"every": "auto"}, "whole number of 1 or more, or 'adaptive', not 'auto'"),
        ({"every": 0}, "whole number of 1 or more, or 'adaptive', not 0"),
        ({"every": "adaptive", "forces": "conservative"}, "every must be 1 with conservative"),
        ({"every": "adaptive", "forces": "mts", "inner": 4}, "no meaning with forces='mts'"),
    ],
)
def test_nonsense_is_refused_in_one_line(given, words):
    with pytest.raises(ForceDeltaError, match=words) as error:
        ForceDeltaCalculator(ForceDelta(calm_network()), **given)
    assert "\n" not in str(error.value)


def test_constant_pressure_needs_the_stress_of_every_step(tmp_path):
    with pytest.raises(ForceDeltaError, match="--every 1"):
        guarded_run(MOLECULE, "acac", 10, out=tmp_path / "r.h5", every="adaptive", ensemble="npt")
    assert not (tmp_path / "r.h5").exists()


def test_counts_are_json(acac, tmp_path):
    result = guarded_run(MOLECULE, acac, 30, out=tmp_path / "r.h5", every="adaptive", seed=1)
    assert json.loads(json.dumps(result.as_dict()))["monitoring"] == result.run.monitoring


def test_the_command_line_tells_what_was_exact(forcedelta):
    """In the settings file or as a flag; at the end, in JSON, and for those who look at the file."""
    Path("run.toml").write_text('every = "adaptive"\nseed = 1\n')
    command = ("run", MOLECULE, "--model", "acac", "--config", "run.toml")
    code, out, err = forcedelta(*command, "--steps", "45", "--json")
    counts = json.loads(out)["monitoring"]
    assert code == 0
    assert counts["evaluations"] == 46
    line = f"U exact at {100 * counts['exact_evaluations'] / 46:.1f} % of the steps; fired "
    assert line in err
    assert line in forcedelta("watch", "run.h5", "--once")[1]
    assert json.loads(forcedelta("watch", "run.h5", "--json")[1])["monitoring"].startswith(line)
    assert forcedelta("plot", "run.h5", "--out", "run.html")[0] == 0
    assert f"Adaptive monitoring: {line}" in Path("run.html").read_text(encoding="utf-8")
    _, _, err = forcedelta(*command, "--steps", "45", "--restart", "--every", "2")
    assert "--every 2 differs from the run in run.h5, which has adaptive" in err
    assert forcedelta("run", "--steps", "45", "--restart")[0] == 0
