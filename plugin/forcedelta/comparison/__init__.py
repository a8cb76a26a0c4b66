"""Several models on the same structures: how well U ranks their errors, and what else ranks them.

>>> import forcedelta
>>> found = forcedelta.compare("labelled.xyz", ["acac", "acac-direct"], "comparison")
>>> [(model.name, model.force_delta, model.epsilon) for model in found.models]
[('acac', 0.21, 0.22), ('acac-direct', 0.35, 0.28)]
"""
