"""A loaded model: its module, its limits and its origin."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ase.data import chemical_symbols
from torch import nn


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be wrapped in ForceDelta, with the structures that it supports.

    Attributes:
        module: the model; its call is described in ``ForceDelta``.
        name: by which it was requested.
        weights_hash: the same for the same weights, recorded with every run.
        elements: supported atomic numbers; None if unknown.
        cutoff: Å.
        periodic: True: only structures that are periodic in three directions; False: only
            molecules; None: any.
        library: name and version of the package whose model it is.
        metadata: further entries (training set, level of theory, test errors, ...).
        stress: whether the energy is connected to the cell in the autograd graph.
        script: makes a form of the module that ``torch.jit.script`` accepts, with the same
            arguments, which returns energy and direct forces only; None: the module is one itself.
        calculator: makes the ASE calculator of the model's own library with the same weights, to
            compare with; None where there is none.
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
        """Whether the module takes a total charge and a spin multiplicity (`forcedelta.ForceDelta`)."""
        return bool(getattr(self.module, "takes_charge_spin", False))

    @property
    def symbols(self) -> list[str]:
        """Element symbols by atomic number; empty if unknown."""
        return [chemical_symbols[number] for number in sorted(self.elements or ())]
