"""Multiple time steps in OpenMM: two forces of one model, their cost, and the energy."""

import gc
from pathlib import Path

import ase.io
import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import thermalize_momenta
from openmm import app
from openmm.mtsintegrator import MTSIntegrator, MTSLangevinIntegrator
from simulations import (
    Frames,
    MorsePairs,
    cluster,
    crystal,
    loaded,
    simulation,
    state_of,
    topology_of,
    triclinic,
)

from forcedelta import ForceDeltaError
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.integrators import MTSVelocityVerlet
from forcedelta.openmm import add_force_delta, run
from forcedelta.openmm import monitor as monitor_module
from md_hooks import Action, DriftGuard, Guard, Recorder, Trajectory
from md_hooks import run as run_ase

MOLECULE = Path(__file__).parents[2] / "examples" / "acetylacetone.xyz"
KJ_PER_NM = 964.853329  # in an eV/Å


def integrator(inner: int, timestep: float = 1.0, thermostat: bool = False, group: int = 0):
    """An integrator with inner steps of some fs."""
    step, groups = inner * timestep / 1000, [(group + 1, 1), (group, inner)]
    if not thermostat:
        return MTSIntegrator(step, groups)
    return MTSLangevinIntegrator(300, 5, step, groups)


def mts(structure: Atoms, inner: int = 4, *, thermostat: bool = False, **options):
    """A simulation with multiple time steps, its monitor and its model."""
    module = options.pop("module", None) or MorsePairs()
    made, monitor = simulation(
        structure, integrator(inner, thermostat=thermostat), model=loaded(module), forces="mts",
        inner=inner, **options,
    )  # fmt: skip
    return made, monitor, module


@pytest.fixture
def backwards(monkeypatch):
    """A list that grows by one with each backward pass."""
    count: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: count.append(1) or grad(*a, **k))
    return count


# --- cost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("thermostat", [False, True], ids=["nve", "langevin"])
@pytest.mark.parametrize("barostat", [False, True], ids=["fixed box", "barostat"])
@pytest.mark.parametrize("inner", [2, 5])
def test_one_backward_pass_per_outer_step(inner, barostat, thermostat, platform, backwards):
    made, monitor, module = mts(
        crystal(), inner, thermostat=thermostat, barostat=barostat, platform=platform
    )
    frames = Frames()
    result = run(made, 20, [frames])
    trials = 20 // 5 if barostat else 0  # of the barostat, each with both forces
    assert module.calls == monitor.evaluations == result.evaluations == 20 * inner + 1 + trials
    assert len(backwards) == 20 + 1 + trials
    assert [frame.step for frame in frames] == list(range(21))
    assert [frame.time for frame in frames] == [inner * step for step in range(21)]
    if barostat:
        assert len({frame.cell[0, 0] for frame in frames}) > 1, "no trial volume was accepted"
        assert len({frame.cell[0, 0] for frame in frames}) < 5, "no trial volume was rejected"


def test_the_cost_where_the_engine_shifts_positions(backwards, monkeypatch):
    """The way taken on platforms other than Reference and CPU, run on Reference."""
    monkeypatch.setattr(monitor_module, "_PLAIN_PLATFORMS", ())
    made, monitor, _ = mts(crystal(), 4)
    run(made, 10, [])
    assert (monitor.evaluations, len(backwards)) == (41, 11)


def test_a_run_without_frames_costs_the_same(backwards):
    made, _, module = mts(cluster(), 4)
    made.step(10)
    assert (module.calls, len(backwards)) == (41, 11)


def test_queries_between_steps_cost_no_more_than_themselves(backwards):
    """Energies of a configuration that is known, as reporters request them."""
    made, _, module = mts(cluster(), 4)

    def query(frame):
        made.context.getState(energy=True, forces=True)

    run(made, 5, [query])
    assert (module.calls, len(backwards)) == (21, 6)


# --- forces ----------------------------------------------------------------------------------------


def forces_of(made, *groups):
    state = made.context.getState(energy=True, forces=True, groups=set(groups))
    energy = state.getPotentialEnergy()._value / (KJ_PER_NM / 10)
    return energy, state.getForces(asNumpy=True)._value / KJ_PER_NM


def expected(positions: np.ndarray, like: Atoms) -> dict:
    atoms = Atoms(like.numbers, positions, cell=like.cell, pbc=like.pbc)
    atoms.calc = ForceDeltaCalculator(loaded(), dtype="float64")
    atoms.get_forces()
    return atoms.calc.results


