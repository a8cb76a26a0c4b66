"""Reference calculations of frames: jobs, their journal, the labelled file, and a live queue.

Knows frames and ASE calculators, no models. `forcedelta.labelling` has ready-made references.
"""

from .campaign import Campaign, recalculate
from .job import Failure, Job, Label, run_job, stop_running
from .journal import Journal, key_of
from .labelled import candidate, labelled
from .queue import RecalculationQueue
from .reference import CalculatorReference, Reference, results_of

__all__ = [
    "CalculatorReference",
    "Campaign",
    "Failure",
    "Job",
    "Journal",
    "Label",
    "RecalculationQueue",
    "Reference",
    "candidate",
    "key_of",
    "labelled",
    "recalculate",
    "results_of",
    "run_job",
    "stop_running",
]
