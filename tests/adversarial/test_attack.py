"""Attacks climb U within their limits, and their files are those of runs."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.units import kB

from forcedelta import ForceDeltaError, attack, load_model
from forcedelta.adversarial.plausibility import Plausibility
from forcedelta.evaluation import Evaluator
from forcedelta.models import from_calculators
from md_hooks import Trajectory

pytestmark = pytest.mark.usefixtures("here", "silent")


def acetylacetone() -> Atoms:
    """In its minimum, nearly."""
    return ase.io.read(Path(__file__).parents[2] / "examples" / "acetylacetone.xyz")


def paths_of(file: str) -> dict[int, list[int]]:
    """Frames of each path, in their order."""
    series = Trajectory(file).series
    found: dict[int, list[int]] = {}
    for index, path in enumerate(series["path"].astype(int).tolist()):
        found.setdefault(path, []).append(index)
    return found


@pytest.mark.parametrize("model", ["acac", "acac-direct"])
@pytest.mark.parametrize("optimizer", ["adam", "plain"])
def test_paths_climb_below_the_ceiling(model: str, optimizer: str) -> None:
    atoms = acetylacetone()
    weights = {"alpha": 0.01, "beta": 0.0} if optimizer == "plain" else {}
    result = attack(
        atoms, model, "a.h5", starts=3, steps=12, picks=0, optimizer=optimizer, **weights  # type: ignore[arg-type]
    )  # fmt: skip
    assert result.reason == "finished"
    trajectory = Trajectory("a.h5")
    series = trajectory.series
    [start] = Evaluator(load_model(model, torch.float32), torch.float32).batch([atoms])
    rise = series["potential_energy"] - start.energy
    assert rise.max() <= len(atoms) * kB * 1000.0 + 1e-9
    for path, frames in paths_of("a.h5").items():
        moves = series["move"][frames]
        np.testing.assert_array_equal(moves, np.arange(len(frames)))
        u = series["force_delta"][frames]
        assert u.max() > 1.3 * u[0]
        assert result.paths[path].highest == pytest.approx(u.max())
        assert result.paths[path].moves == moves[-1]


def test_frames_are_what_the_model_says(molecule: Atoms, wet: str) -> None:
    attack(molecule, wet, "a.h5", starts=2, steps=5, picks=0, dtype="float64")
    evaluator = Evaluator(load_model(wet, torch.float64), torch.float64)
    trajectory = Trajectory("a.h5")
    assert len(trajectory) == 12
    for index in range(len(trajectory)):
        frame = trajectory.frame(index)
        atoms = Atoms(frame.numbers, frame.positions)
        [found] = evaluator.batch([atoms])
        assert frame.force_delta == pytest.approx(found.force_delta, rel=1e-5)
        assert frame.energy == pytest.approx(found.energy, rel=1e-9)
        np.testing.assert_allclose(frame.conservative_forces, found.conservative_forces, atol=1e-4)
        np.testing.assert_allclose(frame.direct_forces, found.direct_forces, atol=1e-4)


def test_plain_step_is_equation_3(molecule: Atoms, wet: str) -> None:
    from forcedelta.force_delta_gradient import GradientEvaluator

    attack(
        molecule, wet, "a.h5", starts=1, steps=1, picks=0, optimizer="plain", alpha=1e-3, beta=2e-3,
        ceiling=1e3, dtype="float64",
    )  # fmt: skip
    first, second = (Trajectory("a.h5").frame(k) for k in (0, 1))
    evaluator = GradientEvaluator(load_model(wet, torch.float64), torch.float64)
    [found] = evaluator.gradient_batch([Atoms(first.numbers, first.positions)])
    step = 1e-3 * found.gradient + 2e-3 * found.evaluation.conservative_forces
    np.testing.assert_allclose(second.positions - first.positions, step, atol=2e-6)


def test_no_atom_moves_farther_than_the_cap(molecule: Atoms, wet: str) -> None:
    attack(
        molecule,
        wet,
        "a.h5",
        starts=2,
        steps=6,
        picks=0,
        optimizer="plain",
        alpha=1e3,
        cap=0.03,
        ceiling=1e4,
    )
    trajectory = Trajectory("a.h5")
    for frames in paths_of("a.h5").values():
        positions = np.array([trajectory.frame(k).positions for k in frames])
        moved = np.linalg.norm(np.diff(positions, axis=0), axis=2)
        assert moved.max() == pytest.approx(0.03, rel=1e-3)


def test_atoms_do_not_come_too_close_and_molecules_stay_whole(molecule: Atoms, wet: str) -> None:
    """A network with random weights knows no repulsion: only the limits hold."""
    result = attack(
        molecule,
        wet,
        "a.h5",
        starts=4,
        steps=60,
        picks=0,
        cap=0.1,
        rate=0.1,
        ceiling=1e5,
        closest=0.8,
    )
    limits = Plausibility(molecule, 0.8, dissociation=False)
    frames = ase.io.read("a.h5", ":")
    assert not any(limits.why_not(atoms) for atoms in frames)
    ended = [path.reason for path in result.paths]
    assert any("Å apart" in why or "dissociation" in why for why in ended), ended
    remarks = Trajectory("a.h5").remarks()
    assert sorted(remark.frame for remark in remarks) == [0, 1, 2, 3]
    for remark in remarks:
        assert remark.kind == "path ended"
        assert result.paths[remark.frame].reason in remark.text


def test_dissociation_is_allowed_on_request(molecule: Atoms, wet: str) -> None:
    same = {"starts": 4, "steps": 60, "picks": 0, "cap": 0.1, "rate": 0.1, "ceiling": 1e5}
    attack(molecule, wet, "a.h5", dissociation=True, **same)  # type: ignore[arg-type]
    limits = Plausibility(molecule, 0.7, dissociation=False)
    why = [limits.why_not(atoms) for atoms in ase.io.read("a.h5", ":")]
    assert any("dissociation" in each for each in why)


def test_energy_ceiling_in_electronvolts() -> None:
    """Paths slide along the ceiling, and do not cross it."""
    attack(acetylacetone(), "acac-direct", "a.h5", starts=3, steps=15, picks=0, ceiling=0.3)
    [start] = Evaluator(load_model("acac-direct", torch.float32), torch.float32).batch(
        [acetylacetone()]
    )
    rise = Trajectory("a.h5").series["potential_energy"] - start.energy
    assert 0.25 < rise.max() <= 0.3 + 1e-9


def test_starts_above_the_ceiling_end_there() -> None:
    result = attack(
        acetylacetone(), "acac-direct", "a.h5", starts=2, steps=4, ceiling=0.01, displacement=0.1
    )
    assert result.frames == 0
    assert {path.moves for path in result.paths} == {-1}
    assert all("at the displaced start" in path.reason for path in result.paths)
    assert "pass a smaller --displacement" in result.problem


def test_strain_moves_the_cell(crystal: Atoms, solid: str) -> None:
    attack(crystal, solid, "a.h5", starts=2, steps=8, picks=0, strain=True, ceiling=100.0)
    frames = ase.io.read("a.h5", ":")
    assert frames[-1].cell.volume != pytest.approx(crystal.cell.volume, rel=1e-4)
    frozen = attack(crystal, solid, "b.h5", starts=2, steps=8, picks=0, ceiling=100.0)
    assert frozen.frames == 18
    for atoms in ase.io.read("b.h5", ":"):
        np.testing.assert_allclose(atoms.cell.array, crystal.cell.array, atol=1e-5)


def test_torsions_keep_bonds_and_angles(wet: str) -> None:
    ethanol = ase.build.molecule("CH3CH2OH")
    attack(ethanol, wet, "a.h5", starts=2, steps=10, picks=0, torsions=["all"], ceiling=1e3)
    frames = ase.io.read("a.h5", ":")
    bonds = Bonds(ethanol)
    for atoms in frames:
        np.testing.assert_allclose(bonds.lengths(atoms), bonds.lengths(ethanol), atol=1e-3)
    changed = [atoms.get_dihedral(*bonds.torsion) for atoms in frames]
    assert np.ptp(np.unwrap(np.radians(changed))) > 0.01


class Bonds:
    """Bonds of a molecule, and its torsion about C-O."""

    def __init__(self, atoms: Atoms) -> None:
        from forcedelta.adversarial.plausibility import bonds_of

        self.pairs = bonds_of(atoms)
        symbols = atoms.get_chemical_symbols()
        oxygen = symbols.index("O")
        joined = [
            [int(x) for pair in self.pairs if k in pair for x in pair if x != k]
            for k in range(len(atoms))
        ]
        hydroxyl = next(k for k in joined[oxygen] if symbols[k] == "H")
        carbon = next(k for k in joined[oxygen] if symbols[k] == "C")
        other = next(k for k in joined[carbon] if symbols[k] == "C")
        self.torsion = (other, carbon, oxygen, hydroxyl)

    def lengths(self, atoms: Atoms) -> np.ndarray:
        """[B] Å."""
        return np.array([atoms.get_distance(i, j) for i, j in self.pairs])


def test_one_torsion_alone(wet: str) -> None:
    ethanol = ase.build.molecule("CH3CH2OH")
    torsion = Bonds(ethanol).torsion
    attack(
        ethanol,
        wet,
        "a.h5",
        starts=1,
        steps=6,
        picks=0,
        torsions=["-".join(map(str, torsion))],
        ceiling=1e3,
    )
    frames = ase.io.read("a.h5", ":")
    hydroxyl = torsion[3]
    others = [k for k in range(len(ethanol)) if k != hydroxyl]
    moved = np.linalg.norm(frames[-1].positions - ethanol.positions, axis=1)
    assert moved[others].max() < 1e-5
    assert moved[hydroxyl] > 1e-3


def test_fixed_atoms_stay(molecule: Atoms, wet: str) -> None:
    molecule.set_constraint(FixAtoms([0, 3]))
    attack(molecule, wet, "a.h5", starts=2, steps=6, picks=0, ceiling=1e3)
    for atoms in ase.io.read("a.h5", ":"):
        np.testing.assert_allclose(atoms.positions[[0, 3]], molecule.positions[[0, 3]], atol=1e-5)
        assert np.abs(atoms.positions[1] - molecule.positions[1]).max() > 1e-3


def test_seed_decides_the_starts(molecule: Atoms, wet: str) -> None:
    for name, seed in (("a.h5", 1), ("b.h5", 1), ("c.h5", 2)):
        attack(molecule, wet, name, starts=2, steps=3, picks=0, seed=seed)
    a, b, c = (Trajectory(name).series["force_delta"] for name in ("a.h5", "b.h5", "c.h5"))
    np.testing.assert_array_equal(a, b)
    assert not np.isclose(a[0], c[0])


def test_several_structures_in_one_file(molecule: Atoms, wet: str) -> None:
    water = ase.build.molecule("H2O")
    result = attack([molecule, water], wet, "a.h5", starts=2, steps=4, picks=0, ceiling=1e3)
    series = Trajectory("a.h5").series
    np.testing.assert_array_equal(np.unique(series["path"]), [0, 1, 2, 3])
    sizes = {int(p): int(n) for p, n in zip(series["path"], series["atoms"], strict=True)}
    assert sizes == {0: 7, 1: 7, 2: 3, 3: 3}
    assert [path.structure for path in result.paths] == [0, 0, 1, 1]
    frames = ase.io.read("a.h5", ":")
    assert {len(atoms) for atoms in frames} == {3, 7}


def test_two_calculators_can_be_attacked(here: Path) -> None:
    weak = LennardJones(sigma=2.2, epsilon=0.01, rc=5.0, smooth=True)
    model = from_calculators(EMT(), weak, elements=["Cu"])
    result = attack(
        bulk("Cu", cubic=True),
        model,
        "a.h5",
        starts=1,
        steps=3,
        picks=0,
        dtype="float64",
        ceiling=1.0,
    )
    assert result.method == "differences"
    u = Trajectory("a.h5").series["force_delta"]
    assert u[-1] > u[0]


def test_wrong_second_derivatives_are_noticed(
    molecule: Atoms, wet: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(wet, torch.float64)
    hidden = Hidden(model.module)
    from dataclasses import replace

    result = attack(
        molecule,
        replace(model, module=hidden),
        "a.h5",
        starts=1,
        steps=3,
        picks=0,
        dtype="float64",
        ceiling=1e3,
    )
    assert result.method == "differences"
    assert "second derivatives of model 'wet' are wrong" in caplog.text
    u = Trajectory("a.h5").series["force_delta"]
    assert u[-1] > u[0]


class Hidden(torch.nn.Module):
    """A model whose energy has first derivatives, and second ones that are silently 0."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.cutoff = model.cutoff

    def forward(
        self, positions: torch.Tensor, *rest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Energy and direct forces."""
        _, direct = self.model(positions, *rest)
        return _FirstOrder.apply(positions, self.model, rest), direct


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, positions, model, rest):  # type: ignore[no-untyped-def]
        with torch.enable_grad():
            leaf = positions.detach().requires_grad_(True)
            energy, _ = model(leaf, *rest)
            [ctx.slope] = torch.autograd.grad(energy.sum(), leaf)
        return energy.detach()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient[0] * ctx.slope, None, None


def test_picks_differ_and_carry_their_origin(molecule: Atoms, wet: str) -> None:
    pytest.importorskip("dscribe")
    result = attack(molecule, wet, "a.h5", starts=4, steps=8, picks=5, ceiling=1e3)
    assert result.picks == "a-picks.xyz"
    picks = ase.io.read("a-picks.xyz", ":")
    assert len(picks) == result.picked == 5
    series = Trajectory("a.h5").series
    assert picks[0].info["force_delta"] == pytest.approx(series["force_delta"].max(), rel=1e-5)
    assert [atoms.info["pick"] for atoms in picks] == [0, 1, 2, 3, 4]
    for atoms in picks:
        at = np.flatnonzero(
            (series["path"] == atoms.info["path"]) & (series["move"] == atoms.info["move"])
        )
        assert series["force_delta"][at[0]] == pytest.approx(atoms.info["force_delta"], rel=1e-5)
        assert atoms.info["source"] == "a.h5"
        assert atoms.calc is None or "forces" not in atoms.calc.results


def test_one_atom_has_nothing_to_attack(wet: str) -> None:
    with pytest.raises(ForceDeltaError, match="is one atom"):
        attack(Atoms("O"), wet, "a.h5")
    assert not Path("a.h5").exists()
