"""Langevin dynamics at 300 K that ends where the Force Delta passes twice the largest value of its first 500 steps."""

import ase.io
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from forcedelta.ase import ForceDeltaCalculator
from md_hooks import FlagStore, Guard, Recorder, run

atoms = ase.io.read(__file__.replace("guarded_md.py", "acetylacetone.xyz"))
atoms.calc = ForceDeltaCalculator("acac")
MaxwellBoltzmannDistribution(atoms, temperature_K=300)
dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs)
guard = Guard(stop_above="auto", burn_in=500)
result = run(
    dynamics, 1000, [guard, Recorder("guarded.h5", mode="overwrite"), FlagStore("flagged.xyz")]
)
print(
    f"{result.reason} at step {result.step} ({result.time} fs), U = {result.force_delta:.3f} eV/Å {result.message}"
)
