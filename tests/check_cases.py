"""Embedded models with one defect each, and the expected verdict.

Not collected by pytest: `test_check_verdicts.py` runs it. ``python tests/check_cases.py`` prints the
table of verdicts and of the first reason for each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import ase.io
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor, nn

from forcedelta import ForceDeltaError, LoadedModel, load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.verify.inspection import Inspection, Inspector

MOLECULE = ase.io.read(Path(__file__).parents[1] / "examples" / "acetylacetone.xyz")
CRYSTAL = bulk("Si", cubic=True)

Graph = tuple[Tensor, ...]
Change = Callable[["Changed", Graph], tuple[Tensor, Tensor]]

SOUND, CAVEATS, NOT_USABLE = "sound", "usable with caveats", "not usable"


class Changed(nn.Module):
    """A network whose energy and direct forces are modified by a function."""

    takes_charge_spin = False

    def __init__(self, network: nn.Module, change: Change) -> None:
        super().__init__()
        self.network = network
        self.cutoff = network.cutoff
        self.change = change
        self.last = 0.0
        self.eval()

    def forward(self, *graph: Tensor) -> tuple[Tensor, Tensor]:
        return self.change(self, graph)


class Charged(Changed):
    """Claims to accept charge and spin."""

    takes_charge_spin = True


@dataclass(frozen=True)
class Case:
    """A broken model.

    Attributes:
        name: the defect.
        verdict: expected verdict.
        change: introduces the defect into a sound model.
        word: part of the reasons; empty for sound models.
        crystal: on silicon with `mlearn` instead of acetylacetone with `acac`.
        quick: verdict of ``--quick`` if it is not the same.
        only_single: the model cannot be loaded in float64.
        kind: of module.
        library: whether the library's own calculator is the sound model.
    """

    name: str
    verdict: str
    change: Change
    word: str = ""
    crystal: bool = False
    quick: str = ""
    only_single: bool = False
    kind: type[Changed] = Changed
    library: bool = False

    def load(self, dtype: torch.dtype) -> LoadedModel:
        """The model in a precision."""
        if self.only_single and dtype == torch.float64:
            raise ForceDeltaError("this model runs in float32 only: choose it")
        name = "mlearn" if self.crystal else "acac"
        model = load_model(name, dtype)
        calculator = None
        if self.library:
            calculator = lambda: ForceDeltaCalculator(name, dtype="float64")  # noqa: E731
        return replace(model, module=self.kind(model.module, self.change), calculator=calculator)

    def inspect(self, quick: bool = False) -> Inspection:
        """All findings but the cost."""
        atoms: Atoms = (CRYSTAL if self.crystal else MOLECULE).copy()
        if self.kind is Charged:
            atoms.info.update(charge=0, spin=1)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # for models that draw random numbers
            inspector = Inspector(self.load, atoms, quick=quick)
            for step in inspector.steps:
                if step[0] != "cost" and not inspector.hopeless:
                    inspector.run(step)
        return inspector.result()


def direct(make: Callable[[Tensor, Graph], Tensor]) -> Change:
    """Other direct forces."""

    def change(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
        energy, forces = model.network(*graph)
        return energy, make(forces, graph)

    return change


def scaled(factor: float) -> Change:
    """Direct forces times a factor."""
    return direct(lambda f, g: factor * f)


def energy(make: Callable[[Tensor, Graph], Tensor]) -> Change:
    """Another energy."""

    def change(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
        value, forces = model.network(*graph)
        return make(value, graph), forces

    return change


def per_axis(*factors: float) -> Change:
    return direct(lambda f, g: f * f.new_tensor(factors))


def on_element(number: int, factor: float) -> Change:
    return direct(lambda f, g: torch.where((g[1] == number)[:, None], factor * f, f))


def sizes(graph: Graph) -> Tensor:
    """Atoms of each structure."""
    return torch.bincount(graph[5], minlength=len(graph[2])).to(graph[0].dtype)


def gradient_times(factor: float) -> Change:
    """Direct forces that are the conservative ones times a factor."""

    def change(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            positions = graph[0].detach().requires_grad_()
            value = model.network(positions, *graph[1:])[0].sum()
            (gradient,) = torch.autograd.grad(value, positions)
        return model.network(*graph)[0], -factor * gradient

    return change


def half_of_the_atoms_detached(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
    kept = torch.arange(len(graph[0])) % 2 == 0
    positions = torch.where(kept[:, None], graph[0], graph[0].detach())
    return model.network(positions, *graph[1:])


def long_pairs_detached(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
    """An energy of pairs of which only the short ones have a gradient."""
    value, forces = model.network(*graph)
    length = pairs(graph)
    seen = torch.where(length < 2.0, length, length.detach())
    extra = 0.05 * torch.exp(-seen).to(value.dtype)
    return value.index_add(0, graph[5][graph[3][0]], extra), forces


def pairs(graph: Graph) -> Tensor:
    """Lengths of all pairs, Å."""
    shift = torch.bmm(graph[4][:, None], graph[2][graph[5][graph[3][0]]])[:, 0]
    return (graph[0][graph[3][1]] - graph[0][graph[3][0]] + shift).norm(dim=1)


def step_at(length: float, height: float) -> Change:
    """Add a constant energy for each pair below a length."""

    def make(value: Tensor, graph: Graph) -> Tensor:
        below = (pairs(graph) < length).to(value.dtype)
        return value + height * torch.zeros_like(value).index_add(0, graph[5][graph[3][0]], below)

    return energy(make)


def straight_through(value: Tensor, graph: Graph) -> Tensor:
    """Rounded energy with the gradient of the unrounded one."""
    return value + (1e-3 * torch.round(1e3 * value) - value).detach()


def in_float32(offset: float) -> Change:
    """Rounds to float32 with an offset of each molecule, whose own energy is -9391 eV."""

    def change(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
        value, forces = model.network(*graph)
        molecules = sizes(graph).to(value.dtype) / len(MOLECULE)
        return (value + offset * molecules).float().to(graph[0].dtype), forces

    return change


def remembering(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
    value, forces = model.network(*graph)
    shift, model.last = 1e-2 * model.last, float(len(graph[0]))
    return value + shift, forces


def without_images(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
    inside = (graph[4] == 0).all(dim=1)
    return model.network(*graph[:3], graph[3][:, inside], graph[4][inside], graph[5])


def lonely_is_nan(forces: Tensor, graph: Graph) -> Tensor:
    count = torch.bincount(graph[3][0], minlength=len(forces))
    return forces * (count / count)[:, None]


def confused_elements(model: Changed, graph: Graph) -> tuple[Tensor, Tensor]:
    swapped = torch.where(graph[1] == 6, 8, torch.where(graph[1] == 8, 6, graph[1]))
    return model.network(graph[0], swapped, *graph[2:])


def anchored(value: Tensor, graph: Graph) -> Tensor:
    """A field outside."""
    return value.index_add(0, graph[5], 1e-3 * graph[0].square().sum(1).to(value.dtype))


def first_is_special(forces: Tensor, graph: Graph) -> Tensor:
    factor = torch.ones_like(forces)
    factor[0] = 1.5
    return factor * forces


def without_torque(forces: Tensor, graph: Graph) -> Tensor:
    """As Orb does it: the smallest change of forces that leaves none, of one structure."""
    if len(graph[2]) > 1:
        return forces
    arms = (graph[0] - graph[0].mean(0)).to(forces.dtype)
    torque = torch.linalg.cross(arms, forces).sum(0)
    inertia = arms.square().sum() * torch.eye(3, dtype=arms.dtype) - arms.T @ arms
    spin = torch.linalg.solve(inertia, torque)
    return forces - torch.linalg.cross(spin.expand_as(arms), arms)


CASES = (
    Case("nothing", SOUND, lambda m, g: m.network(*g)),
    Case("wrong sign of the direct forces", NOT_USABLE, scaled(-1.0), "wrong sign"),
    Case("wrong sign on O", NOT_USABLE, on_element(8, -1.0), "wrong sign"),
    Case("wrong sign on H", NOT_USABLE, on_element(1, -1.0), "wrong sign"),
    Case("half the direct forces on C", NOT_USABLE, on_element(6, 0.5), "on C times"),
    Case("no direct forces on C", NOT_USABLE, on_element(6, 0.0), "no direct forces on C"),
    Case("x and y swapped", NOT_USABLE, direct(lambda f, g: f[:, [1, 0, 2]]), "axes are wrong"),
    Case("axes rotated", NOT_USABLE, direct(lambda f, g: f[:, [1, 2, 0]]), "axes are wrong"),
    Case("z with the wrong sign", NOT_USABLE, per_axis(1, 1, -1), "axes are wrong"),
    Case("x 1.5 times too large", NOT_USABLE, per_axis(1.5, 1, 1), "not rotation invariant"),
    Case("direct forces in kcal/mol/Å", NOT_USABLE, scaled(23.06), "another unit"),
    Case("direct forces in Hartree/Bohr", NOT_USABLE, scaled(1 / 51.42), "another unit"),
    Case("direct forces halved", NOT_USABLE, scaled(0.5), "another unit or scale"),
    Case("direct forces times 1.01", SOUND, scaled(1.01)),
    Case("the gradient times 1.01", CAVEATS, gradient_times(1.01), "constant factor of 1.01"),
    Case("the gradient itself", NOT_USABLE, gradient_times(1.0), "no direct forces of its own"),
    Case("direct forces zero", NOT_USABLE, scaled(0.0), "zero beside the conservative"),
    Case("direct forces constant", NOT_USABLE, direct(lambda f, g: torch.ones_like(f)),
         "do not depend on where"),
    Case("direct forces random", NOT_USABLE, direct(lambda f, g: torch.randn_like(f)),
         "draws random numbers"),
    Case("direct forces in another order", NOT_USABLE, direct(lambda f, g: f.flip(0)),
         "order of the atoms"),
    Case("the first atom is special", NOT_USABLE, direct(first_is_special), "order of the atoms"),
    Case("a constant force on all atoms", CAVEATS, direct(lambda f, g: f + 0.1), "net force"),
    Case("noise in the energy", CAVEATS,
         energy(lambda e, g: e + 1e-4 * torch.randn_like(e)), "draws random numbers"),
    Case("energy rounded, gradient kept", CAVEATS, energy(straight_through), "unresolved"),
    Case("energy rounded, no gradient", NOT_USABLE,
         energy(lambda e, g: 1e-3 * torch.round(1e3 * e)), "not the gradient"),
    Case("a tenth of the energy detached", NOT_USABLE,
         energy(lambda e, g: 0.9 * e + 0.1 * e.detach()), "not the gradient"),
    Case("half of the atoms detached", NOT_USABLE, half_of_the_atoms_detached, "not the gradient"),
    Case("long pairs detached", NOT_USABLE, long_pairs_detached, "not the gradient"),
    Case("a jump where pairs come", CAVEATS, step_at(2.5, 5e-3), "energy jumps", quick=SOUND),
    Case("a field outside", NOT_USABLE, energy(anchored), "translation"),
    Case("energy over the root of N", NOT_USABLE,
         energy(lambda e, g: e * (15 / sizes(g)).sqrt()), "not extensive"),
    Case("mean energy instead of the sum", NOT_USABLE,
         energy(lambda e, g: 15 * e / sizes(g)), "not extensive"),
    Case("direct forces over the root of N", NOT_USABLE,
         direct(lambda f, g: f * (15 / sizes(g)).sqrt()[g[5]][:, None]), "whole system"),
    Case("net torque taken off", CAVEATS, direct(without_torque), "whole system"),
    Case("5 eV for each structure", CAVEATS, energy(lambda e, g: e + 5.0), "not extensive"),
    Case("5 eV for each atom", SOUND, energy(lambda e, g: e + 5.0 * sizes(g))),
    Case("structures of a batch are mixed", CAVEATS,
         direct(lambda f, g: f + 0.01 * (f - f.mean(0)).abs().mean()), "batch", quick=CAVEATS),
    Case("forces depend on the size of a batch", NOT_USABLE,
         direct(lambda f, g: f * (1 + 0.1 * (len(g[2]) - 1))), "batch"),
    Case("sums in float32 to -9391 eV", CAVEATS, in_float32(0.0), "unresolved"),
    Case("the same, in float32 only", CAVEATS, in_float32(0.0), "unresolved", only_single=True),
    Case("sums in float32 without isolated atoms", SOUND, in_float32(9391.0)),
    Case("remembers the structure before", CAVEATS, remembering, "remembers"),
    Case("NaN for an atom without neighbours", CAVEATS, direct(lonely_is_nan), "no neighbour"),
    Case("NaN for all", NOT_USABLE, energy(lambda e, g: e * float("nan")), "not finite"),
    Case("charge ignored", CAVEATS, lambda m, g: m.network(*g[:6]), "charge and spin change nothing",
         kind=Charged),
    Case("C and O confused, library known", NOT_USABLE, confused_elements, "library's own",
         library=True),
    Case("library known", SOUND, lambda m, g: m.network(*g), library=True),
    Case("random numbers of the process drawn", CAVEATS,
         energy(lambda e, g: e + 0.0 * torch.randn(1).to(e.dtype)), "changes random numbers"),
    Case("network called twice", CAVEATS, lambda m, g: (m.network(*g)[0], m.network(*g)[1]),
         "more often"),
    Case("nothing, crystal", SOUND, lambda m, g: m.network(*g), crystal=True),
    Case("cell ignored", NOT_USABLE, lambda m, g: m.network(*g[:4], 0.0 * g[4], g[5]),
         "periodic images", crystal=True),
    Case("no periodic images", NOT_USABLE, without_images, "periodic images", crystal=True),
    Case("shift of images with the wrong sign", NOT_USABLE,
         lambda m, g: m.network(*g[:4], -g[4], g[5]), "periodic images", crystal=True),
    Case("no stress through the cell", CAVEATS,
         lambda m, g: m.network(*g[:2], g[2].detach(), *g[3:]), "stress is not", crystal=True),
    Case("energy over the root of N, crystal", NOT_USABLE,
         energy(lambda e, g: e * (8 / sizes(g)).sqrt()), "not extensive", crystal=True),
    Case("wrong sign, crystal", NOT_USABLE, scaled(-1.0), "wrong sign", crystal=True),
)  # fmt: skip


def table(quick: bool = False) -> list[tuple[str, str, str, str]]:
    """Name, expected verdict, actual verdict and first reason of each case."""
    rows = []
    for case in CASES:
        found = case.inspect(quick)
        rows.append((case.name, case.verdict, found.verdict, (found.reasons or [""])[0]))
    return rows


def main(first: int = 0) -> None:
    for case in CASES[first:]:
        full, quick = case.inspect(), case.inspect(quick=True)
        right = full.verdict == case.verdict and case.word in " ".join(full.reasons)
        print(
            f"{'ok' if right else 'WRONG':<7}{case.name:<40}{case.verdict:<21}{full.verdict:<21}"
            f"{quick.verdict:<21}{' | '.join(full.reasons)[:220]}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
