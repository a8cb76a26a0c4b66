"""Training of the embedded models: ``python -m forcedelta.training RECIPE.toml``."""
