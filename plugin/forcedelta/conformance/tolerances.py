"""How close is close enough: all tolerances of the conformance suite."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of one model; override with ``dataclasses.replace`` or by keyword.

    Those of forces are in units of the largest force component or of 1 eV/Å, whichever is more;
    those of energies, with the same number, in eV per atom.

    Attributes:
        derivative: relative error of F_c against differences of the energy, in float64.
        stress: relative error of the stress against differences of the energy.
        slope: relative error of the gradient of U against differences of U, in float64.
        same: tolerance of two ways to the same result in float64: batch, permutation, translation,
            wrapping, repetition.
        rotation: tolerance of rotations; None for models that are not equivariant, whose
            error is then recorded and not bounded.
        frame: tolerance over random local frames, where the model has a ``frame_seed``.
        jump: eV, of the energy where a neighbour comes or goes; None for models that see the k
            nearest neighbours only, whose jumps are then recorded and not bounded.
        precision: tolerance of float32 against float64.
        library: tolerance of a difference to the library's own calculator.
    """

    derivative: float = 1e-6
    stress: float = 1e-6
    slope: float = 1e-3
    same: float = 1e-9
    rotation: float | None = 1e-8
    frame: float = 1e-2
    jump: float | None = 1e-7
    precision: float = 1e-3
    library: float = 1e-5
