"""
Guarded molecular dynamics in ASE
=================================

Langevin dynamics at 300 K, guarded by a threshold that its first 500 steps determine.
"""

from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
import torch
from ase import units
from ase.constraints import FixCom
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from forcedelta import FlagStore, ForceDeltaCalculator, Guard, Progress, Recorder, Trajectory, run

torch.set_num_threads(1)  # the fastest for a few dozen atoms
random = np.random.default_rng(1)
atoms = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
atoms.calc = ForceDeltaCalculator("acac")
atoms.set_constraint(FixCom())  # direct forces may have a net force
thermalize_momenta(atoms, 300, rng=random)
dynamics = Langevin(
    atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False, rng=random
)

# %%
# The guard judges each frame, the recorder writes every tenth and all flagged ones, and the flag store
# collects the flagged ones for a reference calculation.

guard = Guard(stop_above="auto", burn_in=500, temperature=300)
hooks = [guard, Recorder("guarded.h5", mode="overwrite"), FlagStore("flagged.xyz"), Progress()]
result = run(dynamics, 1000, hooks)
print(f"{result.reason} at step {result.step}, {result.time} fs: U = {result.force_delta:.3f} eV/Å")

# %%
# The file holds U of every step. The thresholds are known from the end of the burn-in on.

series = Trajectory("guarded.h5").series
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.plot(series["time"], series["force_delta"], label="U")
axes.plot(series["time"], series["force_delta_max"], lw=0.5, label="largest u of an atom")
axes.axhline(guard.stop_threshold, color="tab:red", label="stop")
axes.axvline(series["time"][500], color="grey", ls=":", label="end of the burn-in")
axes.set(xlabel="time (fs)", ylabel="eV/Å")
axes.legend()
figure.savefig("guarded.png")
