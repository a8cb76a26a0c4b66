"""The page of the quantities has one entry for everything that is recorded, under the names that it has there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from forcedelta import FlagStore, ForceDeltaCalculator
from md_hooks import Action, Environment, Frame, RunInfo, Verdict
from md_hooks.environment import ENVIRONMENT, ENVIRONMENT_CELL, SYSTEM_PARTICLES
from md_hooks.h5md import layout
from md_hooks.predicted_error import OUTSIDE, PREDICTED, PREDICTED_ATOMS
from md_hooks.recalculation.labelled import PROVENANCE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quantities.md").read_text(encoding="utf-8")
STRUCTURE = ROOT / "examples" / "acetylacetone.xyz"
TOLD_ELSEWHERE = {"run", "reason", "audit", "source", "reference", "pick"}
"""Fields of XYZ files that say where a frame comes from, in one paragraph of the page."""

OF_SOME_MODELS = ("expected_error", "energy_uncertainty")

REPLAYED = ("source_frame", "atoms", "structure", "path", "move", "image")
"""Scalars of audits, attacks and bands."""

UNITS = {
    None: "none", "eV": "eV", "K": "K", "e": "e", "amu": "amu", "Angstrom": "Å", "fs": "fs",
    "Angstrom fs-1": "Å/fs", "eV Angstrom-1": "eV/Å", "eV Angstrom-3": "eV/Å³",
    "kJ mol-1 Angstrom-1": "eV/Å; kJ/(mol Å) in the H5MD file, for MDAnalysis",
}  # fmt: skip


def entries() -> dict[str, dict[str, str]]:
    """The fields of each entry by its name."""
    found = {}
    for text in re.split(r"^#+ ", PAGE.partition("\n## JSON")[0], flags=re.MULTILINE):
        name = re.match(r"`([^`]+)`\n", text)
        if name is not None:
            found[name[1]] = dict(re.findall(r"^:(\w+): (.+)$", text, re.MULTILINE))
    return found


ENTRIES = entries()


def named(field: str, pattern: str) -> set[str]:
    """What the entries name in a field, such as all paths in H5MD files."""
    return {
        match for entry in ENTRIES.values() for match in re.findall(pattern, entry.get(field, ""))
    }


def recorded() -> dict[str, str | None]:
    """Path and unit of all that a file may hold."""
    units = {element.path: element.unit for element in layout.PARTICLE_ELEMENTS}
    units |= {layout.ACTION: None, layout.CHECKSUM: None, layout.SERIES_CHECKSUM: None}
    units |= {f"{layout.PER_STEP}/{name}": unit for name, _, unit in layout.SERIES}
    units |= {f"{layout.PER_STEP}/{name}": unit for name, unit in layout.EXTRA_UNITS.items()}
    units |= {f"{layout.PER_STEP}/{name}": "eV Angstrom-1" for name in PREDICTED}
    units |= {f"{layout.PER_STEP}/{name}": None for name in (OUTSIDE, *REPLAYED)}
    return units | {f"{layout.PER_STEP}/step": None, f"{layout.PER_STEP}/time": "fs"}


def test_each_entry_is_complete() -> None:
    for name, entry in ENTRIES.items():
        assert {"shape", "unit", "missing"} <= entry.keys(), name
        assert entry.keys() & {"H5MD", "ASE", "XYZ"}, name


def test_the_paths_of_h5md_files() -> None:
    assert named("H5MD", r"`(/[^`]+)`") == set(recorded())


def test_the_units_and_shapes_of_h5md_files() -> None:
    units = recorded()
    shapes = {element.path: element.shape(7) for element in layout.PARTICLE_ELEMENTS}
    for name, entry in ENTRIES.items():
        for path in re.findall(r"`(/[^`]+)`", entry.get("H5MD", "")):
            assert path.endswith(f"/{name}"), path
            assert entry["unit"].partition(" in the file")[0] == UNITS[units[path]], path
            words = entry["shape"].partition(",")[0]
            sizes = () if words == "scalar" else tuple(
                7 if word in ("N", "M") else int(word) for word in words.split(" x ")
            )  # fmt: skip
            assert sizes == shapes.get(path, ()), path


def test_results_of_the_calculator() -> None:
    silicon = bulk("Si")
    silicon.calc = ForceDeltaCalculator("mlearn")
    molecule = ase.io.read(STRUCTURE)
    molecule.calc = ForceDeltaCalculator("acac", every="adaptive")
    known = {"expected_errors", "energy_uncertainty"}  # of some models only
    for atoms in (silicon, molecule):
        atoms.get_potential_energy()
        known |= atoms.calc.results.keys()
    assert named("ASE", r'results\["(\w+)"\]') == known
    assert known - {"estimated_force_delta"} == set(ForceDeltaCalculator.implemented_properties)


def test_what_ase_reads(forcedelta: Callable[..., Any], tmp_path: Path) -> None:
    start = ase.io.read(STRUCTURE)
    start.info.update(charge=0, spin=1)
    start.set_initial_magnetic_moments([1.0] * len(start))
    start.write(tmp_path / "start.xyz")
    status, *_ = forcedelta("run", "start.xyz", "--model", "acac", "--steps", 2, "--seed", 1)
    assert status == 0
    atoms = ase.io.read(tmp_path / "run.h5")
    further = {"path", "move", "image", *OF_SOME_MODELS, *PREDICTED, OUTSIDE}
    further |= {SYSTEM_PARTICLES, ENVIRONMENT, ENVIRONMENT_CELL}
    assert named("ASE", r'info\["(\w+)"\]') == atoms.info.keys() | further
    arrays = atoms.arrays.keys() - {"numbers", "positions"}
    assert named("ASE", r'arrays\["(\w+)"\]') == arrays | set(PREDICTED_ATOMS)


def test_fields_of_xyz_files(tmp_path: Path) -> None:
    atoms = ase.io.read(STRUCTURE)
    atoms.calc = ForceDeltaCalculator("acac")
    atoms.get_potential_energy()
    results = atoms.calc.results
    extra = dict.fromkeys([*OF_SOME_MODELS, *PREDICTED, OUTSIDE], 0.1)
    extra |= {"path": 0.0, "move": 1.0, "image": 2.0}
    frame = Frame(
        step=1, time=0.5, numbers=atoms.numbers, positions=atoms.positions,
        velocities=atoms.positions * 0, masses=atoms.get_masses(), cell=atoms.cell.array,
        pbc=atoms.pbc, energy=results["energy"], forces=results["forces"], temperature=300.0,
        force_delta=results["force_delta"], force_deltas=results["force_deltas"],
        direct_forces=results["direct_forces"],
        conservative_forces=results["conservative_forces"], extra=extra, charge=0, spin=1,
        magnetic_moments=atoms.positions[:, 0], system_particles=16,
        environment=Environment(np.array([8]), np.zeros((1, 3)), np.array([-1.0]), np.array([0]), np.eye(3)),
        **dict.fromkeys(PREDICTED_ATOMS, results["force_deltas"]),
    )  # fmt: skip
    store = FlagStore(tmp_path / "flagged.xyz")
    store.open(
        RunInfo(
            model=atoms.calc.model_info | {"level_of_theory": "PBE"}, run_id="0" * 32,
            run_file="audit.h5", planned_frames=1,
        )
    )  # fmt: skip
    store.observe(frame, Verdict(Action.FLAG, "why"))
    stored = ase.io.read(tmp_path / "flagged.xyz")
    fields = stored.info.keys() | stored.arrays.keys() - {"numbers", "positions"}
    of_labels = {"energy", "free_energy", "forces", "stress", "epsilon"}
    page = named("XYZ", r"`(\w+)`")
    assert page == fields - TOLD_ELSEWHERE | of_labels
    assert set(PROVENANCE) - TOLD_ELSEWHERE <= page
    for name in TOLD_ELSEWHERE:
        assert f"(`{name}`)" in PAGE or f"the `{name}`" in PAGE


def keys_of(row: str) -> list[str]:
    """The keys that the table of the page has for a command."""
    found = re.search(rf"^\| {re.escape(row)} \| (.+) \|$", PAGE, re.MULTILINE)
    assert found is not None, row
    return re.findall(r"`(\w+)`", found[1])


@pytest.mark.slow
def test_keys_of_json(forcedelta: Callable[..., Any], tmp_path: Path) -> None:
    def printed(*arguments: object) -> dict[str, Any]:
        _, out, _ = forcedelta(*arguments, "--json")
        return dict(json.loads(out))

    run = printed(
        "run", STRUCTURE, "--model", "acac", "--steps", 30, "--flag-above", 0.001, "--seed", 1
    )
    assert list(run) == keys_of("`run`")
    audit = printed("audit", "run.h5", "--model", "acac", "--out", "audit.h5")
    assert list(audit) == keys_of("`audit`")
    assert list(audit["audits"][0]) == keys_of("`audit`: each of `audits`")
    screen = printed("screen", STRUCTURE, "--model", "acac", "--out", "screen.csv")
    assert list(screen) == keys_of("`screen`")
    assert list(screen["rows"][0]) == keys_of("`screen`: each of `rows`")
    attack = printed("attack", STRUCTURE, "--model", "acac", "--starts", 1, "--steps", 2)
    assert list(attack) == keys_of("`attack`")
    assert list(attack["paths"][0]) == keys_of("`attack`: each of `paths`")
    labels = printed(
        "recalc", "run.h5", "--select", 1, "--stop-above", 9, "--calculator",
        "ase.calculators.lj:LennardJones", "--out", "labelled.xyz",
    )  # fmt: skip
    assert list(labels) == keys_of("`recalc`")
    assert list(labels["frames"][0]) == keys_of("`recalc`: each of `frames`")
