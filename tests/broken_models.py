"""Models with one thing wrong with each, and the conformance suite on them.

Not collected by itself: `test_conformance.py` runs it and looks at what fails.
"""

import warnings
from dataclasses import replace
from typing import Any

import torch
from ase import Atoms
from systems import CUTOFF, small_network
from torch import Tensor, nn

from forcedelta import ForceDelta, LoadedModel, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.conformance import Conformance, molecule, small_cell


class Sound(nn.Module):
    """A small network with random weights, taken as it is."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = small_network(dtype, tensors=0).eval().requires_grad_(False)
        self.cutoff = CUTOFF
        self.element_index = self.network.element_index
        self.eval()

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(*graph)


class DetachedPart(Sound):
    """Right energies, but a share of their gradient is cut off."""

    share = 0.1

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        return (1 - self.share) * energy + self.share * energy.detach(), direct


class DetachedCell(Sound):
    """Right forces, but the stress lacks what comes through the cell."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(*graph[:2], graph[2].detach(), *graph[3:])


class WrongSign(Sound):
    """Direct forces against those of the library."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        return energy, -direct


class Oriented(Sound):
    """Direct forces along x are larger."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        return energy, direct * direct.new_tensor([1.5, 1.0, 1.0])


class Anchored(Sound):
    """A field outside: the energy depends on where the structure is."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        field = 1e-3 * graph[0].square().sum(1)
        return energy.index_add(0, graph[5], field.to(energy.dtype)), direct


class Ordered(Sound):
    """The first atom of a structure is special."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        first = torch.ones_like(direct)
        first[0] = 1.1
        return energy, direct * first


class Noisy(Sound):
    """Random numbers of the process in every evaluation."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        return energy + 1e-4 * torch.randn_like(energy), direct


class Remembering(Sound):
    """The result depends on the structure before."""

    last: Tensor | None = None

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        offset = 0.0 if self.last is None else 1e-6 * self.last
        self.last = energy.detach().mean()
        return energy + offset, direct


class Nearest(Sound):
    """Sees the four nearest neighbours of each atom, and says so."""

    count = 4

    def select(
        self, positions: Tensor, cell: Tensor, index: Tensor, shift: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        offset = torch.bmm(shift[:, None], cell[batch[index[0]]])[:, 0]
        length = (positions[index[1]] - positions[index[0]] + offset).norm(dim=1)
        order = torch.argsort(length, stable=True)
        order = order[torch.argsort(index[0][order], stable=True)]
        counts = torch.bincount(index[0], minlength=len(positions))
        rank = torch.arange(len(order)) - (torch.cumsum(counts, 0) - counts)[index[0][order]]
        keep = torch.sort(order[rank < self.count]).values
        return index[:, keep], shift[keep]

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        index, shift = Nearest.select(self, graph[0].detach(), graph[2].detach(), *graph[3:])
        return self.network(*graph[:3], index, shift, graph[5])


class SecretlyNearest(Nearest):
    """The same without saying so."""

    select = None  # type: ignore[assignment]


class Trainable(Sound):
    """Parameters that ask for gradients, in training mode."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.requires_grad_(True)
        self.train()


class Meddling(Sound):
    """Changes settings of the process when it is loaded and when it is called."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        torch.randn(1)
        return self.network(*graph)


class Twice(Sound):
    """Asks its network once for the energy and once for the forces."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(*graph)[0], self.network(*graph)[1]


class TwiceScripted(Twice):
    """The same with a network of TorchScript, which takes no hooks."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            self.network = torch.jit.script(self.network)


class Averaging(Sound):
    """Structures of a batch see each other."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        return energy, direct - direct.mean(0)


class Rounding(Sound):
    """Computes in float32 whatever it was asked for."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(torch.float32)
        self.marker = nn.Buffer(torch.zeros((), dtype=dtype))

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        single = [t.float() if t.is_floating_point() else t for t in graph]
        energy, direct = self.network(*single)
        return energy, direct.to(graph[0].dtype)


class Writing(Sound):
    """Moves the atoms that it was given."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        graph[4].data += 0.0
        graph[0].data += 1e-3
        return self.network(*graph)


class Silent(Sound):
    """NaN for an atom without neighbours."""

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        energy, direct = self.network(*graph)
        count = torch.bincount(graph[3][0], minlength=len(direct))
        return energy, direct * (count / count)[:, None]


def loaded(kind: type[Sound], dtype: torch.dtype, periodic: bool | None = None) -> LoadedModel:
    model = load_model(ForceDelta(Sound(dtype)), dtype)
    return replace(model, module=kind(dtype), name=kind.__name__, periodic=periodic)


class Suite(Conformance):
    """The suite on a small network, with the sound one as the calculator of the library."""

    kind: type[Sound] = Sound
    periodic: bool | None = None
    directions = 6
    __test__ = False

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return loaded(self.kind, dtype, self.periodic)

    def calculator(self, model: LoadedModel) -> Any:
        dtype = next(dtype for dtype, probe in self._probes.items() if probe.model is model)
        name = str(dtype).removeprefix("torch.")
        return ForceDeltaCalculator(loaded(Sound, dtype), dtype=name)  # type: ignore[arg-type]


CRYSTAL_KINDS = (DetachedPart, DetachedCell, WrongSign, Oriented, Anchored, Trainable, Meddling,
                 Twice, TwiceScripted, Writing, Rounding)  # fmt: skip
MOLECULE_KINDS = (Ordered, Noisy, Remembering, Nearest, SecretlyNearest, Averaging, Silent)


def _test_class(kind: type[Sound], periodic: bool | None, *structures: Atoms) -> None:
    name = f"Test{kind.__name__}"
    facts = {"kind": kind, "periodic": periodic, "structures": structures, "__test__": True}
    globals()[name] = type(name, (Suite,), facts)


_test_class(Sound, None, molecule(), small_cell())
for _kind in CRYSTAL_KINDS:
    _test_class(_kind, True, small_cell())
for _kind in MOLECULE_KINDS:
    _test_class(_kind, False, molecule())
