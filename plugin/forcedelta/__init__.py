"""Molecular dynamics with direct-force models, guarded by the Force Delta.

Everything below comes from ``import forcedelta`` or ``from forcedelta import ...``, and is loaded when it is
used:

- Runs: `guarded_run`, `audit`, `attack`, `compare`, `screen`, `label`, `calibrate` (with `calibrate_error` and
  `suggest`), `tune`, `check`, `export`: the commands as functions.
- ASE: `ForceDeltaCalculator`; `run` and `attach` for any dynamics of ASE; ``ase.frozen`` keeps U in ASE's files.
- OpenMM: the package `openmm`, with ``add_force_delta``, ``run`` and ``ForceDeltaReporter``.
- Hooks (of `md_hooks`): `Guard`, `Recorder`, `FlagStore`, `Progress`, `RecalculationQueue`, and the base
  class `Hook`; `Trajectory` reads what a `Recorder` wrote.
- Files: `ReadingOptions` say what a file does not say itself.
- Models: `load_model`, `LoadedModel`, and the module `ForceDelta`; `epsilon` is the true error.
- Thresholds and predicted errors: `Calibration`, `read_calibration`; `PredictedErrorHook` adds a predicted
  error to the frames of any run, `read_predicted_error` reads it.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from forcedelta.errors import ForceDeltaError
from forcedelta.versions import __version__

if TYPE_CHECKING:
    from forcedelta import ase, audit, openmm
    from forcedelta.adversarial.attack import attack
    from forcedelta.ase import ForceDeltaCalculator
    from forcedelta.calibration.calibrate import calibrate
    from forcedelta.calibration.calibrate_error import calibrate_error
    from forcedelta.calibration.error_hook import PredictedErrorHook
    from forcedelta.calibration.predicted_error_file import read_predicted_error
    from forcedelta.calibration.result import Calibration, read_calibration
    from forcedelta.comparison.compare import compare
    from forcedelta.evaluation import Evaluation, Evaluator
    from forcedelta.force_delta import ForceDelta, epsilon
    from forcedelta.labelling.label_frames import label
    from forcedelta.labelling.selection.stratified import suggest
    from forcedelta.models import LoadedModel, load_model
    from forcedelta.openmm.export import export
    from forcedelta.reading_options import ReadingOptions
    from forcedelta.screening.many import screen
    from forcedelta.simulation.guarded import guarded_run
    from forcedelta.tuning.tune import tune
    from forcedelta.verify.check import check
    from md_hooks import (
        DriftGuard,
        FlagStore,
        Guard,
        Hook,
        HookError,
        Progress,
        RecalculationQueue,
        Recorder,
        RunStoppedError,
        Trajectory,
        attach,
        run,
    )

__all__ = [
    "Calibration",
    "DriftGuard",
    "Evaluation",
    "Evaluator",
    "FlagStore",
    "ForceDelta",
    "ForceDeltaCalculator",
    "ForceDeltaError",
    "Guard",
    "Hook",
    "HookError",
    "LoadedModel",
    "PredictedErrorHook",
    "Progress",
    "ReadingOptions",
    "RecalculationQueue",
    "Recorder",
    "RunStoppedError",
    "Trajectory",
    "__version__",
    "ase",
    "attach",
    "attack",
    "audit",
    "calibrate",
    "calibrate_error",
    "check",
    "compare",
    "epsilon",
    "export",
    "guarded_run",
    "label",
    "load_model",
    "openmm",
    "read_calibration",
    "read_predicted_error",
    "run",
    "screen",
    "suggest",
    "tune",
]

# without it Python would print warnings of a program that has not configured logging
logging.getLogger(__name__).addHandler(logging.NullHandler())

# torch takes a second to import: `forcedelta --help` and readers of recorded files do without
_HOMES = {
    "Calibration": "forcedelta.calibration.result",
    "Evaluation": "forcedelta.evaluation",
    "Evaluator": "forcedelta.evaluation",
    "ForceDelta": "forcedelta.force_delta",
    "ForceDeltaCalculator": "forcedelta.ase",
    "LoadedModel": "forcedelta.models",
    "PredictedErrorHook": "forcedelta.calibration.error_hook",
    "ReadingOptions": "forcedelta.reading_options",
    "attack": "forcedelta.adversarial.attack",
    "calibrate": "forcedelta.calibration.calibrate",
    "calibrate_error": "forcedelta.calibration.calibrate_error",
    "check": "forcedelta.verify.check",
    "compare": "forcedelta.comparison.compare",
    "epsilon": "forcedelta.force_delta",
    "export": "forcedelta.openmm.export",
    "guarded_run": "forcedelta.simulation.guarded",
    "label": "forcedelta.labelling.label_frames",
    "load_model": "forcedelta.models",
    "read_calibration": "forcedelta.calibration.result",
    "read_predicted_error": "forcedelta.calibration.predicted_error_file",
    "screen": "forcedelta.screening.many",
    "suggest": "forcedelta.labelling.selection.stratified",
    "tune": "forcedelta.tuning.tune",
}
_PACKAGES = ("ase", "audit", "openmm")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return import_module(f"forcedelta.{name}")
    if name in __all__:
        return getattr(import_module("md_hooks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
