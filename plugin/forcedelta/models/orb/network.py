"""The network of an Orb model and its heads, called with tensors instead of orb-models' graphs."""

import torch
from orb_models.forcefield.base import AtomGraphs
from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor
from torch import Tensor, nn

from forcedelta.models.orb.interaction import with_fewer_products


class OrbNetwork(nn.Module):
    """A `DirectForcefieldRegressor` from edge vectors to energy, forces and expected errors.

    It keeps the regressor and replaces its layers (`interaction.Interaction`).

    The model's head for direct stress is not evaluated: the stress comes from the gradient of the
    energy. The net torque of the direct forces is kept: its removal depends on the structure and is
    done outside (`graph.without_torque`).

    Attributes:
        most: number of neighbours that each atom sends to.
        charged: whether total charge and spin multiplicity are needed.
        confident: whether the model has a head for expected errors.
        residual_head: a head on the features of the atoms whose output, eV, is added to the energy.
    """

    def __init__(self, regressor: DirectForcefieldRegressor) -> None:
        super().__init__()
        with_fewer_products(regressor.model)
        self.regressor = regressor
        self.most = int(regressor.system_config.max_num_neighbors)
        self.charged = regressor.model.conditioner is not None
        self.confident = "confidence" in regressor.heads
        self.residual_head: nn.Module | None = None

    def forward(
        self,
        vectors: Tensor,
        numbers: Tensor,
        senders: Tensor,
        receivers: Tensor,
        atoms: Tensor,
        edges: Tensor,
        charge_spin: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass.

        Args:
            vectors: [E, 3] Å, from the sender to the receiver of each edge.
            numbers: [N] int64.
            senders: [E] int64, the atom whose neighbour an edge is to.
            receivers: [E] int64, the neighbour.
            atoms: [S] int64, number of atoms of each structure.
            edges: [S] int64, number of edges of each structure.
            charge_spin: [S, 2], total charge in e and spin multiplicity; read by models that are
                conditioned on them.

        Returns:
            energies [S] eV without the reference energies of the elements, direct forces [N, 3]
            eV/Å without net force, expected errors [N] eV/Å (empty without such a head).
        """
        regressor = self.regressor
        one_hot = nn.functional.one_hot(numbers, 118).to(vectors.dtype)
        # as in a crystal, for which the head for forces keeps the torque; the volume only divides the
        # unused stress of the repulsion, and positions have no effect
        cell = torch.eye(3).to(vectors).expand(len(atoms), 3, 3)
        nowhere = vectors.new_zeros(1, 3)
        graph = AtomGraphs(
            senders=senders,
            receivers=receivers,
            n_node=atoms,
            n_edge=edges,
            node_features={
                "positions": nowhere,
                "atomic_numbers": numbers,
                "atomic_numbers_embedding": one_hot,
            },
            edge_features={"vectors": vectors},
            system_features={
                "cell": cell,
                "total_charge": charge_spin[:, 0],
                "total_spin": charge_spin[:, 1],
            },
            node_targets=None,
            edge_targets=None,
            system_targets=None,
            system_id=None,
            fix_atoms=None,
            tags=None,
            radius=6.0,
            max_num_neighbors=torch.full_like(atoms, self.most),
        )
        nodes = regressor.model(graph)["node_features"]
        heads = regressor.heads
        energy = heads["energy"].normalizer.inverse(heads["energy"](nodes, graph))
        if heads["energy"].atom_avg:
            energy = energy * atoms
        if self.residual_head is not None:
            structure = torch.repeat_interleave(
                torch.arange(len(atoms), device=atoms.device), atoms
            )
            energy = energy.index_add(0, structure, self.residual_head(nodes)[:, 0])
        forces = heads["forces"].predict(nodes, graph)
        if regressor.pair_repulsion:
            repulsion = regressor.pair_repulsion_fn(graph)
            energy = energy + repulsion["energy"]
            forces = forces + repulsion["forces"]
        expected = vectors.new_zeros(0)
        if self.confident:
            expected = self._expected_errors(heads["confidence"].predict(nodes, graph))
        return energy, forces, expected

    def _expected_errors(self, probabilities: Tensor) -> Tensor:
        """[N] eV/Å from the probabilities [N, bins] of the confidence head.

        The bins cover the mean absolute error of the three components of an atom's force. Errors
        beyond the last edge were excluded from training, so that estimates never exceed it.
        """
        edges = self.regressor.heads["confidence"].bin_edges
        return probabilities @ (0.5 * (edges[1:] + edges[:-1]))
