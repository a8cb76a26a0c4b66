"""Number of forward and backward passes of a model per evaluation."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ase import Atoms
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from forcedelta.verify.probe import Probe

MOST = 0.5
"""A part with this share of the parameters is the network, whatever it is called."""


@dataclass(frozen=True)
class Count:
    """Passes of one evaluation of U.

    Attributes:
        forwards: calls of the module.
        backwards: gradients that arrive at its energy.
        repeated: names of parts with most of the parameters that were called more than once, as
            an adapter does that asks its network first for energies and then for forces.
    """

    forwards: int
    backwards: int
    repeated: tuple[str, ...]


def count_passes(probe: Probe, atoms: Atoms) -> Count:
    """Counts the passes of one evaluation, by a hook on all modules and one on the energy.

    What Python calls is seen, TorchScript included; a part that TorchScript itself calls is not.
    """
    module = probe.model.module
    graph = probe.graph(atoms)
    calls: Counter[str] = Counter()

    def size(part: nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters())

    large = {
        id(part): name for name, part in module.named_modules() if size(part) > MOST * size(module)
    }

    def arrived(gradient: Tensor) -> None:
        calls["backward"] += 1

    def called(part: nn.Module, arguments: Any, output: Any) -> None:
        if part is module:
            calls["forward"] += 1
            if output[0].requires_grad:
                output[0].register_hook(arrived)
        elif id(part) in large:
            calls[f"part {large[id(part)]}"] += 1

    # of all modules, as those of TorchScript take no hooks of their own
    handle = register_module_forward_hook(called)
    try:
        probe.evaluate_graph(graph)
    finally:
        handle.remove()
    repeated = tuple(n.removeprefix("part ") for n, k in calls.items() if n[0] == "p" and k > 1)
    return Count(calls["forward"], calls["backward"], repeated)