@pytest.mark.parametrize("make", [cluster, crystal, triclinic])
def test_the_forces_of_the_groups_in_any_order(make):
    """Whatever is requested when: a wrong guess of the order costs a pass and changes no force."""
    structure = make()
    made, _, _ = mts(structure)
    rng = np.random.default_rng(0)
    groups = {0: "direct", 1: "slow", (0, 1): "conservative"}
    for _ in range(30):
        positions = structure.positions + rng.normal(0, 0.05, structure.positions.shape)
        made.context.setPositions(positions / 10)
        found = expected(positions, structure)
        direct, conservative = found["direct_forces"], found["conservative_forces"]
        right = {"direct": direct, "conservative": conservative, "slow": conservative - direct}
        for choice in rng.permutation(3)[: rng.integers(1, 4)]:
            group = list(groups)[choice]
            energy, forces = forces_of(made, *(group if isinstance(group, tuple) else [group]))
            np.testing.assert_allclose(forces, right[groups[group]], rtol=1e-7, atol=1e-9)
            wanted = 0.0 if groups[group] == "slow" else found["energy"]
            assert energy == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("make", [cluster, crystal, triclinic])
def test_a_frame_has_both_forces_of_its_configuration(make):
    structure = make()
    made, _, _ = mts(structure, thermostat=True, barostat=make is crystal)
    frames = Frames()
    run(made, 12, [frames])
    for frame in frames:
        found = expected(frame.positions, Atoms(frame.numbers, cell=frame.cell, pbc=frame.pbc))
        assert frame.energy == pytest.approx(found["energy"], abs=1e-10)
        for name in ("direct_forces", "conservative_forces", "force_deltas"):
            np.testing.assert_allclose(getattr(frame, name), found[name], rtol=0, atol=1e-10)
        assert frame.force_delta == pytest.approx(found["force_delta"], abs=1e-10)
        np.testing.assert_array_equal(frame.forces, frame.direct_forces)
    np.testing.assert_array_equal(frames[-1].positions, state_of(made)[0] * 10)


# --- dynamics --------------------------------------------------------------------------------------


def thermal(structure: Atoms, temperature: float = 300) -> Atoms:
    thermalize_momenta(structure, temperature, rng=np.random.default_rng(4))
    return structure


def started(structure: Atoms, inner: int, timestep: float = 1.0, model=None, dtype="float64"):
    """NVE from the momenta of a structure, with the model's force alone."""
    made, _ = simulation(
        structure, integrator(inner, timestep), model=model, dtype=dtype, forces="mts", inner=inner
    )
    made.context.setVelocities(structure.get_velocities() * units.fs * 100)
    return made


@pytest.mark.parametrize("make", [cluster, crystal, triclinic])
def test_openmm_moves_atoms_as_ase_does(make):
    inner, outer = 4, 25
    atoms = thermal(make())
    made = started(atoms, inner)
    ase_frames, openmm_frames = Frames(), Frames()
    run(made, outer, [openmm_frames])
    atoms.calc = ForceDeltaCalculator(loaded(), forces="mts", inner=inner, dtype="float64")
    run_ase(MTSVelocityVerlet(atoms, 1.0 * units.fs), inner * outer, [ase_frames])
    ase_frames = [frame for frame in ase_frames if frame.step % inner == 0]
    assert len(ase_frames) == len(openmm_frames) == outer + 1
    for one, other in zip(ase_frames, openmm_frames, strict=True):
        assert one.step == inner * other.step
        assert one.time == pytest.approx(other.time)
        np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-10)
        np.testing.assert_allclose(one.velocities, other.velocities, rtol=0, atol=1e-10)
        assert one.force_delta == pytest.approx(other.force_delta, abs=1e-10)
    moved = np.abs(openmm_frames[-1].positions - openmm_frames[0].positions).max()
    assert moved > 0.1, "nothing moved"


@pytest.mark.parametrize("make", [cluster, triclinic])
def test_reversed_velocities_lead_back(make):
    atoms = thermal(make())
    made = started(atoms, 4)
    before, velocities, _ = state_of(made)
    made.step(25)
    middle, reached, _ = state_of(made)
    assert np.abs(middle - before).max() > 0.01
    made.context.setVelocities(-reached)
    made.step(25)
    after, back, _ = state_of(made)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-11)
    np.testing.assert_allclose(back, -velocities, rtol=0, atol=1e-9)


