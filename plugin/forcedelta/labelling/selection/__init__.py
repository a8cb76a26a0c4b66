"""Selection of frames that are worth a reference calculation."""

from forcedelta.labelling.selection.band import Band, choose_band
from forcedelta.labelling.selection.candidates import Source, open_source
from forcedelta.labelling.selection.choice import Selection, select

__all__ = ["Band", "Selection", "Source", "choose_band", "open_source", "select"]
