"""Tables 1 and 2 and figures 1 to 3 of the Force Delta paper: for families of small networks, or its own models.

    python benchmarks/paper_families.py DATA OUT/families
    python benchmarks/paper_tables.py analogue OUT
    python benchmarks/paper_tables.py silicon OUT --pseudo Si.UPF
    python benchmarks/paper_tables.py paper OUT --systems DATA/systems

`analogue` attacks ten small molecules of H, C and O with the largest member of each family, labels them and
their paths with PySCF, and compares all members. `silicon` does the same with `mlearn` and Quantum ESPRESSO.
`paper` takes the 15 models and ten systems of the paper: models whose weights are at hand are compared and
attack, and the VASP inputs of all structures are written. Each part continues where it was stopped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from forcedelta import ForceDeltaError, attack, compare, label, load_model
from forcedelta.cli.compare_screen import show_comparison
from md_hooks import Trajectory

MOLECULES = (
    "CH3OH", "CH3CHO", "CH3CH2OH", "CH3OCH3", "CH3COOH", "HCOOCH3", "CH3COCH3", "C4H4O", "CH3CH2OCH3",
)  # fmt: skip
FAMILIES = ("direct-like", "acac-like")
FEWER = MOLECULES[:6]
"""Systems of the second family's attack: six, as in the paper."""
MEMBERS = 5
ATTACKING = ("orb-v3-direct-20-mpa", "eqV2_dens_31M_mp")
PAPER = {
    "Orb": (
        "orb-d3-xs-v2", "orb-d3-v2", "orb-d3-sm-v2", "orb-v3-direct-inf-mpa", "orb-v3-direct-20-mpa",
    ),
    "EquiformerV2": (
        "eqV2_dens_31M_mp", "eqV2_dens_153M_mp", "eqV2_dens_86M_mp", "eqV2_31M_mp", "eqV2_31M_omat",
        "eqV2_153M_omat", "eqV2_86M_omat", "eqV2_31M_omat_mp_salex", "eqV2_153M_omat_mp_salex",
        "eqV2_86M_omat_mp_salex",
    ),
}  # fmt: skip
POINTS = 6
"""Structures of each path that are labelled, from the start to the end at even distances."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", choices=("analogue", "silicon", "paper"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--systems", type=Path, help="folder with the ten systems of the paper")
    parser.add_argument("--pseudo", type=Path, help="pseudopotential of silicon, UPF")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.part == "analogue":
        analogue(given.out)
    elif given.part == "silicon":
        silicon(given.out, given.pseudo)
    else:
        paper(given.out, given.systems)


def analogue(out: Path) -> None:
    acetylacetone = ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")
    systems = {"acetylacetone": acetylacetone} | {name: molecule(name) for name in MOLECULES}
    resting = labelled(out, "resting", named(systems), "pyscf", {})
    sets = [resting]
    for family in FAMILIES:
        if family != FAMILIES[0]:
            systems = {name: systems[name] for name in FEWER}
        model = out / "families" / f"{family}-{MEMBERS}.safetensors"
        frames = on_paths(out, f"attack-{family}", systems, model)
        sets.append(labelled(out, f"attack-{family}", frames, "pyscf", {}))
    models = {
        family: [out / "families" / f"{family}-{k}.safetensors" for k in range(1, MEMBERS + 1)]
        for family in FAMILIES
    }
    everything = [model for family in models.values() for model in family]
    names = {family: [model.stem for model in members] for family, members in models.items()}
    show_comparison(compare([resting], everything, out / "at-rest", family=names, group_by="source",
                 report=out / "at-rest.html", overwrite=True))  # fmt: skip
    for family, file in zip(FAMILIES, sets[1:], strict=True):
        show_comparison(compare([file], models[family], out / f"on-paths-{family}", group_by="source",
                     report=out / f"on-paths-{family}.html", overwrite=True))  # fmt: skip


def silicon(out: Path, pseudo: Path) -> None:
    systems = {"Si8": bulk("Si", cubic=True)}
    frames = on_paths(out, "attack-silicon", systems, "mlearn", starts=3, strain=True)
    settings = {"pseudopotentials": {"Si": pseudo.name}, "pseudo_dir": str(pseudo.parent)}
    file = labelled(out, "attack-silicon", frames, "espresso", settings)
    show_comparison(
        compare([file], ["mlearn"], out / "silicon", report=out / "silicon.html", overwrite=True)
    )


def paper(out: Path, folder: Path) -> None:
    systems = {path.stem: ase.io.read(path) for path in sorted(folder.glob("*.xyz"))}
    frames = named(systems)
    there = []
    for family, names in PAPER.items():
        for name in names:
            try:
                load_model(name)
            except ForceDeltaError as error:
                print(f"{family}, {name}: not here ({error})")
            else:
                there.append(name)
    for name in there:
        if name in ATTACKING:
            frames += on_paths(out, f"attack-{name}", systems, name)
    resting = out / "resting.xyz"
    ase.io.write(resting, frames, format="extxyz")
    result = label(resting, "vasp", out=out / "vasp-labelled.xyz")
    done, _, waiting = result.counts
    print(f"VASP: {done} labelled, {waiting} wait for their calculation")
    if there:
        file = out / "vasp-labelled.xyz" if done else resting
        show_comparison(compare([file], there, out / "paper", family=PAPER, group_by="source",
                     report=out / "paper.html", overwrite=True))  # fmt: skip


def named(systems: dict[str, Atoms]) -> list[Atoms]:
    """The structures with their names."""
    frames = []
    for pick, (name, atoms) in enumerate(systems.items()):
        frames.append(atoms.copy())
        frames[-1].info |= {"source": name, "pick": pick}
    return frames


def on_paths(
    out: Path,
    name: str,
    systems: dict[str, Atoms],
    model: str | Path,
    starts: int = 1,
    strain: bool = False,
) -> list[Atoms]:
    """Structures of attacks at even distances on each path, with system, path and move."""
    file = out / f"{name}.h5"
    mode = "restart" if file.exists() else "create"
    result = attack(
        list(systems.values()), model, file, starts=starts, steps=30, picks=0, strain=strain, mode=mode
    )  # fmt: skip
    print(result.line)
    trajectory = Trajectory(file)
    series = trajectory.series
    frames = []
    for path in np.unique(series["path"]):
        on_path = np.flatnonzero(series["path"] == path)
        chosen = on_path[np.linspace(0, len(on_path) - 1, POINTS).round().astype(int)]
        for index in np.unique(chosen).tolist():
            frame = trajectory.frame(index)
            atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
            atoms.info |= {
                "source": list(systems)[int(series["structure"][index])],
                "path": int(path),
                "move": int(series["move"][index]),
                "pick": len(frames),
            }
            frames.append(atoms)
    return frames


def labelled(
    out: Path, name: str, frames: Sequence[Atoms], reference: str, settings: dict[str, object]
) -> Path:
    """Labels of a reference method; those in the journal are not computed again."""
    source, target = out / f"{name}.xyz", out / f"{name}-labelled.xyz"
    ase.io.write(source, frames, format="extxyz")
    result = label(source, reference, out=target, settings=settings, report=print)
    print(f"{name}: {result.counts[0]} of {len(result.frames)} structures labelled")
    return target


if __name__ == "__main__":
    main()
