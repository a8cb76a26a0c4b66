"""
The loop from a run to a threshold
==================================

The loop from a run to a threshold, in Python.

1. Heat a structure with a direct-force model; the guard flags frames and stops at an unphysical one.
2. Label chosen frames with a reference calculation.
3. Find a threshold that keeps the error within a tolerance.
4. Run again with that threshold, and label the frame at which this run stopped.

Used by loop_acac.py and loop_silicon.py. Files that exist are not made again.
"""

# ci: skip (a module of loop_acac.py and loop_silicon.py)

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from scipy.stats import spearmanr

from forcedelta import (
    Calibration,
    ForceDeltaError,
    Trajectory,
    calibrate,
    guarded_run,
    label,
    read_calibration,
)


@dataclass
class Loop:
    """The settings of a loop, under the names of `guarded_run`, `label` and `calibrate`."""

    structure: str
    model: str
    dynamics: dict[str, Any]
    flag_above: float  # eV/Å
    calculator: str
    labels: int
    tolerance: float  # eV/Å
    risks: list[float]  # tried in turn with the labels of the run
    labelling: dict[str, Any] = field(default_factory=dict)
    held_out: list[str] = field(default_factory=list)  # labelled files that training has not seen

    def make(self) -> None:
        """All four parts."""
        self.run("ramp.h5", flag_above=self.flag_above, stop_above="auto", stop_factor=4.0)
        label(
            "ramp.h5", self.calculator, select=self.labels, out="labelled.xyz", report=print,
            **self.labelling,
        )  # fmt: skip
        show_errors("labelled.xyz")
        threshold = self.threshold()
        if threshold is None:
            print("\nno threshold: there is nothing to guard a run with")
            return
        if self.run("guarded.h5", stop_above=threshold) != "stopped":
            return
        value = threshold.threshold
        label(
            "guarded.h5", self.calculator, select=1, flag_above=value, stop_above=100 * value,
            out="last.xyz", report=print, **self.labelling,
        )  # fmt: skip
        show_errors("last.xyz")

    def run(self, out: str, **guard: Any) -> str:
        """A guarded run, or one that was made before; why it ended."""
        if not Path(out).exists():
            guarded_run(self.structure, self.model, out=out, **self.dynamics, **guard)
        outcome = Trajectory(out).outcome
        print(
            f"\n{out}: {outcome['reason']}; {outcome.get('message') or 'all steps made'}",
            flush=True,
        )
        return str(outcome["reason"])

    def threshold(self) -> Calibration | None:
        """The last threshold that the labels give: of the run, then with the held-out ones."""
        found = None
        attempts: list[tuple[list[str], float, str | None]] = [
            (["labelled.xyz"], risk, None) for risk in self.risks
        ]
        if self.held_out:
            attempts.append((["labelled.xyz", *self.held_out], self.risks[0], self.model))
        for files, risk, model in attempts:
            print(f"\nthreshold for a risk of {risk:g} from {len(files)} files of labels:")
            try:
                found = calibrate(
                    files, model, tolerance=self.tolerance, risk=risk, out="calibration.json",
                    overwrite=True,
                )  # fmt: skip
                print(found.guarantee, flush=True)
            except ForceDeltaError as error:
                print(f"none: {error}", flush=True)
        return None if found is None else read_calibration("calibration.json")


def show_errors(path: str) -> None:
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
