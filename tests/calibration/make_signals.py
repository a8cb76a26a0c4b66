"""Makes signals.csv: what embedded models predict on frames that they were not trained on, and the
true errors.

    python tests/calibration/make_signals.py DATA

where DATA is the folder of the labelled files, as for make_pairs.py; every fourth frame of
acetylacetone is kept. Energies in eV per atom, everything else in eV/Å.
"""

import sys
from pathlib import Path

import torch

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.calibration.labels import evaluated
from forcedelta.training.data import read_labelled
from forcedelta.training.recipe import read_recipe
from forcedelta.training.tasks import split

NAMES = ("force_delta", "worst_atom", "energy_per_atom", "force_rms")

torch.set_num_threads(1)
data = Path(sys.argv[1])
lines = [",".join(["model", "composition", *NAMES, "epsilon"])]
for name in ("acac", "acac-direct", "mlearn"):
    frames = split(read_recipe(name), data)[1]
    if name != "mlearn":
        frames = (frames + read_labelled(data / "acac_train_600K.xyz"))[::4]
    labels = evaluated(frames, ForceDeltaCalculator(name))
    columns = [labels.signals.columns[key] for key in NAMES]
    rows = zip(labels.signals.compositions, *columns, labels.epsilon, strict=True)
    lines += [",".join([name, kind, *(f"{x:.6f}" for x in numbers)]) for kind, *numbers in rows]
Path(__file__).with_name("signals.csv").write_text("\n".join(lines) + "\n")
