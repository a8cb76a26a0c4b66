"""The guarded run: structure, model, ensemble and hooks combined."""
