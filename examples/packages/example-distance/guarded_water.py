"""A guarded run with the hook: ``guarded-water STRUCTURE MODEL STEPS``, again to continue it."""

import argparse
from pathlib import Path

from example_distance import Distance

from forcedelta import guarded_run


def main() -> None:
    """Run dynamics that stop when the first O-H bond stays longer than 1.1 Å."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structure")
    parser.add_argument("model")
    parser.add_argument("steps", type=int)
    arguments = parser.parse_args()
    result = guarded_run(
        arguments.structure,
        arguments.model,
        arguments.steps,
        temperature=1500,  # K
        seed=7,
        restart=Path("run.h5").exists(),
        hooks=[Distance(0, 1, longest=1.1)],
    )
    print(result.reason, result.run.step, result.run.message)


if __name__ == "__main__":
    main()
