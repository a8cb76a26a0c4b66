"""
The loop for silicon, with GPAW
===============================

Silicon: a small cell heated from 300 K, doubtful frames to GPAW, a threshold, and a run with it.

    python loop_silicon.py --held-out FILE.xyz

``mlearn`` was trained on PBE (VASP, PAW); GPAW's PBE is the same level by another program. Eight
atoms are small enough for a label to take half a minute on one core; spins are left out, since
this silicon has no surface. Labelled frames on which the model
was not trained (--held-out) make up for the few labels of the run.

    python loop_silicon.py --tiny

has the cell of two atoms and three labels.
"""

# ci: run with --tiny
# ci: needs gpaw

import argparse

from ase.build import bulk
from loop import Loop

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tiny", action="store_true", help="two atoms, three labels")
parser.add_argument("--held-out", nargs="*", default=[], help="labelled files, PBE")
parser.add_argument("--calculator", default="gpaw", help="gpaw or cp2k")
arguments = parser.parse_args()

bulk("Si", cubic=not arguments.tiny).write("silicon.xyz")
if arguments.tiny:
    loop = Loop(
        "silicon.xyz",
        model="mlearn",
        dynamics={"temperature": 300.0, "ramp_to": 900.0, "steps": 200, "burn_in": 50,
                  "record_every": 2, "seed": 1},
        flag_above=0.001,
        calculator=arguments.calculator,
        labelling={"spacing": 10.0, "settings": {"kpt_density": 2}},
        labels=3,
        tolerance=0.1,
        risks=[0.05],
    )  # fmt: skip
else:
    loop = Loop(
        "silicon.xyz",
        model="mlearn",
        dynamics={"temperature": 300.0, "ramp_to": 3000.0, "steps": 4000, "timestep": 1.0,
                  "record_every": 5, "seed": 1},
        flag_above=0.05,
        calculator=arguments.calculator,
        labelling={"settings": {"kpt_density": 2.5, "spin_polarised": False}},
        labels=24,
        tolerance=0.1,
        risks=[0.05, 0.4],
        held_out=arguments.held_out,
    )  # fmt: skip
loop.make()
