"""A model whose energy takes a forward pass of its own: omitted at steps that do not use it, never wrong."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openmm", reason="needs OpenMM")

import openmm
from openmm import app
from simulations import (
    CUTOFF,
    INTEGRATORS,
    MorsePairs,
    cluster,
    crystal,
    loaded,
    simulation,
    state_of,
    topology_of,
)
from torch import Tensor, nn

from forcedelta import ForceDeltaCalculator
from forcedelta.models.tuned import TunedEnergy
from forcedelta.openmm import ForceDeltaReporter, add_force_delta, run
from forcedelta.openmm.units import EV
from md_hooks import Action, DriftGuard, Recorder, RunStoppedError, Trajectory

STEPS, EVERY = 24, 6

FORCES_ALONE = {
    **INTEGRATORS,
    "Langevin": lambda: openmm.LangevinIntegrator(300, 5, 0.001),
    "VariableVerlet": lambda: openmm.VariableVerletIntegrator(1e-4),
    "VariableLangevin": lambda: openmm.VariableLangevinIntegrator(300, 5, 1e-4),
    "DPD": lambda: openmm.DPDIntegrator(300, 5, 1.0, 0.001),
}


class OtherEnergy(MorsePairs):
    """The pair model with an energy that is larger by a tenth."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        energy, direct = super().forward(*graph)
        return 1.1 * energy, direct


