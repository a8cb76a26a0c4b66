"""Frames of the edges of EquiformerV2, with the derivative that the library omits.

EquiformerV2 rotates the features of each edge into a frame whose y axis lies along the edge, and
back: ``D(R) x`` with the Wigner matrix of a rotation R. The library detaches R and D from the
autograd graph, so that the gradient of its energy lacks all contributions from changes in the
direction of edges; differentiating its formulas instead gives NaN for edges along y.

Here R and D remain those of the library, outside the graph, and the derivative is added
analytically. When the edge r moves by dr, its frame rotates by

    w = r x dr / |r|^2 + t n,    n = r / |r|

and with the generators X_k of rotations (e3nn's, antisymmetric)

    dR = -R [w]x,    dD = -D (w . X),    dD^T = (w . X) D^T.

The first part of w rotates the edge itself. The second rotates the frame about the edge, which has a
small effect on a network with finitely many grid points: the library builds the frame from a random
vector u, z = n x u / |n x u|, and with that vector held fixed,

    t = -(n . u) / |n x u| * (z . dr) / |r|.

Products of Wigner matrices and features are separate autograd functions, so that the gradient with
respect to w needs no gradient of the matrices: for y = D x with the gradient g of y it is
``-(D^T g) . X_k x``, and D^T g is needed anyway.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from e3nn.o3 import angles_to_matrix, so3_generators
from fairchem.core.models.equiformer_v2.edge_rot_mat import init_edge_rot_mat
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@contextmanager
def random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers, and restore their state afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for each in devices:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class EdgeFrames:
    """The rotations of all edges of one evaluation and their derivative.

    Attributes:
        seed: of the random vectors from which the frames are built.
        live: False omits the derivative, as the library does; the gradient of the energy is then
            wrong.
        tilt: [3, 3], a rotation. The library's choice of frames jumps for edges along the x and z
            axes, which occur in ideal crystals, so it is applied to edges rotated by this matrix;
            the frames are equally valid. With a unit matrix they are the library's own.
        turn: [E, 3], the vector w of the module's description; its value is 0, and its gradient is
            connected to the edges.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.live = True
        self.tilt = angles_to_matrix(*torch.tensor([0.4, 0.9, 1.3], dtype=torch.float64))
        self.turn = torch.empty(0, 3)

    def rotations(self, data: Any, edge_index: Tensor, vectors: Tensor) -> Tensor:
        """The library's [E, 3, 3] R from the seed, detached; replaces its ``_init_edge_rot_mat``.

        Args:
            data: not used.
            edge_index: not used.
            vectors: [E, 3] Å, the edges.
        """
        edges = vectors.detach()
        if len(edges) == 0:  # the library's function takes a minimum over them
            self.turn = vectors
            return edges.new_zeros(0, 3, 3)
        tilt = self.tilt.to(edges)
        with random_numbers(self.seed, edges.device):
            tilted = init_edge_rot_mat(edges @ tilt.T)
        with random_numbers(self.seed, edges.device):
            random = torch.rand_like(edges) - 0.5  # the numbers that it has drawn
        rotations: Tensor = tilted @ tilt
        moved = vectors if self.live else edges
        self.turn = _turn(
            moved - edges,
            edges,
            rotations[:, 0],
            _cotangents(random, tilted[:, 1], tilted[:, 0]),
        )
        return rotations


def _cotangents(random: Tensor, along: Tensor, z: Tensor) -> Tensor:
    """[E] (n . u) / |n x u| for the directions n of the edges and the vectors u that define z."""
    x, y, w = (random / random.norm(dim=1, keepdim=True)).unbind(1)
    # the library chooses one of three vectors that is not close to the edge; z is normal to it
    three = torch.stack(
        [torch.stack([x, y, w], 1), torch.stack([-y, x, w], 1), torch.stack([x, -w, y], 1)]
    )
    taken = (three * z).sum(2).abs().argmin(0)
    cosine = (three[taken, torch.arange(len(z), device=z.device)] * along).sum(1)
    return cosine / (1 - cosine * cosine).sqrt()


