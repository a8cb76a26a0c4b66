"""Two families of small networks for acetylacetone, and one for silicon, that differ in seed and size.

    python benchmarks/paper_families.py DATA OUT

DATA is the folder with the labelled extended-XYZ files. Networks that OUT already has are kept, so that a run
can be continued. `acac-like` networks learn energy, direct forces and the gradient of the energy, `direct-like`
ones energy and direct forces only, as the published direct-force models.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from forcedelta.training.recipe import read_recipe
from forcedelta.training.tasks import train_recipe

SIZES = (
    {"features": 48, "channels": 12, "layers": 2},
    {"features": 64, "channels": 16, "layers": 2},
    {"features": 64, "channels": 16, "layers": 3},
    {"features": 80, "channels": 20, "layers": 2},
    {"features": 96, "channels": 24, "layers": 2},
)
FAMILIES = {"direct-like": ("acac-direct", 120), "acac-like": ("acac", 60)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for family, (shipped, epochs) in FAMILIES.items():
        recipe = read_recipe(shipped)
        for member, size in enumerate(SIZES, 1):
            name = f"{family}-{member}"
            file = given.out / f"{name}.safetensors"
            if file.exists():
                continue
            made = replace(
                recipe,
                network={"cutoff": recipe.network["cutoff"], **size},
                settings=replace(recipe.settings, epochs=epochs, seed=member),
                metadata={**recipe.metadata, "name": name},
            )
            result = train_recipe(made, given.data, file)
            print(
                f"{name}: {result.seconds / 60:.1f} min, held out {dict(result.held_out)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