class Together(nn.Module):
    """Both networks in one pass: the same model, whose energy cannot be omitted."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.path = MorsePairs(), OtherEnergy()

    def forward(
        self, positions: Tensor, numbers: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        graph = (positions, numbers, cell, edge_index, edge_shift, batch)
        return self.path(*graph)[0], self.base(*graph)[1]


def separate() -> Any:
    return TunedEnergy(MorsePairs(), OtherEnergy(), CUTOFF)


def counted_from_now(model: Any) -> None:
    """Without the evaluation by which OpenMM sets velocities half a step back."""
    model.base.calls = model.path.calls = 0


def energy_at(structure: Any, positions: Any, cell: Any = None) -> float:
    """The energy of the model by ASE, eV, at positions (and a cell) in Å."""
    atoms = structure.copy()
    if cell is not None:
        atoms.cell = cell
    atoms.positions = positions
    atoms.calc = ForceDeltaCalculator(loaded(separate()), dtype="float64")
    return float(atoms.get_potential_energy())


def energy_of(made: app.Simulation) -> float:
    """What OpenMM says, eV."""
    return float(made.context.getState(energy=True).getPotentialEnergy()._value) / EV


def positions_of(made: app.Simulation) -> Any:
    return state_of(made)[0] * 10


class Reported:
    """A reporter that keeps energies (eV) and positions (Å)."""

    def __init__(self, every: int, periodic: bool = False) -> None:
        self.every, self.periodic = every, periodic
        self.found: list[tuple[float, Any]] = []

    def describeNextReport(self, made: Any) -> dict[str, Any]:  # noqa: N802
        steps = self.every - made.currentStep % self.every
        return {"steps": steps, "periodic": self.periodic, "include": ["energy", "positions"]}

    def report(self, made: Any, state: openmm.State) -> None:
        positions = state.getPositions(asNumpy=True)._value * 10
        self.found.append((state.getPotentialEnergy()._value / EV, positions.copy()))


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("integrator", FORCES_ALONE)
def test_the_copy_is_evaluated_where_u_is_due(integrator: str, platform: str, frames: Any) -> None:
    """A NaN that a step used would change the path."""
    ends, kept = [], []
    for model in (separate(), Together()):
        made, _ = simulation(
            cluster(), FORCES_ALONE[integrator](), model=loaded(model), every=EVERY, platform=platform,
        )  # fmt: skip
        frames.clear()
        counted_from_now(model)
        result = run(made, STEPS, [frames])
        kept.append(list(frames))
        ends.append(state_of(made))
        assert result.evaluations == model.base.calls == STEPS + 1
        exact = STEPS // EVERY + 1
        assert model.path.calls == (exact if isinstance(model, TunedEnergy) else STEPS + 1)
    assert all(np.array_equal(one, other) for one, other in zip(*ends, strict=True))
    for frame, other in zip(*kept, strict=True):
        assert np.array_equal(frame.positions, other.positions)
        assert np.array_equal(frame.forces, other.forces)
        assert frame.energy_known == (frame.step % EVERY == 0) == np.isfinite(frame.energy)
        assert frame.force_delta == other.force_delta
        if frame.energy_known:
            assert frame.energy == other.energy


@pytest.mark.parametrize("way", ["run", "reporter first", "reporter last"])
def test_reported_energies_are_right(way: str, frames: Any) -> None:
    model = separate()
    made, monitor = simulation(cluster(), model=loaded(model), every=EVERY)
    counted_from_now(model)
    table, reported = io.StringIO(), Reported(4)
    made.reporters += [app.StateDataReporter(table, 4, potentialEnergy=True), reported]
    if way == "run":
        result = run(made, STEPS, [frames])
    else:
        ours = ForceDeltaReporter(monitor, [frames])
        made.reporters.insert(0 if way == "reporter first" else 2, ours)
        with ours:
            made.step(STEPS)
        result = ours.result
    assert len(reported.found) == STEPS // 4
    printed = [float(line) / EV for line in table.getvalue().splitlines()[1:]]
    for (energy, positions), other in zip(reported.found, printed, strict=True):
        assert energy == pytest.approx(other, abs=1e-12)
        assert energy == pytest.approx(energy_at(cluster(), positions), abs=1e-10)
    wanted = {step for step in range(STEPS + 1) if step % 4 == 0 or step % EVERY == 0}
    assert model.base.calls == result.evaluations == STEPS + 1
    # the reporters' at step 0 is that with U
    assert model.path.calls == len(wanted)
    assert {frame.step for frame in frames if frame.energy_known} <= wanted


def test_a_second_kind_of_reporter_gets_its_energy(frames: Any) -> None:
    """OpenMM asks for the states of wrapped and unwrapped positions in turn; between them the frame is shown."""
    structure, model = crystal(), separate()
    made, monitor = simulation(structure, model=loaded(model), every=EVERY)
    reporters = [Reported(1, periodic=True), ForceDeltaReporter(monitor, [frames]), Reported(1)]
    counted_from_now(model)
    made.reporters += reporters
    with reporters[1]:
        made.step(8)
    for one, other in zip(reporters[0].found, reporters[2].found, strict=True):
        assert one[0] == other[0]
        assert one[0] == pytest.approx(energy_at(structure, other[1]), abs=1e-10)
    assert model.base.calls == model.path.calls == 9


def test_an_energy_that_a_hook_asks_for_costs_the_copy_alone(frames: Any) -> None:
    model = separate()
    made, _ = simulation(cluster(), "Verlet", model=loaded(model), every=EVERY)
    counted_from_now(model)
    asked = []

    def ask(frame: Any) -> None:
        if frame.step % 4 == 1:
            known = energy_of(made)
            assert energy_of(made) == known
            asked.append((frame, known))

    run(made, STEPS, [ask, frames])
    assert len(asked) == 6
    for frame, energy in asked:
        assert not frame.energy_known
        assert energy == pytest.approx(energy_at(cluster(), frame.positions), abs=1e-10)
    assert model.base.calls == STEPS + 1
    assert model.path.calls == STEPS // EVERY + 1 + len(asked)


class AsksBefore(Reported):
    """A reporter that asks for the energy before a step, which OpenMM does not foresee."""

    def describeNextReport(self, made: Any) -> dict[str, Any]:  # noqa: N802
        self.found.append((energy_of(made), positions_of(made)))
        return super().describeNextReport(made)


def test_a_reporter_may_ask_before_a_step(frames: Any) -> None:
    made, _ = simulation(cluster(), model=loaded(separate()), every=EVERY)
    reporter = AsksBefore(1)
    made.reporters.append(reporter)
    run(made, 8, [frames])
    assert len(reporter.found) == 16
    for energy, positions in reporter.found:
        assert energy == pytest.approx(energy_at(cluster(), positions), abs=1e-10)


def test_atoms_that_do_not_move_have_their_energy_reported() -> None:
    model = separate()
    made, _ = simulation(cluster(), "Verlet", model=loaded(model), every=EVERY)
    for particle in range(made.system.getNumParticles()):
        made.system.setParticleMass(particle, 0.0)
    made.context.reinitialize(preserveState=True)
    reporter = Reported(1)
    made.reporters.append(reporter)
    run(made, 8, [])
    for energy, positions in reporter.found:
        assert energy == pytest.approx(energy_at(cluster(), positions), abs=1e-10)
    assert len(reporter.found) == 8


def test_energies_are_right_after_a_step_that_another_reporter_refused(frames: Any) -> None:
    made, monitor = simulation(cluster(), model=loaded(separate()), every=EVERY)

    class Refuses(Reported):
        def describeNextReport(self, made: Any) -> dict[str, Any]:  # noqa: N802
            if made.currentStep == 3:
                raise RuntimeError("enough")
            return super().describeNextReport(made)

    ours = ForceDeltaReporter(monitor, [frames])
    made.reporters += [ours, Refuses(1)]
    with pytest.raises(RuntimeError, match="enough"):
        made.step(8)
    assert made.currentStep == 3
    assert ours.result is None
    assert energy_of(made) == pytest.approx(energy_at(cluster(), positions_of(made)), abs=1e-10)
    ours.close()


def test_the_energy_after_a_stop_is_that_of_finite_differences() -> None:
    def stop(frame: Any) -> Any:
        return Action.STOP if frame.step == 9 else None

    made, monitor = simulation(cluster(), model=loaded(separate()), every=EVERY)
    ours = ForceDeltaReporter(monitor, [stop])
    made.reporters.append(ours)
    with pytest.raises(RunStoppedError):
        made.step(STEPS)
    assert made.currentStep == 9
    middle = positions_of(made)
    assert energy_of(made) == pytest.approx(energy_at(cluster(), middle), abs=1e-10)
    force, h = monitor.measure(made.context).conservative_forces[2, 1], 1e-4
    energies = []
    for sign in (1, -1):
        moved = middle.copy()
        moved[2, 1] += sign * h
        made.context.setPositions(moved / 10)
        energies.append(energy_of(made))
    assert force == pytest.approx((energies[1] - energies[0]) / (2 * h), abs=1e-6)


def test_a_measurement_that_a_user_asks_for_has_the_energy() -> None:
    made, monitor = simulation(cluster(), model=loaded(separate()), every=EVERY)
    run(made, 4, [])
    found = monitor.measure(made.context, full=False)
    assert found.energy_known
    assert found.energy == pytest.approx(energy_at(cluster(), positions_of(made)), abs=1e-10)


@pytest.mark.parametrize("later", [False, True], ids=["from the start", "added later"])
def test_a_barostat_gets_every_energy(later: bool, frames: Any) -> None:
    ends = []
    for model in (separate(), Together()):
        structure = crystal()
        made, monitor = simulation(
            structure, model=loaded(model), every=EVERY, barostat=not later, periodic=True
        )
        ours = ForceDeltaReporter(monitor, [frames])
        made.reporters.append(ours)
        with ours:
            if later:
                made.step(7)
                pressure = openmm.MonteCarloBarostat(1.0, 300, 5)
                pressure.setRandomNumberSeed(3)
                made.system.addForce(pressure)
                made.context.reinitialize(preserveState=True)
            made.step(40)
        positions, _, box = ends_here = state_of(made)
        ends.append(ends_here)
        expected = energy_at(structure, positions * 10, box * 10)
        assert energy_of(made) == pytest.approx(expected, abs=1e-10)
    assert not np.array_equal(ends[0][2] * 10, crystal().cell.array)
    assert all(np.array_equal(one, other) for one, other in zip(*ends, strict=True))


def test_frames_beside_a_barostat_have_every_energy(frames: Any) -> None:
    made, _ = simulation(crystal(), model=loaded(separate()), every=EVERY, barostat=True)
    run(made, STEPS, [frames])
    assert all(frame.energy_known and np.isfinite(frame.energy) for frame in frames)


def verlet_with(*extra: tuple[str, str]) -> openmm.CustomIntegrator:
    """Velocity Verlet, which ends a step with forces, and further global variables."""
    integrator = openmm.CustomIntegrator(0.001)
    for name, expression in extra:
        integrator.addGlobalVariable(name, 0)
        integrator.addComputeGlobal(name, expression)
    integrator.addUpdateContextState()
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    integrator.addComputePerDof("x", "x+dt*v")
    integrator.addComputePerDof("v", "v+0.5*dt*f/m")
    return integrator


def test_a_custom_integrator_without_the_energy_omits_it(frames: Any) -> None:
    model = separate()
    made, _ = simulation(cluster(), verlet_with(), model=loaded(model), every=EVERY)
    run(made, STEPS, [frames])
    assert (model.base.calls, model.path.calls) == (STEPS + 1, STEPS // EVERY + 1)
    assert sum(frame.energy_known for frame in frames) == STEPS // EVERY + 1


def test_an_integrator_that_uses_the_energy_gets_it(frames: Any) -> None:
    model = separate()
    integrator = verlet_with(("potential", "energy"))
    made, _ = simulation(cluster(), integrator, model=loaded(model), every=EVERY)
    run(made, STEPS - 1, [frames])
    before = energy_at(cluster(), positions_of(made))
    made.step(1)
    assert integrator.getGlobalVariableByName("potential") / EV == pytest.approx(before, abs=1e-10)
    assert all(frame.energy_known for frame in frames)


def test_a_bias_on_the_energy_gets_it(frames: Any) -> None:
    """A CustomCVForce reads the energy of the forces inside it, as openmm-ml's interpolation does."""
    structure, ends = cluster(), []
    for model in (separate(), Together()):
        inside, system = openmm.System(), openmm.System()
        monitor = add_force_delta(
            inside, loaded(model), structure.numbers, dtype="float64", every=EVERY, periodic=False
        )
        for mass in structure.get_masses():
            system.addParticle(mass)
        monitor._rebuild = (separate, ())  # OpenMM copies the force; in this process it is found
        variable = openmm.PythonForce(monitor)
        variable.setName(monitor.force_name)
        bias = openmm.CustomCVForce("0.5*model+0.0001*model^2")
        bias.addCollectiveVariable("model", variable)
        system.addForce(bias)
        platform = openmm.Platform.getPlatformByName("Reference")
        made = app.Simulation(
            topology_of(structure), system, openmm.VerletIntegrator(0.001), platform
        )
        made.context.setPositions(structure.positions / 10)
        frames.clear()
        run(made, 8, [frames])
        assert all(frame.energy_known for frame in frames)
        ends.append(state_of(made))
    assert not np.array_equal(ends[0][0] * 10, structure.positions)
    assert all(np.array_equal(one, other) for one, other in zip(*ends, strict=True))


