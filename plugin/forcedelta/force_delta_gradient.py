"""The gradient of the Force Delta with respect to positions and strain.

With ``d = F_nc - F_c`` and ``U = sqrt( 1/(3N) sum_i |d_i|^2 )`` (eq. 1),

    dU/dr = 1/(3 N U) [ J_nc^T d + H d ],    J_nc = dF_nc/dr,  H = d^2E/dr^2 = -dF_c/dr.

Models with second derivatives give it by automatic differentiation of U. For the others, the first
term is one vector-Jacobian product of the direct forces, and the second one the derivative of dE/dr
along d, from two more exact evaluations:

    H d = -[ F_c(r + h d) - F_c(r - h d) ] / 2h.

Where even the direct forces have no derivative (two ASE calculators), J_nc^T d is made of differences
along each coordinate.

A strain eps moves the positions and the cell, ``r' = r (1 + eps)``. F_c is then the gradient with
respect to r', which adds a term:

    d . dF_c/d(eps) = -(d . d/dr) dE/d(eps) - sym( sum_i d_i F_c,i ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from .errors import ForceDeltaError
from .evaluation import Evaluator, ExactEvaluation, FloatArray, exact_evaluations, own_name
from .force_delta import is_out_of_memory
from .graph import Graph
from .models.loaded import LoadedModel

Method = Literal["second derivatives", "differences"]

STEPS = {torch.float64: 1e-4, torch.float32: 2e-3}
"""Å that the atom with the largest u_i moves in a difference; the other atoms move less."""


@dataclass(frozen=True, eq=False)
class ForceDeltaGradient:
    """An exact evaluation of a structure of N atoms with the gradient of its Force Delta.

    Attributes:
        evaluation: energy, both forces and U, and the stress if strain was requested.
        gradient: [N, 3] eV/Å^2, dU/dr; 0 where U is 0.
        strain: [3, 3] eV/Å, dU/d(eps) for a symmetric strain eps; None unless requested.
    """

    evaluation: ExactEvaluation
    gradient: FloatArray
    strain: FloatArray | None = None


class GradientEvaluator(Evaluator):
    """Evaluates a model with the gradient of U.

    Args:
        model: as loaded, in this dtype and on this device.
        dtype: of positions and weights.
        device: of torch.
        method: "second derivatives": automatic differentiation of U; "differences": also for models
            with first derivatives only. By default the former where the model supports it.

    Attributes:
        method: the one in use.
        passes: forward passes so far.

    Raises:
        ForceDeltaError: second derivatives of a model that does not support them.
    """

    def __init__(
        self,
        model: LoadedModel,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        method: Method | None = None,
    ) -> None:
        super().__init__(model, dtype, device)
        first_order = bool(getattr(model.module, "first_order_only", False))
        if method == "second derivatives" and first_order:
            raise ForceDeltaError(
                f"model '{model.name}' does not support second derivatives: use differences"
            )
        self.method: Method = method or ("differences" if first_order else "second derivatives")

    def gradients(self, graph: Graph, strain: bool = False) -> list[ForceDeltaGradient]:
        """Exact evaluations of all structures of a graph, with the gradients of U.

        Args:
            graph: the model's arguments.
            strain: with the derivatives of U and of the energy (the stress) by strain.
        """
        if self.method == "second derivatives":
            return self._differentiated(graph, strain)
        return self._from_differences(graph, strain)

    def gradient_batch(
        self, structures: Sequence[Atoms], strain: bool = False
    ) -> list[ForceDeltaGradient]:
        """The same for structures; if memory runs out, each half is evaluated by itself.

        Raises:
            ForceDeltaError: as `forcedelta.graph.Graphs.batch`; a structure too large for the
                memory.
        """
        try:
            return self.gradients(self.graph_of(structures), strain)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(structures) == 1:
                raise ForceDeltaError(
                    f"not enough memory for the gradient of U of {len(structures[0])} atoms: use a "
                    "device with more memory, or a smaller model"
                ) from error
        half = len(structures) // 2
        return self.gradient_batch(structures[:half], strain) + self.gradient_batch(
            structures[half:], strain
        )

    def gradients_or_reasons(
        self, structures: Sequence[Atoms], strain: bool = False
    ) -> list[ForceDeltaGradient | str]:
        """The same, with the reason in place of each gradient that is not possible."""
        try:
            return [*self.gradient_batch(structures, strain)]
        except ForceDeltaError as error:
            if len(structures) == 1:
                return [str(error)]
        return [a for atoms in structures for a in self.gradients_or_reasons([atoms], strain)]

    # --- by automatic differentiation ------------------------------------------------------------

    def _differentiated(self, graph: Graph, strain: bool) -> list[ForceDeltaGradient]:
        positions, eps, moved = _strainable(graph, strain)
        with torch.enable_grad():
            output = self._force_delta(*moved, stress=strain, create_graph=True)
            slopes = torch.autograd.grad(
                output["force_delta"].sum(), [positions, eps] if strain else [positions],
                allow_unused=True,
            )  # fmt: skip
        self.passes += 1
        zeros = (positions, eps)
        found = [torch.zeros_like(z) if s is None else s for s, z in zip(slopes, zeros)]  # noqa: B905
        return self._results(output, graph, found)

    # --- with first derivatives only -------------------------------------------------------------

    def _from_differences(self, graph: Graph, strain: bool) -> list[ForceDeltaGradient]:
        output, weights, slopes = self._direct_part(graph, strain)
        batch, structures = graph[5], len(graph[2])
        largest = torch.zeros(structures, dtype=self.dtype, device=self.device)
        largest = largest.scatter_reduce(0, batch, weights.norm(dim=1), "amax")
        step = STEPS[self.dtype] / torch.where(largest > 0, largest, 1.0)
        sides = []
        for sign in (1.0, -1.0):
            moved = graph[0] + sign * step[batch][:, None] * weights
            sides.append(self._force_delta(moved, *graph[1:], stress=strain))
            self.passes += 1
        forces = sides[0]["conservative_forces"] - sides[1]["conservative_forces"]
        slopes[0] = slopes[0] - forces / (2.0 * step[batch][:, None])
        if strain:
            volume = torch.linalg.det(graph[2]).abs()[:, None, None]
            stresses = sides[0]["stress"] - sides[1]["stress"]
            outer = weights[:, :, None] * output["conservative_forces"][:, None, :]
            outer = torch.zeros_like(stresses).index_add(0, batch, outer)
            slopes[1] = slopes[1] + stresses * volume / (2.0 * step[:, None, None])
            slopes[1] = slopes[1] + 0.5 * (outer + outer.transpose(1, 2))
        return self._results(output, graph, slopes)

    def _direct_part(
        self, graph: Graph, strain: bool
    ) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
        """Exact evaluation, d/(3 N U) [N, 3], and its product with the derivatives of F_nc."""
        positions, eps, moved = _strainable(graph, strain)
        inputs = [positions, eps] if strain else [positions]
        with torch.enable_grad():
            energy, direct, *own = self.model.module(*moved)
            gradients = torch.autograd.grad(
                energy.sum(), inputs, retain_graph=True, allow_unused=True
            )
            output = _output(graph, energy, direct, gradients)
            if own:
                output[own_name(self.model.module)] = own[0].detach()
            counts = torch.bincount(graph[5], minlength=len(graph[2])).to(self.dtype)
            norm = 3.0 * counts * output["force_delta"]
            inverse = torch.where(norm > 0, 1.0 / torch.where(norm > 0, norm, 1.0), 0.0)
            delta = output["direct_forces"] - output["conservative_forces"]
            weights = delta * inverse[graph[5]][:, None]
            if direct.requires_grad:
                products = torch.autograd.grad((direct * weights).sum(), inputs, allow_unused=True)
        self.passes += 1
        if not direct.requires_grad:
            return output, weights, self._products_by_differences(graph, weights, strain)
        slopes = [
            torch.zeros_like(leaf) if product is None else product
            for leaf, product in zip(inputs, products, strict=True)
        ]
        return output, weights, slopes

    def _products_by_differences(self, graph: Graph, weights: Tensor, strain: bool) -> list[Tensor]:
        """J_nc^T d/(3 N U), from differences of the direct forces along every coordinate.

        The structures of a batch do not interact: one atom of each is moved at a time.
        """
        step = STEPS[self.dtype]
        batch, structures = graph[5], len(graph[2])
        counts = torch.bincount(batch, minlength=structures)
        first = torch.cumsum(counts, 0) - counts
        slope = torch.zeros_like(graph[0])

        def slope_along(shift: Tensor | None, eps: Tensor | None) -> Tensor:
            """[S], derivative of sum_i w_i . F_nc,i along a displacement [N, 3] or strain [S, 3, 3]."""
            total = torch.zeros(structures, dtype=self.dtype, device=self.device)
            for sign in (1.0, -1.0):
                moved = list(graph)
                if shift is not None:
                    moved[0] = graph[0] + sign * step * shift
                if eps is not None:
                    moved[0] = (
                        graph[0] + sign * step * torch.bmm(graph[0][:, None], eps[batch])[:, 0]
                    )
                    moved[2] = graph[2] + sign * step * torch.bmm(graph[2], eps)
                with torch.no_grad():
                    forces = self.model.module(*moved)[1]
                self.passes += 1
                total = total.index_add(0, batch, sign * (forces * weights).sum(1))
            return total / (2.0 * step)

        for atom in range(int(counts.max())):
            present = atom < counts
            for axis in range(3):
                shift = torch.zeros_like(slope)
                shift[first[present] + atom, axis] = 1.0
                slope[first[present] + atom, axis] = slope_along(shift, None)[present]
        if not strain:
            return [slope]
        tensor = torch.zeros_like(graph[2])
        for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
            eps = torch.zeros_like(tensor)
            eps[:, a, b] += 0.5
            eps[:, b, a] += 0.5
            tensor[:, a, b] = tensor[:, b, a] = slope_along(None, eps)
        return [slope, tensor]

    def _results(
        self, output: dict[str, Tensor], graph: Graph, slopes: Sequence[Tensor]
    ) -> list[ForceDeltaGradient]:
        strain = len(slopes) == 2
        arrays = [slope.detach().to("cpu", torch.float64).numpy() for slope in slopes]
        batch = graph[5].cpu().numpy()
        found = exact_evaluations(output, graph, [strain] * len(graph[2]))
        return [
            ForceDeltaGradient(evaluation, arrays[0][batch == k], arrays[1][k] if strain else None)
            for k, evaluation in enumerate(found)
        ]


def _strainable(graph: Graph, strain: bool) -> tuple[Tensor, Tensor, Graph]:
    """Positions [N, 3] and strain [S, 3, 3] as variables, and the arguments that depend on them."""
    positions = graph[0].detach().requires_grad_(True)
    eps = torch.zeros_like(graph[2])
    if not strain:
        return positions, eps, (positions, *graph[1:])
    eps.requires_grad_(True)
    symmetric = 0.5 * (eps + eps.transpose(1, 2))
    moved = positions + torch.bmm(positions[:, None], symmetric[graph[5]])[:, 0]
    cell = graph[2] + torch.bmm(graph[2], symmetric)
    return positions, eps, (moved, graph[1], cell, *graph[3:])


def _output(
    graph: Graph,
    energy: Tensor,
    direct: Tensor,
    gradients: Sequence[Tensor | None],
) -> dict[str, Tensor]:
    """What `forcedelta.ForceDelta` returns, from a forward and a backward pass made elsewhere."""
    zero = torch.zeros_like(graph[0])
    conservative = zero if gradients[0] is None else -gradients[0]
    direct = direct.detach()
    squared = ((direct - conservative) ** 2).sum(1)
    counts = torch.bincount(graph[5], minlength=len(graph[2])).to(squared.dtype)
    total = torch.zeros_like(counts).index_add(0, graph[5], squared)
    output = {
        "energy": energy.detach(),
        "direct_forces": direct,
        "conservative_forces": conservative,
        "force_deltas": (squared / 3.0).sqrt(),
        "force_delta": (total / (3.0 * counts)).sqrt(),
    }
    if len(gradients) == 2:
        virial = torch.zeros_like(graph[2]) if gradients[1] is None else gradients[1]
        output["stress"] = virial / torch.linalg.det(graph[2]).abs()[:, None, None]
    return output


def slope_error(evaluator: GradientEvaluator, atoms: Atoms, found: ForceDeltaGradient) -> float:
    """Relative error of dU/dr along itself, against a difference of U from two exact evaluations.

    Returns:
        0 where U has no slope; infinite for a gradient that is not finite.
    """
    lengths = np.linalg.norm(found.gradient, axis=1)
    largest = float(lengths.max())
    if not np.isfinite(largest):
        return float("inf")
    if largest == 0.0:
        return 0.0
    way = found.gradient / largest
    step = STEPS[evaluator.dtype]
    moved = []
    for sign in (1.0, -1.0):
        copy = atoms.copy()
        copy.set_constraint()
        copy.positions += sign * step * way
        moved.append(copy)
    plus, minus = evaluator.batch(moved)
    measured = (plus.force_delta - minus.force_delta) / (2.0 * step)
    expected = float((found.gradient * way).sum())
    return abs(measured - expected) / abs(expected)
