"""Models by name or file: embedded ones and those of other libraries and packages."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forcedelta.models.ase_pair import from_calculators
    from forcedelta.models.loaded import LoadedModel
    from forcedelta.models.registry import load_model, model_names

__all__ = ["LoadedModel", "from_calculators", "load_model", "model_names"]


def __getattr__(name: str) -> Any:
    # importing torch takes a second, and the catalogue of names does not need it
    if name in __all__:
        module = "ase_pair" if name == "from_calculators" else "registry"
        return getattr(importlib.import_module(f"forcedelta.models.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
