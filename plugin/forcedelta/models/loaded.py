"""A loaded model with its description."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ase.data import chemical_symbols
from torch import nn


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready to be wrapped in ForceDelta, and its domain.

    Attributes:
        module: the model; its call is described in ``ForceDelta``.
        name: the name that was requested.
        weights_hash: hash of the weights, recorded with every run.
        elements: supported atomic numbers; None if unknown.
        cutoff: Å.
        periodic: True: only structures that are periodic in three directions; False: only
            molecules; None: any.
        library: name and version of the model's package.
        metadata: further information (training set, level of theory, test errors, ...).
        stress: whether the energy is connected to the cell in the autograd graph.
        script: makes a module for ``torch.jit.script`` with the same arguments that returns only
            energy and direct forces; None: `module` is one.
        calculator: makes the ASE calculator of the model's library with the same weights, for
            comparison; None if the library has none.
    """

    module: nn.Module
    name: str
    weights_hash: str
    elements: frozenset[int] | None
    cutoff: float
    periodic: bool | None
    library: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stress: bool = True
    script: Callable[[], nn.Module] | None = None
    calculator: Callable[[], Any] | None = None

    @property
    def takes_charge_spin(self) -> bool:
        """Whether the module takes a total charge and a spin multiplicity (`ForceDelta`)."""
        return bool(getattr(self.module, "takes_charge_spin", False))

    @property
    def symbols(self) -> list[str]:
        """Element symbols by atomic number; empty if unknown."""
        return [chemical_symbols[number] for number in sorted(self.elements or ())]
