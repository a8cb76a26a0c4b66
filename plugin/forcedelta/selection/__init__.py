"""Selection of frames that are worth a reference calculation."""

from forcedelta.selection.band import Band, choose_band
from forcedelta.selection.choice import Selection, select
from forcedelta.selection.source import Source, open_source

__all__ = ["Band", "Selection", "Source", "choose_band", "open_source", "select"]
