"""Training of the embedded models, from recipes.

``python -m forcedelta.training train RECIPE --out FILE --data FOLDER`` trains a network, ``held-out``
writes the labelled frames kept out of training, and ``quality`` measures models on labels; `tasks`
provides the same as functions.
"""
