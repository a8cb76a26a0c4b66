"""Training of the embedded models, from recipes.

``python -m forcedelta.training train RECIPE --out FILE --data FOLDER`` trains a network, ``held-out``
writes its held-out frames, and ``quality`` measures its errors. `tasks` holds the same as functions.
"""
