"""The loop from a run to a threshold, out of the commands that users type.

1. Heat a structure with a direct-force model; the guard flags frames and stops at an unphysical structure.
2. Send chosen frames to a reference calculation.
3. Look for a threshold that keeps the error within a tolerance, with what labels there are.
4. Run again with that threshold, and label the frame at which this run stopped.

Used by loop_acac.py and loop_silicon.py. What lies in the folder already is not made again.
"""

# ci: skip (nothing happens here)

import json
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from scipy.stats import spearmanr

from md_hooks import Trajectory


@dataclass
class Loop:
    """What is to be done: arguments of the commands, as on the command line."""

    structure: str
    model: str
    dynamics: str
    flag_above: float  # eV/Å
    engine: str
    labels: int
    tolerance: float  # eV/Å
    risks: list[float]  # tried in turn with the labels of the run
    held_out: list[str]  # labelled files that the model was not trained on

    def make(self) -> None:
        """All four parts."""
        run = f"run {self.structure} --model {self.model} {self.dynamics}"
        self.call(
            f"{run} --flag-above {self.flag_above} --stop-above auto --stop-factor 4 --out ramp.h5",
            "ramp.h5",
        )
        self.call(f"recalc ramp.h5 --select {self.labels} {self.engine} --out labelled.xyz")
        self.tell("labelled.xyz")
        found = [self.calibrate("labelled.xyz", risk) for risk in self.risks]
        if self.held_out:
            files = shlex.join(["labelled.xyz", *self.held_out])
            found.append(self.calibrate(f"{files} --model {self.model}", self.risks[0]))
        if not any(found):
            print("\nno threshold: there is nothing to guard a run with")
            return
        stopped = self.call(f"{run} --stop-above calibration.json --out guarded.h5", "guarded.h5")
        if not stopped:
            return
        threshold = json.loads(Path("calibration.json").read_text(encoding="utf-8"))["threshold"]
        above = f"--flag-above {threshold} --stop-above {100 * threshold}"
        self.call(f"recalc guarded.h5 --select 1 {self.engine} {above} --out last.xyz")
        self.tell("last.xyz")

    def calibrate(self, labels: str, risk: float) -> bool:
        """Look for a threshold; whether there is one."""
        return (
            self.call(
                f"calibrate {labels} --tolerance {self.tolerance} --risk {risk} --out calibration.json "
                "--overwrite"
            )
            == 0
        )

    def tell(self, path: str) -> None:
        """Step, U and true error of labelled frames."""
        frames = ase.io.read(path, ":")
        u = np.array([atoms.info["force_delta"] for atoms in frames])
        error = np.array([atoms.info["epsilon"] for atoms in frames])
        print("\nstep     U (eV/Å)  true error (eV/Å)")
        for row in np.argsort(u):
            print(f"{frames[row].info['step']:<8} {u[row]:<9.4f} {error[row]:.4f}")
        if len(frames) > 2:
            energy = [atoms.info["model_energy"] / len(atoms) for atoms in frames]
            ranks = [spearmanr(values, error).statistic for values in (u, energy)]
            print(
                f"r_s with the true error: U {ranks[0]:.2f}, predicted energy {ranks[1]:.2f}, "
                f"{len(frames)} frames"
            )

    def call(self, arguments: str, run: str | None = None) -> int:
        """Run a command of forcedelta, as it is typed, or look up how a run ended; its exit status.

        Status 3 is that of a run that the guard stopped, 2 that of a calibration that is refused.
        """
        print(f"\n$ forcedelta {arguments}", flush=True)
        if run is not None and Path(run).exists():
            outcome = Trajectory(run).outcome
            print(f"({run} is there already: {outcome.get('message') or outcome['reason']})")
            return 3 if outcome["reason"] == "stopped" else 0
        done = subprocess.run(
            ["forcedelta", *shlex.split(arguments)], stderr=subprocess.PIPE, text=True
        )
        notes = [line for line in done.stderr.splitlines() if not line.startswith("step ")]
        print("\n".join([*notes, f"(exit status {done.returncode})"]), flush=True)
        allowed = {"run": (0, 3), "calibrate": (0, 2)}.get(arguments.split()[0], (0,))
        if done.returncode not in allowed:
            raise SystemExit(done.returncode)
        return done.returncode
