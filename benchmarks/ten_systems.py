"""Check and guarded dynamics of a model on the ten systems of the Force Delta paper.

For each structure in a folder: a quick `forcedelta check`, then guarded dynamics, with published
weights or any checkpoint:

    python benchmarks/ten_systems.py DATA/systems --model orb-v3-direct-20-mpa
    python benchmarks/ten_systems.py DATA/systems --model weights.ckpt --architecture orb-v3-direct-20
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from forcedelta import ForceDeltaError, LoadedModel, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.verify.inspection import Inspector
from md_hooks import Guard, Recorder, RunResult, run


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="check and guarded dynamics of several systems")
    parser.add_argument("folder", type=Path, help="structure files that ASE reads")
    parser.add_argument("--model", required=True, help="published name, or path of a checkpoint")
    parser.add_argument("--architecture", help="network of a checkpoint")
    parser.add_argument("--trust", action="store_true", help="load a checkpoint that is a pickle")
    parser.add_argument("--steps", type=int, default=20, help="of 0.5 fs, after a burn-in of half")
    parser.add_argument("--full", action="store_true", help="all of check, not the short form")
    parser.add_argument("--only", nargs="*", help="names of systems")
    return parser.parse_args()


def inspect(
    load: Callable[[torch.dtype], LoadedModel], atoms: ase.Atoms, full: bool
) -> tuple[str, float]:
    """Verdict, and the error of F_c against finite differences as a share of F_c."""
    inspector = Inspector(load, atoms, quick=not full)
    for step in inspector.steps:
        if step[0] == "cost":  # the dynamics below tell
            continue
        inspector.run(step)
        if inspector.hopeless:
            break
    found = inspector.result()
    errors = [
        finding.numbers["relative"]
        for finding in found.findings
        if finding.key.startswith("gradient") and "relative" in finding.numbers
    ]
    return found.verdict, max(errors, default=float("nan"))


def guarded(model: LoadedModel, atoms: ase.Atoms, steps: int, out: Path) -> tuple[RunResult, float]:
    """Result, and the mean time of a step in s."""
    atoms.calc = ForceDeltaCalculator(model)
    rng = np.random.default_rng(1)
    atoms.set_constraint([*atoms.constraints, FixCom()])
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=rng, fixcm=False
    )
    start = time.process_time()
    result = run(dynamics, steps, [Guard(stop_above=1e3), Recorder(out)])
    return result, (time.process_time() - start) / max(1, result.step)


def main() -> None:
    given = arguments()
    files = sorted(file for file in given.folder.iterdir() if file.suffix in (".xyz", ".cif"))
    if given.only:
        files = [file for file in files if file.stem in given.only]
    if not files:
        sys.exit(f"{given.folder} holds no .xyz or .cif file of that name")
    loaded: dict[torch.dtype, LoadedModel] = {}

    def load(dtype: torch.dtype) -> LoadedModel:
        if dtype not in loaded:
            loaded[dtype] = load_model(
                given.model, dtype, architecture=given.architecture, trust=given.trust
            )
        return loaded[dtype]

    print(f"{'system':<14}{'atoms':>6}  {'check':<22}{'F_c, FD':>9}{'U':>9}  guarded dynamics")
    for file in files:
        atoms = ase.io.read(file)
        atoms.info.update(charge=0, spin=1)
        model = load(torch.float32)
        try:
            verdict, error = inspect(load, atoms, given.full)
            with tempfile.TemporaryDirectory() as folder:
                result, seconds = guarded(model, atoms, given.steps, Path(folder, "run.h5"))
        except ForceDeltaError as problem:
            print(f"{file.stem:<14}{len(atoms):>6}  {problem}", flush=True)
            continue
        ending = f"{result.reason} at step {result.step}, {seconds:.2f} s of processor a step"
        print(
            f"{file.stem:<14}{len(atoms):>6}  {verdict:<22}{error:>9.1e}{result.force_delta:>9.3f}  "
            f"{ending}",
            flush=True,
        )


if __name__ == "__main__":
    main()