def _turn(move: Tensor, edges: Tensor, z: Tensor, cotangents: Tensor) -> Tensor:
    """[E, 3] w of the module's description for displacements [E, 3] Å of the edges, linear in them."""
    length = edges.norm(dim=1, keepdim=True)
    across = torch.linalg.cross(edges, move) / length**2
    about = -cotangents[:, None] * (z * move).sum(1, keepdim=True) / length
    return across + about * edges / length


class LiveRotation(nn.Module):
    """The library's ``SO3_Rotation`` with the derivative of its Wigner matrices.

    It has the three methods that the library calls and computes the same numbers to the last bit.
    """

    def __init__(self, rotation: Any, frames: EdgeFrames, dtype: torch.dtype) -> None:
        super().__init__()
        self.rotation: Any = rotation
        self.frames = frames
        for degree in range(1, rotation.lmax + 1):
            with _default_dtype(torch.float64):
                generators = so3_generators(degree).to(dtype)
            self.register_buffer(f"generators_{degree}", generators, persistent=False)
        self._forth: dict[tuple[int, int], Tensor] = {}
        self._back: dict[tuple[int, int], Tensor] = {}

    def set_wigner(self, rotations: Tensor) -> None:
        """Set the rotations [E, 3, 3] of an evaluation."""
        # the library creates its matrices in torch's default dtype, not in that of the positions
        with _default_dtype(rotations.dtype):
            self.rotation.set_wigner(rotations)
        self._forth, self._back = {}, {}

    def rotate(self, embedding: Tensor, degree: int, order: int) -> Tensor:
        """Features [E, A, C] of the edges in their frames, [E, B, C], up to an order of m."""
        key = degree, order
        if key not in self._forth:
            kept = self.rotation.mapping.coefficient_idx(degree, order)
            self._forth[key] = self.rotation.wigner[:, kept, :]
        rotated: Tensor = _Rotate.apply(
            embedding, self.frames.turn, self._forth[key], *self._generators()
        )
        return rotated

    def rotate_inv(self, embedding: Tensor, degree: int, order: int) -> Tensor:
        """Back again: [E, B, C] to [E, A, C]."""
        key = degree, order
        if key not in self._back:
            mapping = self.rotation.mapping
            kept = mapping.coefficient_idx(degree, order)
            scale = mapping.get_rotate_inv_rescale(degree, order)
            self._back[key] = self.rotation.wigner_inv[:, :, kept] * scale
        rotated: Tensor = _RotateBack.apply(
            embedding, self.frames.turn, self._back[key], *self._generators()
        )
        return rotated

    def _generators(self) -> list[Tensor]:
        return [buffer for name, buffer in self.named_buffers() if name.startswith("generators_")]


class _Rotate(torch.autograd.Function):
    """y = D x, with the derivative of D."""

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, turn: Tensor, wigner: Tensor, *generators: Tensor
    ) -> Tensor:
        ctx.save_for_backward(embedding, wigner, *generators)
        return torch.bmm(wigner, embedding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        embedding, wigner, *generators = ctx.saved_tensors
        back = torch.bmm(wigner.transpose(1, 2), gradient)
        turn = -_torques(back, embedding, generators) if ctx.needs_input_grad[1] else None
        return (back, turn, None, *(None for _ in generators))


class _RotateBack(torch.autograd.Function):
    """x = D^T y, with the derivative of D; ``wigner`` is D^T, its columns scaled."""

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, turn: Tensor, wigner: Tensor, *generators: Tensor
    ) -> Tensor:
        rotated = torch.bmm(wigner, embedding)
        ctx.save_for_backward(rotated, wigner, *generators)
        return rotated

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rotated, wigner, *generators = ctx.saved_tensors
        back = torch.bmm(wigner.transpose(1, 2), gradient)
        turn = _torques(gradient, rotated, generators) if ctx.needs_input_grad[1] else None
        return (back, turn, None, *(None for _ in generators))


def _torques(left: Tensor, right: Tensor, generators: list[Tensor]) -> Tensor:
    """[E, 3] ``left . X_k right`` for features [E, A, C], degree by degree."""
    torques = left.new_zeros(len(left), 3)
    for degree, generator in enumerate(generators, start=1):
        first, width = degree * degree, 2 * degree + 1
        products = torch.bmm(
            left.narrow(1, first, width), right.narrow(1, first, width).transpose(1, 2)
        )
        torques += products.flatten(1) @ generator.flatten(1).T
    return torques