def test_the_energy_error_is_of_second_order():
    """Half the step, a quarter of the error of the total energy."""
    errors = []
    for timestep in (2.0, 1.0, 0.5):
        made = started(thermal(cluster()), 4, timestep)
        frames = Frames()
        run(made, int(400 / (4 * timestep)), [frames])
        errors.append(np.std([frame.extra["conserved_energy"] for frame in frames]))
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.all((ratios > 3) & (ratios < 5.5)), ratios


def test_no_heating_of_a_molecule():
    """Acetylacetone, 0.3 ps at 350 K: direct forces heat it, multiple time steps do not."""
    atoms = thermal(ase.io.read(MOLECULE), 700)
    direct, _ = simulation(
        atoms, openmm.VerletIntegrator(0.0005), model="acac", dtype="float32", every=20
    )
    multiple = started(atoms, 4, 0.5, "acac", "float32")
    gains, flags = [], []
    for made, steps in ((direct, 600), (multiple, 150)):
        made.context.setVelocities(atoms.get_velocities() * units.fs * 100)
        frames = Frames()
        run(made, steps, [frames, DriftGuard(flag_above=10.0, window=200.0)])
        flags.append(sum(verdict.action == Action.FLAG for verdict in frames.verdicts))
        total = np.array([frame.extra["conserved_energy"] for frame in frames])
        fifth = len(total) // 5
        gains.append(1000 * (total[-fifth:].mean() - total[:fifth].mean()) / len(atoms))
    assert gains[0] > 3, "meV per atom, of direct forces"
    assert abs(gains[1]) < 0.3
    assert flags[0] > 0, "the drift guard"
    assert flags[1] == 0


# --- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thermostat", [False, True], ids=["nve", "langevin"])
def test_a_continued_run_equals_one_that_was_not_interrupted(thermostat, tmp_path):
    whole, _, _ = mts(crystal(), thermostat=thermostat)
    run(whole, 20, [Recorder(tmp_path / "whole.h5")])
    end = state_of(whole)
    del whole
    path = tmp_path / "parts.h5"
    first, _, _ = mts(crystal(), thermostat=thermostat)
    run(first, 13, [Recorder(path)])
    del first
    second, monitor, _ = mts(crystal(), thermostat=thermostat)
    run(second, 7, [Recorder(path, mode="append")], restart=path)
    assert monitor.evaluations == 7 * 4 + 1
    for one, other in zip(state_of(second), end, strict=True):
        np.testing.assert_array_equal(one, other)
    one, other = Trajectory(tmp_path / "whole.h5"), Trajectory(path)
    assert other.series["step"].tolist() == list(range(21))
    for name in ("potential_energy", "force_delta", "temperature", "time"):
        np.testing.assert_array_equal(one.series[name], other.series[name])
    assert other.metadata["settings"]["inner"] == 4


def test_a_checkpoint_of_other_inner_steps_is_refused(tmp_path):
    path = tmp_path / "run.h5"
    run(mts(cluster(), 4)[0], 3, [Recorder(path)])
    with pytest.raises(ForceDeltaError, match="written with inner 4, but the simulation has 2"):
        run(mts(cluster(), 2)[0], 3, [], restart=path)


def test_the_guard_stops_at_the_frame_that_crossed(tmp_path):
    made, _, _ = mts(cluster(), thermostat=True)
    seen = Frames()
    run(made, 40, [seen])
    values = [frame.force_delta for frame in seen]
    crossed = next(k for k in range(5, 41) if values[k] > max(values[:5]))
    stopped, _, _ = mts(cluster(), thermostat=True)
    path = tmp_path / "run.h5"
    result = run(stopped, 40, [Guard(stop_above=max(values[:5])), Recorder(path)])
    assert (result.reason, result.step) == ("stopped", crossed)
    np.testing.assert_array_equal(state_of(stopped)[0] * 10, seen[crossed].positions)
    assert Trajectory(path).frame(-1).step == crossed


class Failing(MorsePairs):
    """Raises at one of its calls."""

    at = 0

    def forward(self, *arguments):
        if self.calls + 1 == self.at:
            self.at = 0
            raise ZeroDivisionError("no such thing")
        return super().forward(*arguments)


@pytest.mark.parametrize("at", [6, 9])
def test_an_error_at_an_inner_or_outer_step_surfaces(at):
    module = Failing()
    made, _, _ = mts(cluster(), module=module)
    frames = Frames()
    module.at = at
    with pytest.raises(ZeroDivisionError, match=r"^no such thing") as caught:
        run(made, 20, [frames])
    assert caught.value.__notes__ == ["in the evaluation at step 1"]
    assert [frame.step for frame in frames] == [0, 1]