def test_adaptive_monitoring_has_every_energy(frames: Any) -> None:
    model = separate()
    made, _ = simulation(cluster(), model=loaded(model), every="adaptive")
    run(made, STEPS, [frames])
    assert model.path.calls == model.base.calls
    assert all(frame.energy_known for frame in frames)


def test_a_minimisation_between_steps(frames: Any) -> None:
    ends = []
    for model in (separate(), Together()):
        made, monitor = simulation(cluster(), "Verlet", model=loaded(model), every=EVERY)
        ours = ForceDeltaReporter(monitor, [frames])
        made.reporters.append(ours)
        with ours:
            made.step(4)
            before = energy_of(made)
            made.minimizeEnergy(maxIterations=20)
            after = energy_of(made)
            assert after < before
            assert after == pytest.approx(energy_at(cluster(), positions_of(made)), abs=1e-10)
            made.step(4)
        ends.append(state_of(made))
    assert all(np.array_equal(one, other) for one, other in zip(*ends, strict=True))


def test_a_restart_equals_no_restart(here: Any) -> None:
    def made_anew() -> Any:
        return simulation(cluster(), "Verlet", model=loaded(separate()), every=EVERY)

    whole, _ = made_anew()
    run(whole, STEPS, [Recorder("whole.h5", every=1)])
    first, _ = made_anew()
    run(first, 10, [Recorder("parts.h5", every=1)])
    second, _ = made_anew()
    run(second, STEPS - 10, [Recorder("parts.h5", every=1, mode="append")], restart="parts.h5")
    for one, other in zip(state_of(whole), state_of(second), strict=True):
        assert np.array_equal(one, other)
    series = [Trajectory(name).series for name in ("whole.h5", "parts.h5")]
    for name in ("potential_energy", "force_delta", "conserved_energy"):
        assert np.array_equal(series[0][name], series[1][name], equal_nan=True)
    known = np.isfinite(series[0]["potential_energy"])
    assert known.tolist() == [step % EVERY == 0 for step in range(STEPS + 1)]


