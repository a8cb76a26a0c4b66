"""Guarded runs: structure, model, ensemble and hooks put together."""
