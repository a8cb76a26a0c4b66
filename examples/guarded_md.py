"""
Guarded molecular dynamics in ASE
=================================

Langevin dynamics at 300 K, guarded by a threshold that its first 500 steps determine.
"""

from pathlib import Path

import ase.io
import torch
from ase import units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from forcedelta import FlagStore, ForceDeltaCalculator, Guard, Progress, Recorder, run

torch.set_num_threads(1)  # the fastest for a few dozen atoms
atoms = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
atoms.calc = ForceDeltaCalculator("acac")
atoms.set_constraint(FixCom())  # direct forces may have a net force
thermalize_momenta(atoms, 300)
dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False)
guard = Guard(stop_above="auto", burn_in=500, temperature=300)
hooks = [guard, Recorder("guarded.h5", mode="overwrite"), FlagStore("flagged.xyz"), Progress()]
result = run(dynamics, 1000, hooks)
print(f"{result.reason} at step {result.step}, {result.time} fs: U = {result.force_delta:.3f} eV/Å")