def test_an_error_at_a_trial_volume_does_not_keep_that_volume():
    module = Failing()
    made, _, _ = mts(crystal(), module=module, barostat=True)
    frames = Frames()
    run(made, 4, [frames])
    module.at = module.calls + 1  # the trial before step 5
    with pytest.raises(ZeroDivisionError):
        run(made, 1, [frames])
    np.testing.assert_array_equal(state_of(made)[2] * 10, frames[-1].cell)


# --- Systems ---------------------------------------------------------------------------------------


def test_a_system_read_back_has_both_forces(tmp_path):
    """Also in the group that was asked for, with another force in the fast group."""
    from forcedelta.models.files import save_network
    from forcedelta.models.network import DirectForceNetwork

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DirectForceNetwork([14], 4.0, features=16, channels=4, layers=1)
    network.energy_scale.mul_(0.05)
    metadata = dict.fromkeys(
        ("name", "training_set", "source", "level_of_theory", "regime", "licence"), "tiny"
    )
    file = tmp_path / "si.safetensors"
    save_network(file, network, {**metadata, "periodic": None, "tests": {}})
    atoms = thermal(cluster())

    def end(system):
        made = app.Simulation(
            topology_of(atoms), system, integrator(4, group=3),
            openmm.Platform.getPlatformByName("Reference"),
        )  # fmt: skip
        made.context.setPositions(atoms.positions / 10)
        made.context.setVelocities(atoms.get_velocities() * units.fs * 100)
        result = run(made, 5, [])
        return result.evaluations, state_of(made)[0]

    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    add_force_delta(
        system, str(file), topology_of(atoms), forces="mts", inner=4, force_group=3, dtype="float64"
    )
    expected_passes, there = end(system)
    text = openmm.XmlSerializer.serialize(system)
    del system
    gc.collect()  # so that the model must be loaded again
    again = openmm.XmlSerializer.deserialize(text)
    passes, here = end(again)
    assert passes == expected_passes == 21
    np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forces": "mts"}, "needs inner of 2 or more"),
        ({"forces": "mts", "inner": 1}, "needs inner of 2 or more"),
        ({"forces": "mts", "inner": 2.5}, "inner must be a whole number"),
        ({"forces": "direct", "inner": 4}, "inner=4 needs forces='mts'"),
        ({"forces": "conservative", "inner": 4}, "inner=4 needs forces='mts'"),
        ({"forces": "mts", "inner": 4, "every": 2}, "every=2 has no meaning with forces='mts'"),
        ({"forces": "mts", "inner": 4, "path": "torchscript"}, "use path='python'"),
        ({"forces": "mts", "inner": 4, "force_group": 31}, "pass 0 to 30"),
        ({"forces": "mts", "inner": 4, "force_group": -1}, "pass 0 to 30"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    system = openmm.System()
    for _ in range(8):
        system.addParticle(28.0)
    with pytest.raises(ForceDeltaError, match=message):
        add_force_delta(system, loaded(), [14] * 8, **options)
    assert system.getNumForces() == 0


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda: openmm.VerletIntegrator(0.001), "VerletIntegrator"),
        (lambda: openmm.LangevinMiddleIntegrator(300, 1, 0.001), "LangevinMiddleIntegrator"),
        (lambda: MTSIntegrator(0.004, [(0, 1), (1, 4)]), "MTSIntegrator with other groups"),
        (lambda: MTSIntegrator(0.004, [(1, 1), (0, 2)]), "MTSIntegrator with other groups"),
        (lambda: MTSIntegrator(0.004, [(0, 4)]), "MTSIntegrator with other groups"),
    ],
)
def test_integrators_without_the_two_forces_are_refused(wrong, found):
    made, _ = simulation(cluster(), wrong(), forces="mts", inner=4)
    with pytest.raises(ForceDeltaError, match=rf"{found}: use .*\[\(1, 1\), \(0, 4\)\]"):
        run(made, 1, [])


def test_further_levels_of_other_forces_are_possible(backwards):
    """Bonds of other atoms in a group of their own, at still shorter steps."""
    made, _ = simulation(
        cluster(), MTSIntegrator(0.004, [(1, 1), (0, 4), (2, 8)]), forces="mts", inner=4
    )
    result = run(made, 5, [])
    assert (result.evaluations, len(backwards)) == (21, 6)
