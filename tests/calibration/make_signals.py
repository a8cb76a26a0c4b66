"""Makes signals.csv: what embedded models predict on frames that they were not trained on, and the
true errors.

    python tests/calibration/make_signals.py DATA

where DATA is the folder of the labelled files, as for make_pairs.py; every fourth frame of
acetylacetone is kept. "displaced" are frames of acetylacetone, the last 12 of them with atoms displaced by
0.02 to 0.3 Å, predicted by acac-direct and labelled with the gradient of acac. Energies in eV per atom,
everything else in eV/Å.
"""

import sys
from pathlib import Path

import torch

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.calibration.labels import evaluated
from forcedelta.training.data import read_labelled
from forcedelta.training.recipe import read_recipe
from forcedelta.training.tasks import split

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from predicted_error import with_displaced

NAMES = ("force_delta", "worst_atom", "energy_per_atom", "force_rms", "rigid_force")

torch.set_num_threads(1)
data = Path(sys.argv[1])
lines = [",".join(["model", "composition", *NAMES, "epsilon"])]


def add(name, labels):
    columns = [labels.signals.columns[key] for key in NAMES]
    rows = zip(labels.signals.compositions, *columns, labels.epsilon, strict=True)
    lines.extend(",".join([name, kind, *(f"{x:.6f}" for x in numbers)]) for kind, *numbers in rows)


for name in ("acac", "acac-direct", "mlearn"):
    frames = split(read_recipe(name), data)[1]
    if name != "mlearn":
        frames = (frames + read_labelled(data / "acac_train_600K.xyz"))[::4]
    calculator = ForceDeltaCalculator(name)
    add(name, evaluated(frames, calculator))
    if name == "acac-direct":
        reference = ForceDeltaCalculator("acac", forces="conservative")
        add("displaced", with_displaced(frames, calculator, reference, count=12))
Path(__file__).with_name("signals.csv").write_text("\n".join(lines) + "\n")
