"""Models as TorchScript modules for `openmmtorch.TorchForce`, in OpenMM's units and without Python."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Literal

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from md_hooks.replacing import replace_file

from ..checks import check_takes_charge
from ..errors import ForceDeltaError
from ..evaluation import DTYPES
from ..force_delta import ForceDelta
from ..models import load_model
from ..outputs import Named, check_outputs
from .units import EV, EV_PER_ANGSTROM, NM

DESCRIPTION = "forcedelta.json"
"""Name of the description inside an exported file."""

# Requests to the module, as values of a global parameter of the force.
PLAIN, AHEAD, FULL, OTHER = 0.0, 1.0, 2.0, 3.0


class OpenMMModule(nn.Module):
    """A model with its neighbour list, as `TorchForce` calls it.

    ``forward(positions, box, request)`` takes the positions [P, 3] in nm of all particles of the
    System, the box vectors [3, 3] in nm if the force is periodic, and a request if the force has a
    global parameter. It returns an energy in kJ/mol and forces [P, 3] in kJ/(mol nm):

    - request 0: energy and the forces that drive the run.
    - request 1: the same, but a new configuration is evaluated with both kinds of forces.
    - request 2: the same, and both kinds of forces are stored.
    - request 3: the other kind of forces, stored by request 2, and the number of evaluations so far
      in place of the energy. Nothing is evaluated.

    The module remembers its last two configurations and does not evaluate them again. Its neighbour
    list has a skin of 0.5 Å; a build, once in some tens of steps, compares all atoms with all images,
    at a cost that grows with the square of their number.
    The pairs come in the order of `forcedelta.neighbours.NeighbourList`.

    Args:
        model: see `forcedelta.ForceDelta`; TorchScript must accept it.
        cutoff: Å.
        double: whether the model computes in float64.
    """

    def __init__(self, model: nn.Module, cutoff: float, double: bool) -> None:
        super().__init__()
        self.model = model
        self.force_delta = ForceDelta(model)
        self.cutoff = cutoff
        self.reach = cutoff + 0.5
        self.dtype = torch.float64 if double else torch.float32
        self.nm, self.ev, self.ev_per_angstrom = NM, EV, EV_PER_ANGSTROM
        self.conservative = False
        for name in (
            "atoms", "numbers", "batch", "known", "scalars", "forces", "front", "count", "built",
            "pairs", "shifts",
        ):  # fmt: skip
            self.register_buffer(name, torch.zeros(0))
        nothing = torch.zeros(0, dtype=torch.long)
        self.bind(nothing, nothing, False)

    @torch.jit.export
    def bind(self, atoms: Tensor, numbers: Tensor, conservative: bool) -> None:
        """Set the particles [n] that the model sees, their atomic numbers [n] and the driving forces."""
        n = atoms.shape[0]
        self.conservative = conservative
        self.atoms, self.numbers, self.batch = atoms, numbers, torch.zeros_like(atoms)
        # per remembered configuration: positions and box; energy and whether U is known; both forces
        self.known = torch.full((2, n + 3, 3), float("nan"), dtype=torch.float64)
        self.scalars = torch.zeros(2, 2, dtype=torch.float64)
        self.forces = torch.zeros(2, 2, n, 3, dtype=torch.float64)
        self.front = torch.zeros(1, dtype=torch.long)
        self.count = torch.zeros(1, dtype=torch.float64)
        # the neighbour list: positions and box of its build, pairs, shifts
        self.built = torch.full((n + 3, 3), float("nan"), dtype=torch.float64)
        self.pairs = torch.zeros(2, 0, dtype=torch.long)
        self.shifts = torch.zeros(0, 3, dtype=torch.float64)

    def forward(
        self, positions: Tensor, second: Tensor | None = None, third: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results as the class describes; a request may stand in the place of the box."""
        box = torch.zeros(3, 3, dtype=torch.float64, device=positions.device)
        request = 0.0
        if second is not None:
            if second.dim() == 0:
                request = float(second)
            else:
                box = second.detach().to(torch.float64)
        if third is not None:
            request = float(third)
        here = positions.detach().to(torch.float64)[self.atoms]
        where = torch.cat([here, box])

        other = request > 2.5
        both = request > 0.5 or self.conservative
        slot = int(self.front)
        if not torch.equal(self.known[slot], where) and not other:
            slot = 1 - slot
            if not torch.equal(self.known[slot], where):
                self.evaluate(slot, where, both)
        if request > 1.5 and not other and float(self.scalars[slot, 1]) < 0.5:
            self.evaluate(slot, where, True)
        self.front.fill_(slot)

        kind = 1 if self.conservative != other else 0
        energy = self.count[0] if other else self.scalars[slot, 0] * self.ev
        forces = torch.zeros(positions.shape, dtype=torch.float64, device=positions.device)
        forces.index_copy_(0, self.atoms, self.forces[slot, kind] * self.ev_per_angstrom)
        return energy.clone(), forces.to(positions.dtype)

    def evaluate(self, slot: int, where: Tensor, full: bool) -> None:
        """One pass of the model, stored in a slot of the memory."""
        self.known[slot].copy_(where)
        self.scalars[slot, 1] = 1.0 if full else 0.0
        n = where.shape[0] - 3
        points, cell = where[:n] * self.nm, where[n:] * self.nm
        usable = bool(torch.isfinite(where).all()) and n > 0
        if usable:
            usable = self.update(points, cell)
        if not usable:
            self.scalars[slot, 0] = float("nan")
            self.forces[slot].fill_(float("nan"))
            return
        self.count.add_(1.0)
        vectors = points[self.pairs[1]] - points[self.pairs[0]] + self.shifts @ cell
        near = torch.nonzero((vectors * vectors).sum(1) < self.cutoff * self.cutoff)[:, 0]
        # relative to an atom, not to the box's origin: float32 has seven digits
        local = (points - points[0]).to(self.dtype)
        lattice = cell.to(self.dtype)[None]
        index, shift = self.pairs[:, near], self.shifts[near].to(self.dtype)
        if full:
            result = self.force_delta(local, self.numbers, lattice, index, shift, self.batch)
            self.scalars[slot, 0] = result["energy"][0].to(torch.float64)
            self.forces[slot, 0].copy_(result["direct_forces"])
            self.forces[slot, 1].copy_(result["conservative_forces"])
        else:
            energy, direct = self.model(local, self.numbers, lattice, index, shift, self.batch)
            self.scalars[slot, 0] = energy[0].detach().to(torch.float64)
            self.forces[slot, 0].copy_(direct.detach())

    def update(self, points: Tensor, cell: Tensor) -> bool:
        """Rebuild the list if an atom has moved by half the skin or the box has changed.

        Returns False for a collapsed box.
        """
        where = torch.cat([points, cell])
        n = points.shape[0]
        if torch.equal(self.built[n:], cell):
            moved = ((points - self.built[:n]) ** 2).sum(1).max()
            if float(moved) <= (0.5 * (self.reach - self.cutoff)) ** 2:
                return True
        reach = torch.zeros(3, dtype=torch.long)
        if bool((cell != 0).any()):
            volume = float(torch.linalg.det(cell).abs())
            for k in range(3):
                normal = torch.linalg.cross(cell[(k + 1) % 3], cell[(k + 2) % 3])
                height = volume / max(float(normal.norm()), 1e-30)
                if height < 0.5:
                    return False
                # atoms outside the box need more images
                along = (points @ normal) / max(volume, 1e-30)
                spread = float(along.max() - along.min())
                reach[k] = int(self.reach / height + spread) + 1
        a, b, c = int(reach[0]), int(reach[1]), int(reach[2])
        pairs: list[Tensor] = []
        shifts: list[Tensor] = []
        keys: list[Tensor] = []
        images = (2 * a + 1) * (2 * b + 1) * (2 * c + 1)
        image = 0
        for x in range(-a, a + 1):
            for y in range(-b, b + 1):
                for z in range(-c, c + 1):
                    shift = torch.tensor([x, y, z], dtype=torch.float64, device=points.device)
                    offset = points + shift @ cell
                    distance = torch.cdist(
                        points, offset, compute_mode="donot_use_mm_for_euclid_dist"
                    )
                    close = distance < self.reach
                    if x == 0 and y == 0 and z == 0:
                        close.fill_diagonal_(False)
                    found = torch.nonzero(close).t()
                    if found.shape[1] > 0:
                        pairs.append(found)
                        shifts.append(shift.expand(found.shape[1], 3))
                        keys.append((found[0] * n + found[1]) * images + image)
                    image += 1
        if len(pairs) == 0:
            self.pairs = torch.zeros(2, 0, dtype=torch.long, device=points.device)
            self.shifts = torch.zeros(0, 3, dtype=torch.float64, device=points.device)
        else:
            order = torch.argsort(torch.cat(keys))
            self.pairs = torch.cat(pairs, 1)[:, order]
            self.shifts = torch.cat(shifts)[order]
        self.built = where
        return True


