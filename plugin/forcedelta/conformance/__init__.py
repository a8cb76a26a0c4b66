"""The conformance suite: tests that every model must pass.

A wrong F_c is silent and makes U meaningless. Model authors can subclass the suite in a test file,
with pytest installed::

    import torch
    from forcedelta import load_model
    from forcedelta.conformance import Conformance, Tolerances, crystal, molecule, small_cell

    class TestMyModel(Conformance):
        structures = (molecule("H2O"), crystal("Cu"), small_cell("Cu", 2.6))
        tolerances = Tolerances(rotation=None)  # not equivariant: recorded, not bounded

        def load(self, dtype):
            return load_model("my-model", dtype)

The default ``structures`` need H, C, O and Si. A model for molecules only, or for crystals only
(`LoadedModel.periodic`), omits the others. ``calculator(model)``
may return the library's own ASE calculator for the same weights; by default it is that of
``LoadedModel.calculator``. Measured numbers are recorded with each test (``pytest
--junitxml=report.xml``), including those without a tolerance.

Models with large networks need minutes in float64: ``directions = 6`` takes fewer finite
differences.
"""

import pytest

pytest.register_assert_rewrite(
    "forcedelta.conformance.base",
    "forcedelta.conformance.engines",
    "forcedelta.conformance.errors",
    "forcedelta.conformance.suite",
)

from forcedelta.conformance.structures import (  # noqa: E402
    crystal,
    molecule,
    small_cell,
    standard,
)
from forcedelta.conformance.suite import Conformance  # noqa: E402
from forcedelta.conformance.tolerances import Tolerances  # noqa: E402

__all__ = ["Conformance", "Tolerances", "crystal", "molecule", "small_cell", "standard"]
