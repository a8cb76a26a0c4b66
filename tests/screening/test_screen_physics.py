"""What the numbers of a screen are, and what they do not depend on."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from forcedelta import Evaluator, load_model, screen
from forcedelta.screening.displaced import FEWEST_ATOMS, displaced, enlarged


def rows_of(result):
    """The rows by file and frame, without verdict and reason."""
    return {(row.file, row.frame): row for row in result.rows}


def numbers(row):
    return [row.force_delta, row.force_delta_as_given, row.worst_force_delta, row.energy]


def test_silicon_in_its_lattice_has_no_u_and_displaced_silicon_has(here, files):
    result = screen(files / "crystals.xyz", "mlearn", dtype="float64")
    ideal = [row for row in result.rows if row.symmetric]
    assert sorted(row.frame for row in ideal) == [0, 1, 2, 3]
    assert all(row.force_delta_as_given < 1e-9 for row in ideal)
    assert all(row.largest_force < 1e-9 for row in ideal)
    by_frame = {row.frame: row for row in result.rows}
    # the model was trained on silicon and on germanium, never on both together
    assert 0.003 < by_frame[1].force_delta < 0.02
    assert by_frame[3].force_delta > 5 * by_frame[1].force_delta
    # what is shaken by five times as much ranks above its ideal lattice
    assert by_frame[4].force_delta > by_frame[1].force_delta


def test_u_is_the_root_mean_square_over_the_copies(here, solid):
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=2)
    atoms.write("one.xyz")
    result = screen("one.xyz", solid, dtype="float64", rattles=2, seed=5)
    [row] = result.rows
    from forcedelta.screening.sources import structures_of

    [structure] = structures_of("one.xyz")
    copies = displaced(structure.atoms, 0.02, 2, 5, structure.geometry)
    evaluator = Evaluator(load_model(solid, torch.float64), torch.float64)
    found = [evaluator.batch([copy])[0] for copy in copies]
    differences = np.stack([one.direct_forces - one.conservative_forces for one in found])
    assert row.force_delta == pytest.approx(np.sqrt((differences**2).mean()))
    per_atom = np.sqrt((differences**2).mean(axis=(0, 2)))
    assert row.worst_atom == per_atom.argmax()
    assert row.worst_force_delta == pytest.approx(per_atom.max())
    [given] = evaluator.batch([structure.atoms])
    assert row.force_delta_as_given == pytest.approx(given.force_delta)
    assert row.energy == pytest.approx(given.energy)
    assert row.largest_force == pytest.approx(np.linalg.norm(given.direct_forces, axis=1).max())
    assert (row.atoms, row.formula, row.symmetric) == (16, "Si16", False)


def test_displacements_have_the_size_asked_for():
    atoms = bulk("Si", cubic=True) * 3
    copies = displaced(atoms, 0.03, 5, 0, "abc")
    moved = np.array([copy.positions - atoms.positions for copy in copies])
    assert moved.std() == pytest.approx(0.03, rel=0.05)
    assert abs(moved.mean()) < 0.003


def test_a_cell_of_one_atom_is_repeated(here, solid):
    """Moving its only atom moves all images too, so that U would stay 0."""
    lone = bulk("Si", "fcc", a=3.9)
    lone.write("lone.xyz")
    (lone * 2).write("eight.xyz")
    found = rows_of(screen(["lone.xyz", "eight.xyz"], solid, rattles=20))
    one, eight = found["lone.xyz", 0], found["eight.xyz", 0]
    assert (one.atoms, one.worst_atom, one.symmetric) == (1, 0, True)
    assert one.force_delta_as_given < 1e-5
    assert one.force_delta == pytest.approx(eight.force_delta, rel=0.3)


def test_repeated_cells():
    grown = enlarged(bulk("Si"))
    assert len(grown) == FEWEST_ATOMS
    assert np.allclose(grown.cell.lengths(), 2 * bulk("Si").cell.lengths())
    slab = bulk("Si")
    slab.pbc = [True, False, True]
    lengths = enlarged(slab).cell.lengths()
    assert lengths[1] == slab.cell.lengths()[1]
    assert enlarged(molecule("H2O")).get_chemical_formula() == "H2O"
    large = bulk("Si", cubic=True) * 2
    assert enlarged(large) is large
    charged = bulk("Si")
    charged.info["charge"] = 1
    assert enlarged(charged) is charged


def test_rows_depend_neither_on_order_nor_on_company(here, files, solid):
    frames = ase.io.read(files / "crystals.xyz", ":")
    for k, atoms in enumerate(frames):
        atoms.write(f"{k}.xyz")
    whole = rows_of(screen(files / "crystals.xyz", solid, "whole.csv"))
    split = rows_of(screen([f"{k}.xyz" for k in (5, 3, 0, 4, 1, 2)], solid, "split.csv"))
    [alone] = screen("4.xyz", solid, "alone.csv").rows
    for k in range(6):
        one, other = whole[str(files / "crystals.xyz"), k], split[f"{k}.xyz", 0]
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-4, abs=1e-5)
    assert numbers(alone) == pytest.approx(numbers(split["4.xyz", 0]), rel=1e-4)


def test_the_seed_changes_displaced_copies_only(here, files, solid):
    first = rows_of(screen(files / "crystals.xyz", solid, "a.csv"))
    again = rows_of(screen(files / "crystals.xyz", solid, "b.csv"))
    other = rows_of(screen(files / "crystals.xyz", solid, "c.csv", seed=1))
    assert first == again
    for place, row in first.items():
        assert row.force_delta != other[place].force_delta
        assert row.force_delta_as_given == other[place].force_delta_as_given


def test_without_displacements_u_is_that_of_the_structure(here, files, solid):
    result = screen(files / "crystals.xyz", solid, rattle=0, stop_above=1e6)
    assert all(row.force_delta == row.force_delta_as_given for row in result.rows)
    for row in result.rows:
        assert row.verdict == ("not evaluated" if row.symmetric else "trust")
        assert ("symmetry" in row.reason) == row.symmetric
    assert [row.symmetric for row in result.rows] == [False] * 2 + [True] * 4
    assert "displace their atoms with --rattle" in result.line


def test_molecules(here, files):
    result = screen(files / "water.xyz", files / "wet.safetensors")
    [row] = result.rows
    assert (row.formula, row.atoms, row.symmetric) == ("H2O", 3, False)
    assert row.force_delta > 0


def test_atoms_without_neighbours_have_no_u(here, files, solid):
    Atoms("H").write("atom.xyz")
    Atoms("O2", [[0, 0, 0], [0, 0, 30]]).write("far.xyz")
    Atoms("Si", cell=[20, 20, 20], pbc=True).write("box.xyz")
    for names, model in (
        (["atom.xyz", "far.xyz"], files / "wet.safetensors"),
        (["box.xyz"], solid),
    ):
        result = screen([files / "water.xyz", *names], model, f"{model.stem}.csv", stop_above=1e6)
        for row in [row for row in result.rows if row.file in names]:
            assert row.force_delta is None
            assert row.verdict == "not evaluated"
            assert "no atom has a neighbour within the model's cutoff of 4 Å" in row.reason
            assert row.energy is not None
