"""Models by name: the embedded ones, those of other packages, and files."""

from forcedelta.models.registry import LoadedModel, load_model, model_names

__all__ = ["LoadedModel", "load_model", "model_names"]
