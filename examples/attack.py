"""
Attack a model
==============

``attack`` looks for low-energy structures at which ``acac-direct`` disagrees with itself; ``acac``, whose gradient was
trained, is then asked about the same structures.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from forcedelta import attack, audit
from md_hooks import Trajectory

STRUCTURE = Path(__file__).parent / "acetylacetone.xyz"

found = attack(
    STRUCTURE, "acac-direct", "attack.h5", starts=4, steps=15, picks=6, seed=1, mode="overwrite"
)
print(found.line)
for path in found.paths:
    print(f"path {path.path}: U from {path.first:.3f} to {path.highest:.3f} eV/Å; {path.reason}")

# %%
# The same structures with a model whose energy was trained on forces, too:

[other] = audit("attack.h5", "acac", "other.h5", mode="overwrite")
print(other.line)
attacked, asked = Trajectory("attack.h5").series, Trajectory("other.h5").series
moved = attacked["move"] > 0
print(
    f"mean U of the structures: acac-direct {attacked['force_delta'][moved].mean():.3f}, "
    f"acac {asked['force_delta'][moved].mean():.3f} eV/Å"
)

# %%
# Each path climbs U of the attacked model (left). The other one finds most of these structures harmless (right).

figure, panels = plt.subplots(1, 2, sharey=True, figsize=(8, 3.5), layout="constrained")
for panel, series, name in zip(panels, (attacked, asked), ("acac-direct", "acac"), strict=True):
    for path in np.unique(attacked["path"]):
        here = attacked["path"] == path
        panel.plot(attacked["move"][here], series["force_delta"][here], label=f"path {path:.0f}")
    panel.set(title=name, xlabel="move")
panels[0].set(ylabel="U (eV/Å)")
panels[0].legend()
figure.savefig("attack.png")
