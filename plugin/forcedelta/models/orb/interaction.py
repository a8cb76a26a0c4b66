"""A message-passing layer of Orb with the same weights and fewer products."""

import torch
from orb_models.forcefield.gns import AttentionInteractionNetwork, MoleculeGNS
from torch import Tensor, nn


class Interaction(nn.Module):
    """An `AttentionInteractionNetwork` with equal results up to rounding.

    The first linear layer of that network multiplies the features of both atoms for each edge. Here
    they are multiplied for each atom and the products are gathered, so that two of the three parts
    of the layer are computed once per atom instead of once per edge. In one measurement an
    evaluation with U took 1.80 (64 atoms) and 1.68 (200 atoms) times as long as orb-models'
    calculator, which computes no gradient, and 2.07 and 2.08 times with the original layers.
    """

    def __init__(self, layer: AttentionInteractionNetwork) -> None:
        super().__init__()
        first, *rest = layer._edge_mlp.mlp
        edge, sent, received = first.weight.detach().split(layer.latent_dim, 1)
        self.edge_weight = nn.Buffer(edge.contiguous())
        self.sent_weight = nn.Buffer(sent.contiguous())
        self.received_weight = nn.Buffer(received.contiguous())
        self.bias = nn.Buffer(first.bias.detach())
        self.rest = nn.Sequential(*rest, layer._edge_mlp.layer_norm)
        self.node_mlp = layer._node_mlp
        self.receive = layer._receive_attn
        self.send = layer._send_attn
        self.condition = layer._cond_node_proj if layer._node_cond == "additive" else None

    def forward(
        self,
        nodes: Tensor,
        edges: Tensor,
        senders: Tensor,
        receivers: Tensor,
        cutoff: Tensor,
        cond_nodes: Tensor | None = None,
        cond_edges: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """nodes [N, F], edges [E, F], senders and receivers [E], cutoff [E, 1], cond_nodes [N, F]."""
        linear, embedding = nn.functional.linear, nn.functional.embedding
        if self.condition is not None:
            nodes = nodes + self.condition(cond_nodes)
        received = cutoff * torch.sigmoid(self.receive(edges))
        sent = cutoff * torch.sigmoid(self.send(edges))
        hidden = linear(edges, self.edge_weight, self.bias)
        hidden += embedding(senders, linear(nodes, self.sent_weight))
        hidden += embedding(receivers, linear(nodes, self.received_weight))
        messages = self.rest(hidden)
        nothing = torch.zeros_like(nodes)
        to_receivers = nothing.index_add(0, receivers, messages * received)
        to_senders = nothing.index_add(0, senders, messages * sent)
        change = self.node_mlp(torch.cat([nodes, to_receivers, to_senders], 1))
        return nodes + change, edges + messages


def with_fewer_products(network: MoleculeGNS) -> None:
    """Replace the layers of a network of a published architecture."""
    for number, layer in enumerate(network.gnn_stacks):
        network.gnn_stacks[number] = Interaction(layer)
