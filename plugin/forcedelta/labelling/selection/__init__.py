"""Selection of frames that are worth a reference calculation."""

from forcedelta.labelling.selection.band import Band, choose_band
from forcedelta.labelling.selection.candidates import Candidates, open_candidates
from forcedelta.labelling.selection.choice import By, Selection, select

__all__ = ["Band", "By", "Candidates", "Selection", "choose_band", "open_candidates", "select"]
