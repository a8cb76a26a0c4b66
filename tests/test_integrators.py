"""Multiple time steps in ASE: counters, reversibility, order, restarts, averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.constraints import FixAtoms, FixBondLengths, FixCom, Hookean
from ase.md import langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray
from systems import Counting, Springs, acetaldehyde, calculator, small_crystal, small_network

from forcedelta import ForceDelta, ForceDeltaCalculator, ForceDeltaError
from forcedelta.ase import PropertyUnavailableError
from forcedelta.free_rotation import FixRotation
from forcedelta.integrators import Langevin, MTSBussi, MTSLangevin, MTSVelocityVerlet
from md_hooks.ase_state import capture, restore
from md_hooks.h5md.checkpoint import Checkpoint, decode, encode

M = 4
FS = units.fs
SLOW = {"force_delta", "force_deltas", "conservative_forces"}


def network() -> Any:
    """Random weights, with conservative forces of about 2 eV/Å and direct ones that are others."""
    made = small_network(torch.float64)
    made.energy_scale.fill_(10.0)
    return made


def moving(atoms: Atoms | None = None, **options: Any) -> Atoms:
    """A structure with momenta and a calculator in float64, for multiple time steps by default."""
    atoms = acetaldehyde() if atoms is None else atoms
    given = {"forces": "mts", "inner": M, "dtype": "float64"} | options
    atoms.calc = ForceDeltaCalculator(ForceDelta(network()), **given)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * 0.3)
    return atoms


def integrator(name: str, atoms: Atoms, dt: float = 0.5) -> Any:
    rng = np.random.default_rng(1)
    if name == "nve":
        return MTSVelocityVerlet(atoms, dt * FS)
    if name == "bussi":
        return MTSBussi(atoms, dt * FS, 300, 20 * FS, rng=rng)
    return MTSLangevin(atoms, dt * FS, temperature_K=300, friction=0.05 / FS, fixcm=False, rng=rng)


# --- evaluations --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nve", "langevin", "bussi"])
def test_one_exact_evaluation_and_m_minus_1_direct_ones_for_m_steps(name: str) -> None:
    model = Counting(network())
    atoms = moving()
    atoms.calc = ForceDeltaCalculator(ForceDelta(model), forces="mts", inner=M, dtype="float64")
    dynamics = integrator(name, atoms)
    exact = []

    def observe() -> None:
        results = atoms.calc.results
        assert (results.keys() >= SLOW) == (dynamics.nsteps % M == 0)
        np.testing.assert_array_equal(results["forces"], results["direct_forces"])
        if "force_delta" in results:
            exact.append(dynamics.nsteps)

    dynamics.attach(observe, 1)
    dynamics.run(4 * M)
    assert exact == [0, M, 2 * M, 3 * M, 4 * M]
    assert (model.forwards, model.backwards) == (4 * M + 1, 5)


def test_outer_steps_have_a_stress_and_inner_ones_refuse_it() -> None:
    atoms = moving(small_crystal())
    dynamics = integrator("nve", atoms)
    dynamics.run(M)
    assert atoms.get_stress().shape == (6,)
    dynamics.run(1)
    with pytest.raises(PropertyUnavailableError, match=r"stress was not computed .*inner=4"):
        atoms.get_stress()


@pytest.mark.parametrize("again", [False, True])
def test_an_evaluation_elsewhere_does_not_spoil_the_next_outer_step(again: bool) -> None:
    """An observer that displaces the atoms and puts them back makes an evaluation of its own."""
    plain, watched = moving(), moving()
    integrator("nve", plain).run(3 * M)
    dynamics = integrator("nve", watched)

    def look() -> None:
        places = watched.positions.copy()
        watched.positions += 0.01
        watched.get_potential_energy()
        watched.positions[:] = places
        if again:
            watched.get_potential_energy()

    dynamics.attach(look, M)
    dynamics.run(3 * M)
    np.testing.assert_allclose(watched.positions, plain.positions, rtol=0, atol=1e-12)


# --- the integrator -----------------------------------------------------------------------------


def test_time_reversible() -> None:
    atoms = moving()
    start, momenta = atoms.positions.copy(), atoms.get_momenta()
    dynamics = integrator("nve", atoms)
    dynamics.run(10 * M)
    assert np.abs(atoms.positions - start).max() > 0.1
    atoms.set_momenta(-atoms.get_momenta())
    dynamics.run(10 * M)
    np.testing.assert_allclose(atoms.positions, start, rtol=0, atol=1e-9)
    np.testing.assert_allclose(atoms.get_momenta(), -momenta, rtol=0, atol=1e-9)


def test_second_order_in_the_outer_step() -> None:
    """Of the dynamics of the conservative forces, though direct forces move the atoms."""
    time = 8.0
    exact = moving(forces="conservative", inner=1)
    VelocityVerlet(exact, time / 640 * FS).run(640)

    def error(dt: float) -> float:
        atoms = moving()
        integrator("nve", atoms, dt).run(round(time / dt))
        return float(np.linalg.norm(atoms.positions - exact.positions))

    assert error(0.5) / error(0.25) == pytest.approx(4, rel=0.1)
    direct = moving(forces="direct", inner=1)
    VelocityVerlet(direct, 0.25 * FS).run(32)
    assert np.linalg.norm(direct.positions - exact.positions) > 100 * error(0.25)


def test_energy_of_acetylacetone() -> None:
    """With a trained model: 4 steps of 0.5 fs conserve the energy, direct forces do not."""
    spread = {}
    for forces, inner in (("direct", 1), ("mts", M)):
        atoms = ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")
        thermalize_momenta(atoms, 300, rng=np.random.default_rng(0))
        atoms.calc = ForceDeltaCalculator("acac", forces, inner=inner)
        made = MTSVelocityVerlet if forces == "mts" else VelocityVerlet
        dynamics, energies = made(atoms, 0.5 * FS), []
        dynamics.attach(lambda atoms=atoms, seen=energies: seen.append(atoms.get_total_energy()), M)
        dynamics.run(75 * M)
        energies = np.array(energies)
        # mean of the last third minus that of the first, per atom
        spread[forces] = abs(energies[50:].mean() - energies[:25].mean()) / len(atoms)
    assert spread["direct"] > 1e-3
    assert spread["mts"] < spread["direct"] / 20


def test_atoms_and_centre_of_mass_that_are_held() -> None:
    atoms = acetaldehyde()
    atoms.set_constraint([FixAtoms([0, 3])])
    moving(atoms)
    start = atoms.positions.copy()
    integrator("langevin", atoms).run(3 * M)
    np.testing.assert_array_equal(atoms.positions[[0, 3]], start[[0, 3]])
    assert (np.abs(atoms.positions - start).max(axis=1) > 0).sum() == 5

    atoms = acetaldehyde()
    atoms.set_constraint(FixCom())
    moving(atoms)
    centre = atoms.get_center_of_mass()
    assert np.abs(atoms.get_forces(apply_constraint=False).sum(axis=0)).max() > 0.1
    integrator("langevin", atoms).run(3 * M)
    np.testing.assert_allclose(atoms.get_center_of_mass(), centre, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-12)


def test_rotation_that_is_held() -> None:
    atoms = acetaldehyde()
    atoms.set_constraint([FixCom(), FixRotation(atoms)])
    moving(atoms)
    integrator("bussi", atoms).run(3 * M)
    np.testing.assert_allclose(atoms.get_angular_momentum(), 0, atol=1e-9)


@pytest.mark.parametrize(
    "constraint", [FixBondLengths([[0, 1]]), Hookean(0, 1, rt=1.5, k=5.0)], ids=["bond", "spring"]
)
def test_other_constraints_are_refused_by_name(constraint: Any) -> None:
    atoms = moving()
    atoms.set_constraint(constraint)
    with pytest.raises(ForceDeltaError, match=f"constraint {type(constraint).__name__}: remove it"):
        integrator("nve", atoms)


# --- thermostats --------------------------------------------------------------------------------


def wells(forces: str, inner: int) -> Atoms:
    """Atoms on springs of 1 eV/Å^2 to their centre, of which direct forces miss a fifth."""
    atoms = Atoms("Si30", np.random.default_rng(0).normal(size=(30, 3), scale=0.16))
    atoms.positions -= atoms.positions.mean(axis=0)
    atoms.set_constraint(FixCom())
    atoms.calc = ForceDeltaCalculator(
        ForceDelta(Springs(0.8)),
        forces,
        inner=inner,
        dtype="float64",  # type: ignore[arg-type]
    )
    thermalize_momenta(atoms, 300, rng=np.random.default_rng(1))
    return atoms


def temperatures(atoms: Atoms, dynamics: Any, every: int) -> NDArray[np.float64]:
    """Kinetic temperature, and that of the positions, <k r^2> / k_B, in K."""
    seen = []

    def observe() -> None:
        if dynamics.nsteps >= 300:
            of_positions = float((atoms.positions**2).sum()) / (3 * len(atoms) - 3) / units.kB
            seen.append((atoms.get_temperature(), of_positions))

    dynamics.attach(observe, every)
    dynamics.run(4000)
    return np.mean(seen, axis=0)


@pytest.mark.parametrize("name", ["langevin", "bussi"])
def test_canonical_averages_of_the_conservative_forces(name: str) -> None:
    atoms = wells("mts", M)
    dynamics = integrator(name, atoms, 3.0)
    kinetic, potential = temperatures(atoms, dynamics, M)
    assert kinetic == pytest.approx(300, rel=0.05)
    assert potential == pytest.approx(300, rel=0.05)


def test_averages_of_direct_forces_alone_are_others() -> None:
    atoms = wells("direct", 1)
    rng = np.random.default_rng(1)
    dynamics = Langevin(
        atoms, 3.0 * FS, temperature_K=300, friction=0.05 / FS, fixcm=False, rng=rng
    )
    assert temperatures(atoms, dynamics, M)[1] == pytest.approx(300 / 0.8, rel=0.05)


@pytest.mark.parametrize("name", ["langevin", "bussi"])
def test_total_energy_minus_heat_is_conserved(name: str) -> None:
    """The thermostat changes the energy far more than the integrator's error."""
    atoms = moving()
    dynamics = integrator(name, atoms, 0.25)
    found = []
    dynamics.attach(
        lambda: found.append((atoms.get_total_energy(), dynamics.get_conserved_energy())), 1
    )
    dynamics.run(25 * M)
    total, conserved = np.array(found)[::M].T
    assert np.isnan(np.array(found)[1::M, 1]).all()
    assert np.ptp(total) > 20 * np.ptp(conserved)


