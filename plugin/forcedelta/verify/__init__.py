"""Measurements on a model: are its forces correct, and what do they cost?

Start reading at `check`, the function behind ``forcedelta check``: it runs the measurements of
`inspection` in order; each gives a `Finding`, and the worst decides the verdict.

Measurements, numbers with units:

- `derivatives`: F_c = -dE/dr and stress = dE/d(strain)/V against finite differences, with
  `resolution`, the smallest energy step of the model.
- `agreement`: translation, rotation, permutation, batch, precision, the library's calculator.
- `heads`: direct against conservative forces, by element, scale and axes.
- `jumps`: jumps of the energy where neighbours change.
- `rigid`: net force and torque.
- `counting`, `cost`: passes and time of one evaluation.
- `torch_state`: process-wide settings that a model changes.

Judgements: `findings` holds all limits; `judge_forces`, `judge_heads` and `judge_behaviour` apply
them. `probe` evaluates the model for all of them. `forcedelta.conformance` tests the same
measurements with pytest.
"""
