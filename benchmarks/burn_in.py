"""Burn-ins that `--stop-above auto` refuses, compared with those that it should refuse.

    python benchmarks/burn_in.py pairs DATA      20 structures in the domain of their model, 20 outside of it: the
                                                 first must get a threshold, no run of the second may finish with an
                                                 exploded structure
    python benchmarks/burn_in.py alarms          24 calm runs of 3 ps at 300 K with conservative and with direct
                                                 forces, 12 ramps to 3000 K: false alarms, and blow-ups missed

DATA is the folder of the labelled files (docs/measured/index.md). The runs are those of ``forcedelta run``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from forcedelta.cli import status
from md_hooks import Trajectory
from md_hooks.geometry import Geometry

ACETYLACETONE = Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"


@dataclass(frozen=True)
class Pair:
    """A run: model, structure, and options that differ from the defaults of `forcedelta run`."""

    name: str
    model: str
    structure: Callable[[Path], Atoms]
    temperature: float = 300.0
    options: tuple[str, ...] = ()


def _acac(data: Path) -> Atoms:
    return ase.io.read(ACETYLACETONE)


def _frame(file: str, index: int) -> Callable[[Path], Atoms]:
    def read(data: Path) -> Atoms:
        atoms = ase.io.read(data / file, index)
        atoms.info.clear()
        atoms.calc = None
        return atoms

    return read


def _crystal(
    *arguments: object, repeat: tuple[int, int, int], scale: float = 1.0, **more: object
) -> Callable[[Path], Atoms]:
    def build(data: Path) -> Atoms:
        atoms = bulk(*arguments, cubic=True, **more).repeat(repeat)
        atoms.set_cell(atoms.cell * scale, scale_atoms=True)
        return atoms

    return build


def _molecule(name: str, scale: float = 1.0) -> Callable[[Path], Atoms]:
    def build(data: Path) -> Atoms:
        atoms = molecule(name)
        atoms.positions *= scale
        return atoms

    return build


def _squeezed(data: Path) -> Atoms:
    atoms = _acac(data)
    atoms.positions *= 0.8
    return atoms


CONSERVATIVE = ("--forces", "conservative")
FLAT, CUBE = (2, 2, 1), (2, 2, 2)
KNOWN = (
    Pair("acac", "acac", _acac),
    Pair("acac, conservative", "acac", _acac, options=CONSERVATIVE),
    Pair("acac, nve", "acac", _acac, options=("--ensemble", "nve", *CONSERVATIVE)),
    Pair("acac, bussi", "acac", _acac, options=("--ensemble", "bussi", *CONSERVATIVE)),
    Pair("acac, 100 K", "acac", _acac, 100.0),
    Pair("acac, 500 K", "acac", _acac, 500.0, CONSERVATIVE),
    Pair("acac, U every 4th step", "acac", _acac, options=("--every", "4")),
    Pair("acac, a labelled frame", "acac", _frame("acac_train_300K.xyz", 40)),
    Pair("acac, another", "acac", _frame("acac_train_300K.xyz", 300), options=CONSERVATIVE),
    Pair("acac-direct", "acac-direct", _acac),
    Pair("acac-direct, conservative", "acac-direct", _acac, options=CONSERVATIVE),
    Pair("acac-direct, a frame", "acac-direct", _frame("acac_train_300K.xyz", 100)),
    Pair("Si", "mlearn", _crystal("Si", repeat=FLAT)),
    Pair("Si, 900 K", "mlearn", _crystal("Si", repeat=FLAT), 900.0),
    Pair("Ge", "mlearn", _crystal("Ge", a=5.72, repeat=FLAT)),
    Pair("Li", "mlearn", _crystal("Li", a=3.44, repeat=CUBE)),
    Pair("Mo", "mlearn", _crystal("Mo", a=3.16, repeat=CUBE)),
    Pair("Mo, 1000 K", "mlearn", _crystal("Mo", a=3.18, repeat=CUBE), 1000.0),
    Pair("Mo, a labelled frame", "mlearn", _frame("mlearn_Mo_train.xyz", 100)),
    Pair("Li, a labelled frame", "mlearn", _frame("mlearn_Li_train.xyz", 100)),
)
FOREIGN = (
    Pair("water", "acac", _molecule("H2O")),
    Pair("water, conservative", "acac", _molecule("H2O"), options=CONSERVATIVE),
    Pair("methanol", "acac", _molecule("CH3OH")),
    Pair("ethanol", "acac", _molecule("CH3CH2OH")),
    Pair("benzene", "acac", _molecule("C6H6")),
    Pair("formaldehyde", "acac", _molecule("H2CO")),
    Pair("acetone", "acac", _molecule("CH3COCH3")),
    Pair("acetylene", "acac", _molecule("C2H2")),
    Pair("carbon dioxide", "acac", _molecule("CO2")),
    Pair("hydrogen", "acac", _molecule("H2")),
    Pair("acetylacetone, squeezed", "acac", _squeezed),
    Pair("acetylacetone, 3000 K", "acac", _acac, 3000.0),
    Pair("water", "acac-direct", _molecule("H2O")),
    Pair("methanol", "acac-direct", _molecule("CH3OH")),
    Pair("benzene", "acac-direct", _molecule("C6H6")),
    Pair("Si, squeezed", "mlearn", _crystal("Si", repeat=FLAT, scale=0.75)),
    Pair("Ge, squeezed", "mlearn", _crystal("Ge", a=5.66, repeat=FLAT, scale=0.7)),
    Pair("Li, squeezed", "mlearn", _crystal("Li", a=3.44, repeat=CUBE, scale=0.7)),
    Pair("LiSi", "mlearn", _crystal("LiSi", "zincblende", a=5.9, repeat=FLAT)),
    Pair("Si, 6000 K", "mlearn", _crystal("Si", repeat=FLAT), 6000.0),
)


def run(structure: Path, model: str, out: Path, steps: int, *more: str) -> dict[str, object]:
    """The result of a run with an automatic threshold, as printed by ``--json``."""
    text, words = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(words):
        status(["run", str(structure), "--model", model, "--out", str(out), "--steps", str(steps),
                "--stop-above", "auto", "--json", *more])  # fmt: skip
    if not text.getvalue():
        raise SystemExit(words.getvalue())
    result: dict[str, object] = json.loads(text.getvalue())
    if result["status"] == 130:  # Ctrl-C, and no verdict of a guard
        raise SystemExit(130)
    return result


def exploded(trajectory: Trajectory, temperature: float) -> str:
    """Why the last frame of a run is not a structure at its temperature; "" if it is."""
    hot = float(np.mean(trajectory.series["temperature"][-100:]))
    if hot > 5 * temperature:
        return f"{hot:.3g} K"
    return Geometry.of(trajectory.frame(0)).broken(trajectory.frame(-1)) or ""


def _outcome(result: dict[str, object]) -> str:
    return str(result["message"] or f"threshold {result['stop_threshold']:.3g} eV/Å")


def pairs(data: Path, steps: int) -> bool:
    """Print the table of the 40 pairs; True if all are as expected."""
    right = True
    with tempfile.TemporaryDirectory() as folder:
        for known, group in ((True, KNOWN), (False, FOREIGN)):
            print("known" if known else "foreign", flush=True)
            for number, pair in enumerate(group):
                structure = Path(folder) / "structure.xyz"
                pair.structure(data).write(structure)
                out = Path(folder) / f"{known}{number}.h5"
                result = run(structure, pair.model, out, steps, "--seed", "1", "--temperature",
                            str(pair.temperature), *pair.options)  # fmt: skip
                end = "" if result["status"] == 3 else exploded(Trajectory(out), pair.temperature)
                good = result["stop_threshold"] is not None if known else not end
                right &= good
                print(
                    f"{'ok   ' if good else 'WRONG'} {pair.model:12} {pair.name:26} status {result['status']} "
                    f"{_outcome(result)} {end}",
                    flush=True,
                )
    return right


def alarms(calm: int, ramps: int) -> bool:
    """Count false alarms in calm runs and missed blow-ups; True if there are few."""
    stopped = {"conservative": 0, "direct": 0}
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        for forces in stopped:
            for seed in range(calm):
                result = run(ACETYLACETONE, "acac", Path(folder) / "run.h5", 6000, "--overwrite",
                            "--seed", str(seed), "--forces", forces)  # fmt: skip
                stopped[forces] += result["status"] == 3
            print(f"{stopped[forces]} of {calm} calm runs stopped, {forces} forces", flush=True)
        for seed in range(ramps):
            result = run(ACETYLACETONE, "acac", Path(folder) / "run.h5", 12000, "--overwrite",
                        "--seed", str(seed), "--ramp-to", "3000")  # fmt: skip
            end = Trajectory(Path(folder) / "run.h5").frame(-1)
            late = result["status"] != 3 or not end.temperature or end.temperature > 8000
            missed += late
            print(f"ramp {seed}: {result['message']}", flush=True)
        print(f"{missed} of {ramps} ramps blew up before they were stopped")
    return max(stopped.values()) <= calm / 20 and missed == 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("pairs")
    table.add_argument("data", type=Path)
    table.add_argument("--steps", type=int, default=1500)
    rates = commands.add_parser("alarms")
    rates.add_argument("--calm", type=int, default=24)
    rates.add_argument("--ramps", type=int, default=12)
    given = parser.parse_args()
    if given.command == "pairs":
        return 0 if pairs(given.data, given.steps) else 1
    return 0 if alarms(given.calm, given.ramps) else 1


if __name__ == "__main__":
    sys.exit(main())