def test_langevin_is_that_of_ase_and_counts_its_heat() -> None:
    ours, theirs = moving(forces="conservative", inner=1), moving(forces="conservative", inner=1)
    given: dict[str, Any] = {"temperature_K": 900, "friction": 0.05 / FS, "fixcm": False}
    a = Langevin(ours, 0.25 * FS, rng=np.random.default_rng(1), **given)
    b = langevin.Langevin(theirs, 0.25 * FS, rng=np.random.default_rng(1), **given)
    start = ours.get_total_energy()
    a.run(100)
    b.run(100)
    np.testing.assert_array_equal(ours.positions, theirs.positions)
    np.testing.assert_array_equal(ours.get_momenta(), theirs.get_momenta())
    gained = ours.get_total_energy() - start
    assert abs(a.transferred_energy) > 0.05
    assert gained == pytest.approx(a.transferred_energy, abs=0.02 * abs(gained))


# --- restarts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nve", "langevin", "bussi"])
@pytest.mark.parametrize("step", [2 * M, 2 * M + 3], ids=["outer", "inner"])
def test_restart_equals_no_restart(name: str, step: int) -> None:
    straight = moving()
    uninterrupted = integrator(name, straight)
    uninterrupted.run(step)
    state = capture(uninterrupted)
    uninterrupted.run(5 * M)

    stored = Checkpoint(step, 0.5 * step, straight.positions, None, straight.cell.array, state, {})
    found = decode(encode(stored, 1).tobytes())
    assert found is not None
    continued = moving()
    dynamics = integrator(name, continued)
    restore(dynamics, found[1])
    assert dynamics.nsteps == step
    dynamics.run(5 * M)
    np.testing.assert_array_equal(continued.positions, straight.positions)
    np.testing.assert_array_equal(continued.get_momenta(), straight.get_momenta())
    for each in ("transferred_energy", "nsteps"):
        assert getattr(dynamics, each, None) == getattr(uninterrupted, each, None)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner": 1}, "forces='mts' needs inner of 2 or more, and inner is 1"),
        ({"inner": 0}, "inner must be a whole number of 2 or more, not 0"),
        ({"inner": 2.0}, "inner must be a whole number of 2 or more, not 2.0"),
        ({"inner": True}, "inner must be a whole number of 2 or more, not True"),
        ({"forces": "direct"}, "inner=4 needs forces='mts', and forces is 'direct'"),
        ({"forces": "conservative"}, "inner=4 needs forces='mts', and forces is 'conservative'"),
        ({"every": 2}, "every=2 has no meaning with forces='mts'"),
    ],
)
def test_settings_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ForceDeltaError, match=message) as caught:
        calculator(**{"forces": "mts", "inner": M} | options)
    assert "\n" not in str(caught.value)


def test_other_calculators_and_fixcm_are_refused() -> None:
    atoms = moving(forces="direct", inner=1)
    with pytest.raises(
        ForceDeltaError, match="MTSVelocityVerlet needs atoms with a ForceDeltaCalc"
    ):
        integrator("nve", atoms)
    with pytest.raises(ForceDeltaError, match="not with no calculator"):
        MTSVelocityVerlet(acetaldehyde(), FS)
    with (
        pytest.warns(FutureWarning, match="fixcm"),
        pytest.raises(ForceDeltaError, match="pass fixcm=False"),
    ):
        MTSLangevin(moving(), FS, temperature_K=300, friction=0.01 / FS)


class Severed(Springs):
    """Its energy does not depend on the positions as far as autograd knows."""

    def forward(self, *graph: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, direct = super().forward(*graph)
        return energy.detach(), direct


def test_a_model_without_gradient_is_refused_at_step_0() -> None:
    atoms = moving()
    atoms.calc = ForceDeltaCalculator(ForceDelta(Severed(0.8)), forces="mts", inner=M)
    with pytest.raises(ForceDeltaError, match="energy") as caught:
        MTSVelocityVerlet(atoms, FS).run(1)
    assert "\n" not in str(caught.value)
