"""Makes pairs.csv: U and true error (eV/Å) of embedded models on frames that they were not trained on.

    python tests/calibration/make_pairs.py DATA

where DATA is the folder of the labelled files, which are not part of this project: acetylacetone of
BOTNet-datasets (Batatia et al. 2022, MIT), crystals of mlearn (Zuo et al. 2020, BSD-3-Clause). The
frames are those that the recipe of a model holds out and, for acetylacetone, 500 of 600 K.
"""

import sys
from pathlib import Path

import torch

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.calibration.labels import evaluated
from forcedelta.training.data import read_labelled
from forcedelta.training.recipe import read_recipe
from forcedelta.training.tasks import split

torch.set_num_threads(1)
data = Path(sys.argv[1])
lines = ["model,force_delta,epsilon"]
for name in ("acac", "acac-direct", "mlearn"):
    frames = split(read_recipe(name), data)[1]
    if name != "mlearn":
        frames += read_labelled(data / "acac_train_600K.xyz")
    labels = evaluated(frames, ForceDeltaCalculator(name))
    for u, error in zip(labels.force_delta, labels.epsilon, strict=True):
        lines.append(f"{name},{u:.6f},{error:.6f}")
Path(__file__).with_name("pairs.csv").write_text("\n".join(lines) + "\n")
