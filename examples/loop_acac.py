"""
The loop for acetylacetone, with PySCF
======================================

Acetylacetone: heated from 300 K, doubtful frames to PySCF, a threshold, and a run with it.

    python loop_acac.py --held-out acac_train_600K.xyz

``acac`` was trained on PBE-D3(BJ)/def2-SVP, so PySCF's labels measure its error. A label takes
half a minute to a minute on one core. Labelled frames of the same level (--held-out, not part of
this package: BOTNet-datasets, Batatia et al. 2022) make up for the few labels of the run.

    python loop_acac.py --tiny

has xTB in place of PySCF and takes seconds per label: the same steps, but the error is then mostly the
difference of two levels of theory.
"""

# ci: run with --tiny

import argparse
from pathlib import Path

from loop import Loop

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tiny", action="store_true", help="xTB labels of a short run")
parser.add_argument("--held-out", nargs="*", default=[], help="labelled files of the same level")
arguments = parser.parse_args()

structure = str(Path(__file__).with_name("acetylacetone.xyz"))
if arguments.tiny:
    loop = Loop(
        structure,
        model="acac",
        dynamics={"temperature": 300.0, "ramp_to": 600.0, "steps": 600, "burn_in": 100,
                  "record_every": 2, "seed": 1},
        flag_above=0.01,
        calculator="tblite",
        labelling={"spacing": 10.0},
        labels=15,
        tolerance=0.45,
        risks=[0.05, 0.3],
    )  # fmt: skip
else:
    loop = Loop(
        structure,
        model="acac",
        dynamics={
            "temperature": 300.0,
            "ramp_to": 2000.0,
            "steps": 8000,
            "record_every": 5,
            "seed": 1,
        },
        flag_above=0.05,
        calculator="pyscf",
        labelling={"settings": {"xc": "pbe", "basis": "def2-svp"}},
        labels=12,
        tolerance=0.1,
        risks=[0.05, 0.2],
        held_out=arguments.held_out,
    )
loop.make()
