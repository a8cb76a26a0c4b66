"""The Force Delta: the disagreement of direct forces with the gradient of the energy."""

import torch
from torch import Tensor, nn

from forcedelta.errors import ForceDeltaError


def _root(squared: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0; that of ``torch.sqrt`` turns sums into NaN."""
    zero = squared == 0
    return torch.where(
        zero, squared, torch.sqrt(torch.where(zero, torch.ones_like(squared), squared))
    )


def _root_mean(squared: Tensor, batch: Tensor, structures: int) -> Tensor:
    """``sqrt(1/(3N) sum_i squared_i)`` [S] over the atoms of each structure."""
    counts = torch.bincount(batch, minlength=structures).to(squared.dtype)
    total = torch.zeros_like(counts).index_add(0, batch, squared)
    return _root(total / (3.0 * counts.clamp(min=1.0)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports exhausted memory, on a GPU or a CPU."""
    # on the CPU torch raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def last_line(error: BaseException) -> str:
    """The last line of an error, which holds the cause of TorchScript's long ones."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]


def epsilon(forces: Tensor, reference: Tensor, batch: Tensor | None = None) -> Tensor:
    """The true force error of structures, where reference forces exist.

    ``eps = sqrt( 1/(3N) sum_i |F_i - F_ref,i|^2 )``                             (eq. 2)

    >>> epsilon(torch.tensor([[0.3, 0.0, 0.0]]), torch.zeros(1, 3))
    tensor([0.1732])

    Args:
        forces: [N, 3] eV/Å, predicted; the direct forces, where the error of a model is meant.
        reference: [N, 3] eV/Å, for instance from DFT.
        batch: [N] int64, the structure of each atom; without it all atoms belong to one structure.

    Returns:
        [S] eV/Å.

    Raises:
        ForceDeltaError: shapes that do not match.
    """
    if (
        forces.dim() != 2
        or forces.shape[1] != 3
        or forces.shape != reference.shape
        or len(forces) == 0
    ):
        raise ForceDeltaError(
            "epsilon needs two arrays of forces [N, 3] with N > 0, "
            f"not {list(forces.shape)} and {list(reference.shape)}"
        )
    if batch is None:
        batch = torch.zeros(len(forces), dtype=torch.long, device=forces.device)
    elif batch.shape != forces.shape[:1]:
        raise ForceDeltaError(f"batch must have shape [{len(forces)}], not {list(batch.shape)}")
    squared = ((forces - reference) ** 2).sum(1)
    return _root_mean(squared, batch, int(batch.max()) + 1)


class ForceDelta(nn.Module):
    """Wraps a direct-force model; one call is one forward and one backward pass.

    The model is any module with the call

        model(positions, numbers, cell, edge_index, edge_shift, batch)
            -> (energy [S] eV, direct forces [N, 3] eV/Å)

    whose energy is connected by autograd to the positions and, for the stress, the cell. A model
    that TorchScript accepts can be exported together with this module:
    ``torch.jit.script(ForceDelta(model))``.

    Five optional attributes of a model, if true, change this; TorchScript supports none of them:

    - ``takes_charge_spin``: the model takes a seventh argument, ``charge_spin`` [S, 2].
    - ``gives_expected_errors``: the model returns a third tensor [N] eV/Å, its own prediction of
      the force error of each atom.
    - ``gives_energy_uncertainty``: the model returns a third tensor [S] eV instead, its own
      uncertainty of the energy of each structure.
    - ``first_order_only``: first derivatives are correct, second derivatives are not.
    - ``foreign``: the model is code loaded from a file, and its errors are reported as such.

    >>> from ase.build import molecule
    >>> from forcedelta import Evaluator, load_model
    >>> model = load_model("acac")
    >>> graph = Evaluator(model, torch.float32, torch.device("cpu")).graph_of([molecule("CH3CHO")])
    >>> ForceDelta(model.module)(*graph)["force_delta"].shape
    torch.Size([1])

    Args:
        model: the module, with parameters that need no gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._takes_charge_spin = bool(getattr(model, "takes_charge_spin", False))
        self._gives_expected_errors = bool(getattr(model, "gives_expected_errors", False))
        self._gives_energy_uncertainty = bool(getattr(model, "gives_energy_uncertainty", False))
        uncertain = self._gives_energy_uncertainty
        self._own_name = "energy_uncertainty" if uncertain else "expected_errors"
        self._foreign = bool(getattr(model, "foreign", False))
        self._first_order_only = bool(getattr(model, "first_order_only", False))

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Tensor | None = None,
        stress: bool = False,
        create_graph: bool = False,
    ) -> dict[str, Tensor]:
        """Energy, both forces and the Force Delta of all structures of a batch.

        ``F_c = -dE/dr``,  ``u_i = sqrt( 1/3 |F_nc,i - F_c,i|^2 )``,
        ``U = sqrt( 1/(3N) sum_i |F_nc,i - F_c,i|^2 )``, hence U^2 is the mean of u_i^2  (eq. 1)

        Gradients are taken with respect to positions (and strain) only, not parameters. Works under
        ``torch.no_grad()``; an exported TorchScript module does not.

        Args:
            positions: [N, 3] Å, float32 or float64.
            numbers: [N] int64, atomic numbers.
            cell: [S, 3, 3] Å, rows are cell vectors; zeros for molecules.
            edge_index: [2, E] int64, centre and neighbour of every pair, in both directions.
            edge_shift: [E, 3], integer multiples of the cell vectors, as floats, added to the
                neighbour's position.
            batch: [N] int64, the structure of each atom.
            charge_spin: [S, 2], total charge in e and spin multiplicity 2S + 1 of each structure,
                for models that take them.
            stress: also compute the conservative stress, the strain derivative of the energy per
                volume, in the same backward pass.
            create_graph: keep the graph for differentiating the results again, for instance U with
                respect to positions that require a gradient. Where an atom's difference vanishes,
                u_i has no gradient and 0 is returned. Without it all results are detached.

        Returns:
            "energy" [S] eV, "direct_forces" [N, 3] eV/Å, "conservative_forces" [N, 3] eV/Å,
            "force_deltas" (u_i) [N] eV/Å, "force_delta" (U) [S] eV/Å, with ``stress`` "stress"
            [S, 3, 3] eV/Å^3 (positive under tension, as in ASE; NaN for structures whose cell has no
            volume), and "expected_errors" [N] eV/Å or "energy_uncertainty" [S] eV of models that
            predict them.

        Raises:
            ForceDeltaError: shapes that do not match, missing charge and spin, ``create_graph`` for a
                model with first derivatives only, or an energy that does not depend on the
                positions (an exported module raises torch.jit.Error with the same text).
        """
        if torch.jit.is_scripting():
            return self._evaluate(
                positions, numbers, cell, edge_index, edge_shift, batch, None, stress, create_graph
            )
        _check_shapes(positions, numbers, cell, edge_index, edge_shift, batch)
        self._check_abilities(charge_spin, cell.shape[0], create_graph)
        graph = [positions, numbers, cell, edge_index, edge_shift, batch]
        return self._evaluate_eager(graph, charge_spin, stress, create_graph)

    @torch.jit.unused
    def _evaluate_eager(
        self, graph: list[Tensor], charge_spin: Tensor | None, stress: bool, create_graph: bool
    ) -> dict[str, Tensor]:
        try:
            with torch.enable_grad():  # not supported by TorchScript
                positions, numbers, cell, edge_index, edge_shift, batch = graph
                return self._evaluate(
                    positions, numbers, cell, edge_index, edge_shift, batch, charge_spin, stress,
                    create_graph,
                )  # fmt: skip
        except Exception as error:  # TorchScript's errors have no common base
            known = isinstance(error, ForceDeltaError) or is_out_of_memory(error)
            if known or not self._foreign:
                raise
            raise ForceDeltaError(f"the code of the model failed: {last_line(error)}") from error

    @torch.jit.unused
    def _check_abilities(
        self, charge_spin: Tensor | None, structures: int, create_graph: bool
    ) -> None:
        if create_graph and self._first_order_only:
            raise ForceDeltaError(
                f"{type(self.model).__name__} does not support second derivatives: omit "
                "create_graph, or use another model for attacks and training"
            )
        if not self._takes_charge_spin:
            return
        if charge_spin is None or charge_spin.shape != (structures, 2):
            given = None if charge_spin is None else list(charge_spin.shape)
            raise ForceDeltaError(
                f"{type(self.model).__name__} needs the total charge and the spin multiplicity of each "
                f"structure: pass charge_spin of shape [{structures}, 2], not {given}"
            )

    @torch.jit.unused
    def _predict(
        self, graph: list[Tensor], charge_spin: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._takes_charge_spin:
            assert charge_spin is not None
            graph = [*graph, charge_spin]
        answer = self.model(*graph)
        if self._gives_expected_errors or self._gives_energy_uncertainty:
            energy, direct, own = answer
            return energy, direct, own
        energy, direct = answer
        return energy, direct, None

    def _evaluate(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
        charge_spin: Tensor | None,
        stress: bool,
        create_graph: bool,
    ) -> dict[str, Tensor]:
        if not (create_graph and positions.requires_grad):
            positions = positions.detach().requires_grad_(True)
        strain = torch.zeros_like(cell)
        moved, strained_cell = positions, cell
        if stress:
            strain.requires_grad_(True)
            symmetric = 0.5 * (strain + strain.transpose(1, 2))
            moved = positions + torch.bmm(positions[:, None], symmetric[batch])[:, 0]
            strained_cell = cell + torch.bmm(cell, symmetric)
        own: Tensor | None = None
        if torch.jit.is_scripting():
            energy, direct = self.model(
                moved, numbers, strained_cell, edge_index, edge_shift, batch
            )
        else:
            energy, direct, own = self._predict(
                [moved, numbers, strained_cell, edge_index, edge_shift, batch], charge_spin
            )
        if not (energy.is_floating_point() and direct.is_floating_point()):
            raise ForceDeltaError(
                "the model must return real floating-point energies and direct forces, not "
                f"{energy.dtype} and {direct.dtype}"
            )
        if energy.device != positions.device or direct.device != positions.device:
            raise ForceDeltaError(
                f"the model returns results on {energy.device} and {direct.device} for positions on "
                f"{positions.device}"
            )
        if energy.dim() != 1 or energy.shape[0] != cell.shape[0] or direct.shape != positions.shape:
            raise ForceDeltaError(
                "the model must return an energy for each of the S structures, shape [S], and a "
                "direct force for each of the N atoms, shape [N, 3]"
            )

        conservative = torch.zeros_like(positions)
        virial = torch.zeros_like(cell)
        if energy.requires_grad:
            inputs = [positions]
            if stress:
                inputs.append(strain)
            gradients = torch.autograd.grad(
                [energy.sum()], inputs, create_graph=create_graph, allow_unused=True
            )
            gradient = gradients[0]
            if gradient is not None:
                conservative = -gradient
            elif edge_index.shape[1] > 0:
                raise ForceDeltaError(
                    "the energy is not connected to the positions in the autograd graph, and there are "
                    "no conservative forces: look for detach() in the model"
                )
            if stress:
                derivative = gradients[1]
                if derivative is not None:
                    virial = derivative
        elif edge_index.shape[1] > 0:
            raise ForceDeltaError(
                "the energy has no autograd graph, and there are no conservative forces: look for "
                "no_grad() or detach() in the model"
            )

        squared = ((direct - conservative) ** 2).sum(1)
        result = {
            "energy": energy,
            "direct_forces": direct,
            "conservative_forces": conservative,
            "force_deltas": _root(squared / 3.0),
            "force_delta": _root_mean(squared, batch, cell.shape[0]),
        }
        if stress:
            volume = torch.linalg.det(cell).abs()[:, None, None]
            result["stress"] = torch.where(
                volume > 0, virial / volume, torch.full_like(virial, torch.nan)
            )
        if own is not None:
            result[self._own_name] = own
        if not create_graph:
            for key in list(result.keys()):
                result[key] = result[key].detach()
        return result


def _check_shapes(
    positions: Tensor,
    numbers: Tensor,
    cell: Tensor,
    edge_index: Tensor,
    edge_shift: Tensor,
    batch: Tensor,
) -> None:
    """Checks shapes and types only, which does not synchronise with a device."""
    atoms = positions.shape[0]
    if positions.dim() != 2 or positions.shape[1] != 3 or not positions.is_floating_point():
        raise ForceDeltaError(
            "positions must be floats of shape [N, 3] in Å, "
            f"not {positions.dtype} {list(positions.shape)}"
        )
    if atoms == 0:
        raise ForceDeltaError("the structure is empty: at least one atom is needed")
    if numbers.shape != (atoms,) or batch.shape != (atoms,):
        raise ForceDeltaError(
            f"numbers and batch must have shape [{atoms}] for {atoms} positions, "
            f"not {list(numbers.shape)} and {list(batch.shape)}"
        )
    if cell.dim() != 3 or cell.shape[1:] != (3, 3):
        raise ForceDeltaError(
            f"cell must have shape [S, 3, 3], one cell per structure, not {list(cell.shape)}"
        )
    edges = edge_index.shape[-1]
    if edge_index.shape != (2, edges) or edge_shift.shape != (edges, 3):
        raise ForceDeltaError(
            "edge_index and edge_shift must have shapes [2, E] and [E, 3], "
            f"not {list(edge_index.shape)} and {list(edge_shift.shape)}"
        )
    if cell.dtype != positions.dtype or edge_shift.dtype != positions.dtype:
        raise ForceDeltaError(
            f"cell and edge_shift must be {positions.dtype} like the positions, "
            f"not {cell.dtype} and {edge_shift.dtype}"
        )
