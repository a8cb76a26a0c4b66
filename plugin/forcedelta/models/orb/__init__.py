"""Direct-force models of orb-models; this package imports nothing, so that names can be listed."""
