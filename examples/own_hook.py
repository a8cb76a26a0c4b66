"""
A hook of your own
==================

It stops the run when the hydrogen of the enol leaves its oxygen, whatever U says.
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

from forcedelta import ForceDeltaCalculator, Recorder, Trajectory, run
from md_hooks import Action, Frame, Verdict

OXYGEN, HYDROGEN = 2, 10  # of acetylacetone.xyz
LONGEST = 1.4  # Å


def enol_keeps_its_hydrogen(frame: Frame) -> Verdict | None:
    """Called at every step; None lets the run continue."""
    length = float(np.linalg.norm(frame.positions[HYDROGEN] - frame.positions[OXYGEN]))
    if length <= LONGEST:
        return None
    return Verdict(Action.STOP, f"step {frame.step}: the O-H bond is {length:.2f} Å long")


# %%
# A run at 600 K with this hook. The recorder keeps every frame, and the one at which the run stops is the last.

torch.set_num_threads(1)  # the fastest for a few dozen atoms
random = np.random.default_rng(1)
atoms = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
atoms.calc = ForceDeltaCalculator("acac")
atoms.set_constraint(FixCom())
thermalize_momenta(atoms, 600, rng=random)
dynamics = Langevin(
    atoms, 0.5 * units.fs, temperature_K=600, friction=0.01 / units.fs, fixcm=False, rng=random
)
recorder = Recorder("own_hook.h5", every=1, mode="overwrite")
result = run(dynamics, 1000, [enol_keeps_its_hydrogen, recorder])
print(f"{result.reason} at step {result.step}, {result.time} fs {result.message}")

# %%
# The bond that the hook watched, and U, which it did not look at.

frames = list(Trajectory("own_hook.h5").frames())
time = [frame.time for frame in frames]
length = [np.linalg.norm(frame.positions[HYDROGEN] - frame.positions[OXYGEN]) for frame in frames]
figure, (bond, delta) = plt.subplots(2, sharex=True, figsize=(7, 4), layout="constrained")
bond.plot(time, length)
bond.axhline(LONGEST, color="tab:red")
bond.set(ylabel="O-H (Å)")
delta.plot(time, [frame.force_delta for frame in frames])
delta.set(xlabel="time (fs)", ylabel="U (eV/Å)")
figure.savefig("own_hook.png")
