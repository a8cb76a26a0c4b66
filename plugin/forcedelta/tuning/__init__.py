"""Consistency tuning: the energy of a model learns, without labels, to agree with its direct forces."""
