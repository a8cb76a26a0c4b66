"""Direct-force models of orb-models. This package imports nothing, so that listing names is fast."""
