"""Measurements on a model: whether its forces are the stated ones, and their cost.

Measurements return numbers with units:

- `derivatives`: F_c against -dE/dr, and the stress against dE/d(strain)/V.
- `resolution`: resolution of the energy.
- `agreement`: moved, rotated, reordered, repeated or batched structures, other precisions, and the
  library's own calculator.
- `heads`: direct against conservative forces, by element and axes.
- `rigid`: net force and torque.
- `jumps`: discontinuities, above all at changes of the neighbour list.
- `counting`, `cost`: passes of the model, and the cost of exact U.
- `torch_state`: settings of the process that the model changes.
- `probe`: evaluation of a loaded model, used by the measurements.

`findings` holds the limits; `judge_forces`, `judge_heads` and `judge_behaviour` turn numbers into
findings. `inspection` runs all measurements, and `check` is the function behind
`forcedelta check`. `forcedelta.conformance` tests the same numbers.
"""
