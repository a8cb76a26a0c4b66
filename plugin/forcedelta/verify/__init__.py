"""Measurements on a model: whether its forces are what they are said to be, and what they cost.

One module for each kind of question, each of its functions a number with a unit:

- `derivatives`: is F_c = -dE/dr, and the stress dE/d(strain)/V?
- `agreement`: what happens when a structure is moved, turned, reordered, repeated, batched,
  evaluated in another precision or by the library's own calculator?
- `torch_state`: does the model change settings of the process?

`forcedelta check` reports them for a structure, `forcedelta.conformance` tests them.
"""
