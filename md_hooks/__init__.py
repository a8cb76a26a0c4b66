"""Hooks on the frames of a molecular dynamics run: record, guard, flag, report progress.

The package handles frames, not models: an engine makes a `Frame` of each step and hands it to the
hooks through a `HookChain`. `run` and `attach` do this for ASE; `Guard`, `DriftGuard`, `Recorder`,
`FlagStore` and `Progress` are ready to use. A hook of your own subclasses `Hook`, or is a function of
a frame:

>>> import ase.io
>>> from ase import units
>>> from ase.md.verlet import VelocityVerlet
>>> from forcedelta import ForceDeltaCalculator
>>> from md_hooks import Action, Guard, Progress, Recorder, run
>>> def hot(frame):  # flags frames above 1000 K
...     return Action.FLAG if frame.temperature > 1000 else None
>>> atoms = ase.io.read("molecule.xyz")
>>> atoms.calc = ForceDeltaCalculator("acac")
>>> dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
>>> hooks = [Guard(stop_above=1.0), hot, Recorder("nve.h5"), Progress()]
>>> run(dynamics, 20, hooks).reason
'finished'
"""

import logging
from typing import TYPE_CHECKING, Any

from .ase_md import Attachment, attach, run
from .ase_state import restore
from .chain import HookChain
from .drift import Drift, drift_of
from .drift_guard import DriftGuard
from .environment import Environment
from .errors import HookError, RunStoppedError
from .flags import FlagStore
from .frame import Frame
from .freezing import frozen
from .guard import Guard
from .h5md.checkpoint import Checkpoint, load_checkpoint
from .h5md.recorded_legs import Leg
from .h5md.remark import Remark
from .h5md.trajectory import Trajectory
from .hook import Hook
from .legs import LegEnd
from .progress import Progress
from .recorder import Recorder
from .run_info import RunInfo, RunResult
from .verdict import Action, Verdict

if TYPE_CHECKING:
    from .recalculation import RecalculationQueue

__all__ = [
    "Action",
    "Attachment",
    "Checkpoint",
    "Drift",
    "DriftGuard",
    "Environment",
    "FlagStore",
    "Frame",
    "Guard",
    "Hook",
    "HookChain",
    "HookError",
    "Leg",
    "LegEnd",
    "Progress",
    "RecalculationQueue",
    "Recorder",
    "Remark",
    "RunInfo",
    "RunResult",
    "RunStoppedError",
    "Trajectory",
    "Verdict",
    "attach",
    "drift_of",
    "frozen",
    "load_checkpoint",
    "restore",
    "run",
]

# without it Python would print warnings of a program that has not configured logging
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # RecalculationQueue needs ase.io, which imports this package to register a file reader
    if name == "RecalculationQueue":
        from .recalculation import RecalculationQueue

        return RecalculationQueue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
