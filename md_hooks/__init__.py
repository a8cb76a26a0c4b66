"""Hooks on the frames of a molecular dynamics run: record, guard, flag, report progress.

The package depends on frames, not on models: engines make a `Frame` of each step and pass it to the
hooks through a `HookChain`. `run` and `attach` do that for ASE.
"""

from typing import TYPE_CHECKING, Any

from .ase_md import Attachment, attach, run
from .ase_state import restore
from .chain import HookChain
from .errors import HookError, RunStoppedError
from .flags import FlagStore
from .frame import Frame
from .guard import Guard
from .h5md.checkpoint import Checkpoint, load_checkpoint
from .h5md.remark import Remark
from .h5md.trajectory import Trajectory
from .hook import Hook
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
    "FlagStore",
    "Frame",
    "Guard",
    "Hook",
    "HookChain",
    "HookError",
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
    "load_checkpoint",
    "restore",
    "run",
]


def __getattr__(name: str) -> Any:
    # RecalculationQueue needs ase.io, which imports this package to register a file reader
    if name == "RecalculationQueue":
        from .recalculation import RecalculationQueue

        return RecalculationQueue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
