"""The model passes the conformance suite of forcedelta."""

import torch

from forcedelta.conformance import Conformance, crystal, molecule, small_cell
from forcedelta.models import LoadedModel, load_model


class TestExampleBonds(Conformance):
    """Molecules, a crystal, and a cell shorter than the cutoff: all that the model supports."""

    structures = (molecule("H2O"), crystal("H", "fcc", 2.4), small_cell("H", 1.9))

    def load(self, dtype: torch.dtype) -> LoadedModel:
        """By the name of the entry point, as a user loads it."""
        return load_model("example-bonds", dtype)
