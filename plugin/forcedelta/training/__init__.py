"""Training of the embedded models, from recipes.

``python -m forcedelta.training train RECIPE --out FILE --data FOLDER`` trains a network, ``held-out``
writes the labelled frames that it has not seen, and ``quality`` measures it; `tasks` holds the same as
functions.
"""
