"""Molecular dynamics with direct-force models, watched by the Force Delta."""

from typing import TYPE_CHECKING, Any

from forcedelta.errors import ForceDeltaError
from forcedelta.versions import __version__

if TYPE_CHECKING:
    from forcedelta.force_delta import ForceDelta, epsilon
    from forcedelta.models import LoadedModel, load_model

__all__ = ["ForceDelta", "ForceDeltaError", "LoadedModel", "__version__", "epsilon", "load_model"]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: `forcedelta --help` and readers of recorded files do without
    if name in ("ForceDelta", "epsilon"):
        from forcedelta import force_delta

        return getattr(force_delta, name)
    if name in ("LoadedModel", "load_model"):
        from forcedelta import models

        return getattr(models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
