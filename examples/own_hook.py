"""
A hook of your own
==================

It stops the run when the hydrogen of the enol leaves its oxygen, whatever U says.
"""

from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from forcedelta import ForceDeltaCalculator, Recorder, run
from md_hooks import Action, Frame, Verdict

OXYGEN, HYDROGEN = 2, 10  # of acetylacetone.xyz
LONGEST = 1.4  # Å


def enol_keeps_its_hydrogen(frame: Frame) -> Verdict | None:
    """Called at every step; None lets the run continue."""
    length = float(np.linalg.norm(frame.positions[HYDROGEN] - frame.positions[OXYGEN]))
    if length <= LONGEST:
        return None
    return Verdict(Action.STOP, f"step {frame.step}: the O-H bond is {length:.2f} Å long")


torch.set_num_threads(1)  # the fastest for a few dozen atoms
atoms = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
atoms.calc = ForceDeltaCalculator("acac")
atoms.set_constraint(FixCom())
thermalize_momenta(atoms, 600)
dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=600, friction=0.01 / units.fs, fixcm=False)
result = run(dynamics, 1000, [enol_keeps_its_hydrogen, Recorder("own_hook.h5", mode="overwrite")])
print(f"{result.reason} at step {result.step}, {result.time} fs {result.message}")