def test_legs_go_on_at_a_step_without_energy(here: Any) -> None:
    """The drift of the conserved energy is that of both legs."""
    made, _ = simulation(cluster(), "Verlet", model=loaded(separate()), every=2)
    guard = DriftGuard(stop_above=1e6, window=20.0)
    hooks = [Recorder("run.h5"), guard]
    run(made, 9, hooks)
    run(made, 60, hooks)
    legs = Trajectory("run.h5").legs
    assert [leg.seamless for leg in legs] == [False, True]
    assert guard.drift is not None


def test_a_call_from_elsewhere_gets_the_energy() -> None:
    """A force that OpenMM evaluates in a thread of its own, as on a GPU, has no step of an integrator above it."""
    made, monitor = simulation(cluster(), "Verlet", model=loaded(separate()), every=EVERY)
    run(made, 4, [])
    monitor.stepping(True, forces_alone=True)
    state = made.context.getState(positions=True)
    energy, _ = monitor(state)
    assert energy / EV == pytest.approx(energy_at(cluster(), positions_of(made)), abs=1e-10)


def test_two_regions_have_their_energies(frames: Any) -> None:
    structure, halves = cluster(), [range(4), range(4, 8)]
    model = separate()
    made, first = simulation(structure, "Verlet", model=loaded(model), every=EVERY, atoms=halves[0])
    second = add_force_delta(
        made.system, loaded(separate()), structure.numbers, halves[1], dtype="float64", every=4, periodic=False
    )  # fmt: skip
    made.context.reinitialize(preserveState=True)
    counted_from_now(model)
    run(made, STEPS, {first: [frames], second: []})
    assert (model.base.calls, model.path.calls) == (STEPS + 1, STEPS // EVERY + 1)
    made.step(1)
    there = positions_of(made)
    parts = [energy_at(structure[list(half)], there[list(half)]) for half in halves]
    assert energy_of(made) == pytest.approx(sum(parts), abs=1e-10)


def test_platforms_that_the_monitor_asks_through_openmm_have_every_energy(
    monkeypatch: pytest.MonkeyPatch, frames: Any
) -> None:
    monkeypatch.setattr("forcedelta.openmm.monitor._PLAIN_PLATFORMS", ())
    ends = []
    for model in (separate(), Together()):
        made, _ = simulation(cluster(), model=loaded(model), every=EVERY)
        frames.clear()
        run(made, STEPS, [frames])
        assert all(np.isfinite(frame.energy) and frame.energy_known for frame in frames)
        ends.append(state_of(made))
    assert all(np.array_equal(one, other) for one, other in zip(*ends, strict=True))


def test_multiple_time_steps_with_an_integrator_that_uses_the_energy(frames: Any) -> None:
    def integrator(energy: bool) -> openmm.CustomIntegrator:
        plain = openmm.MTSIntegrator(0.004, [(1, 1), (0, 4)])
        if energy:
            plain.addGlobalVariable("potential", 0)
            plain.addComputeGlobal("potential", "energy0")
        return plain

    for energy in (False, True):
        model = separate()
        made, _ = simulation(
            cluster(), integrator(energy), model=loaded(model), forces="mts", inner=4
        )
        frames.clear()
        run(made, 6, [frames])
        assert model.base.calls == 25
        assert model.path.calls == (25 if energy else 7)
    found = made.integrator.getGlobalVariableByName("potential") / EV
    assert found == pytest.approx(energy_at(cluster(), positions_of(made)), abs=1e-10)