class _AtChargeSpin(nn.Module):
    """A model that takes charge and spin, at fixed values of both."""

    def __init__(self, model: nn.Module, charge: float, spin: float) -> None:
        super().__init__()
        self.model = model
        self.charge, self.spin = charge, spin

    def forward(
        self,
        positions: Tensor,
        numbers: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        edge_shift: Tensor,
        batch: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results as described in `forcedelta.ForceDelta`."""
        state = torch.tensor(
            [self.charge, self.spin], dtype=positions.dtype, device=positions.device
        )
        return self.model(
            positions, numbers, cell, edge_index, edge_shift, batch, state.expand(cell.shape[0], 2)
        )


def export(
    model: Any,
    out: str | Path,
    *,
    dtype: Literal["float32", "float64"] = "float32",
    charge: int | None = None,
    spin: int | None = None,
    architecture: str | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """Write a model as a TorchScript file for ``add_force_delta(..., path="torchscript")``.

    Evaluating the file needs neither this package nor Python. Read it with the version of torch
    that wrote it, or a newer one.

    >>> export("acac", "acac.pt")["symbols"]
    ['H', 'C', 'O']

    Args:
        model: registered name, path of a file of weights, or a model in memory.
        out: file to write; an existing one is replaced.
        dtype: of the model's arithmetic.
        charge: total charge, e, for models that take one; the file is valid for this charge only.
        spin: spin multiplicity 2S + 1, likewise.
        architecture, trust: see `forcedelta.load_model`.

    Returns:
        the description in the file.

    Raises:
        ForceDeltaError: TorchScript does not accept the model, or the file cannot be written or is
            the model's own file.
    """
    if isinstance(model, str | Path):
        check_outputs([Named("exported file", out)], [Named("model", model)])
    if dtype not in DTYPES:
        raise ForceDeltaError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
    loaded = load_model(model, DTYPES[dtype], architecture=architecture, trust=trust)
    check_takes_charge(loaded, charge, spin)
    if loaded.takes_charge_spin and (charge is None or spin is None):
        raise ForceDeltaError(
            f"model '{loaded.name}' needs the total charge and the spin multiplicity (1 for a closed "
            "shell): pass --charge and --spin"
        )
    try:
        module = loaded.module if loaded.script is None else loaded.script()
        if loaded.takes_charge_spin:
            assert charge is not None
            assert spin is not None
            module = _AtChargeSpin(module, float(charge), float(spin))
        scripted = torch.jit.script(OpenMMModule(module, loaded.cutoff, dtype == "float64").eval())
    except ForceDeltaError:
        raise
    except Exception as error:  # TorchScript's errors have no common base
        first = str(error).strip().splitlines()[0]
        raise ForceDeltaError(
            f"TorchScript does not accept the model {loaded.name} ({first}): use path='python'"
        ) from error
    description = {
        "name": loaded.name,
        "weights_hash": loaded.weights_hash,
        "library": loaded.library,
        "level_of_theory": loaded.metadata.get("level_of_theory"),
        "elements": None if loaded.elements is None else sorted(loaded.elements),
        "symbols": [chemical_symbols[z] for z in sorted(loaded.elements or ())],
        "cutoff": loaded.cutoff,
        "periodic": loaded.periodic,
        "dtype": dtype,
        "charge": charge if loaded.takes_charge_spin else None,
        "spin": spin if loaded.takes_charge_spin else None,
        "torch": torch.__version__,
    }
    buffer = io.BytesIO()  # torch's own writer ends the process where a disk is full
    torch.jit.save(scripted, buffer, _extra_files={DESCRIPTION: json.dumps(description)})
    replace_file(out, buffer.getbuffer(), error=ForceDeltaError)
    return description
