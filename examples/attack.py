"""
Attack a model
==============

``attack`` looks for low-energy structures at which ``acac-direct`` disagrees with itself; ``acac``, whose gradient was
trained, is then asked about the same structures.
"""

from pathlib import Path

from forcedelta import attack, audit
from md_hooks import Trajectory

STRUCTURE = Path(__file__).parent / "acetylacetone.xyz"


def main() -> None:
    found = attack(STRUCTURE, "acac-direct", "attack.h5", starts=4, steps=15, picks=6, seed=1)
    print(found.line)
    for path in found.paths:
        print(
            f"path {path.path}: U from {path.first:.3f} to {path.highest:.3f} eV/Å; {path.reason}"
        )

    # the same structures with a model whose energy was trained on forces, too
    [other] = audit("attack.h5", "acac", "other.h5")
    print(other.line)
    attacked, asked = Trajectory("attack.h5").series, Trajectory("other.h5").series
    moved = attacked["move"] > 0
    print(
        f"mean U of the structures: acac-direct {attacked['force_delta'][moved].mean():.3f}, "
        f"acac {asked['force_delta'][moved].mean():.3f} eV/Å"
    )


if __name__ == "__main__":
    main()
