"""One model on one structure or on many: the evaluation that every engine and command shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from .errors import ForceDeltaError
from .force_delta import ForceDelta, is_out_of_memory
from .graph import Graph, Graphs
from .models.loaded import LoadedModel
from .versions import __version__

FloatArray = NDArray[np.float64]

DTYPES = {"float32": torch.float32, "float64": torch.float64}
_VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
_PER_ATOM = ("direct_forces", "conservative_forces", "force_deltas", "expected_errors")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions of a model for one structure of N atoms.

    An exact evaluation, which takes a forward and a backward pass, has all of them; without
    gradient there is neither F_c nor U. See `forcedelta.ForceDelta` for the definitions.

    Attributes:
        energy: eV; NaN where it was not computed.
        direct_forces: [N, 3] eV/Å, F_nc.
        conservative_forces: [N, 3] eV/Å, F_c; None without gradient.
        force_deltas: [N] eV/Å, u_i; None without gradient.
        force_delta: eV/Å, U; None without gradient.
        stress: [3, 3] eV/Å^3, conservative, positive under tension; None unless requested, and
            for structures without a volume.
        expected_errors: [N] eV/Å, the force errors that the model itself expects; None for models
            without such a head.
        energy_uncertainty: eV, the model's own; None for models without one.
        energy_known: whether the energy was computed, see `Evaluator.forward`.
    """

    energy: float
    direct_forces: FloatArray
    conservative_forces: FloatArray | None = None
    force_deltas: FloatArray | None = None
    force_delta: float | None = None
    stress: FloatArray | None = None
    expected_errors: FloatArray | None = None
    energy_uncertainty: float | None = None
    energy_known: bool = True

    @property
    def exact(self) -> bool:
        """Whether U was computed."""
        return self.force_delta is not None

    @property
    def voigt_stress(self) -> FloatArray | None:
        """The stress in ASE's order [6], eV/Å^3."""
        return None if self.stress is None else self.stress[_VOIGT]


@dataclass(frozen=True, eq=False)
class ExactEvaluation(Evaluation):
    """An evaluation with gradient: F_c and U are present."""

    conservative_forces: FloatArray
    force_deltas: FloatArray
    force_delta: float


def not_finite(atoms: int, exact: bool = True, stress: bool = False) -> Evaluation:
    """NaN throughout: an exploded structure, for which no neighbour list exists.

    A guard stops at such a frame as at any other that is not finite.

    Args:
        atoms: their number N.
        exact: with F_c and U.
        stress: with a stress.
    """
    nan = np.full((atoms, 3), np.nan)
    if not exact:
        return Evaluation(np.nan, nan)
    tensor = np.full((3, 3), np.nan) if stress else None
    return ExactEvaluation(np.nan, nan, nan.copy(), nan[:, 0].copy(), np.nan, tensor)


class Evaluator:
    """Evaluates a model: one forward pass and, for U, one backward pass.

    Args:
        model: as loaded, in this dtype and on this device.
        dtype: of positions and weights.
        device: of torch.

    Attributes:
        model: the `LoadedModel`.
        passes: forward passes so far; that of an energy alone belongs to the one before.
        separate_energy: whether the energy takes a forward pass of its own, which `forward` can omit.
    """

    def __init__(
        self, model: LoadedModel, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.device = torch.device(device)
        self.passes = 0
        self.separate_energy = hasattr(model.module, "without_energy")
        # not scripted: that is 5 % faster, but its first calls are rounded differently from later
        # ones, and a restarted run must repeat the uninterrupted one to the last bit
        self._force_delta = ForceDelta(model.module)
        self._graphs = Graphs(model, dtype, self.device)

    def graph_at(
        self,
        positions: FloatArray,
        numbers: NDArray[np.integer],
        cell: FloatArray,
        pbc: NDArray[np.bool_],
        charge_spin: tuple[float, float] | None = None,
    ) -> Graph:
        """The model's arguments for a structure that moves; see `forcedelta.graph.Graphs.at`.

        Args:
            positions: [N, 3] Å.
            numbers: [N] atomic numbers.
            cell: [3, 3] Å, rows are the vectors.
            pbc: [3] whether the structure is periodic along each vector.
            charge_spin: total charge (e) and multiplicity, for models that take them.
        """
        return self._graphs.at(positions, numbers, cell, pbc, charge_spin)

    def graph_of(self, structures: Sequence[Atoms]) -> Graph:
        """The model's arguments for a batch of ``structures``; see `forcedelta.graph.Graphs.batch`."""
        return self._graphs.batch(structures)

    def evaluate(
        self, graph: Graph, stress: bool | Sequence[bool] = False
    ) -> list[ExactEvaluation]:
        """Exact evaluations of all structures of a graph.

        Args:
            graph: the model's arguments.
            stress: with the conservative stress; or for which structures.
        """
        wanted = [stress] * len(graph[2]) if isinstance(stress, bool) else stress
        output = self._force_delta(*graph, stress=any(wanted))
        self.passes += 1
        return exact_evaluations(output, graph, wanted)

    def forward(self, graph: Graph, energy: bool = True) -> list[Evaluation]:
        """The forward pass alone, without gradient: energies and direct forces of a ``graph``.

        Args:
            graph: the model's arguments.
            energy: without it the energies are left out where they have a pass of their own.
        """
        known = energy or not self.separate_energy
        module: Any = self.model.module
        with torch.no_grad():
            if known:
                energies, direct, *own = module(*graph)
            else:
                direct, *own = module.without_energy(*graph)
                energies = torch.full((len(graph[2]),), torch.nan)
        self.passes += 1
        output = {"energy": energies, "direct_forces": direct}
        if own:
            output[own_name(module)] = own[0]
        return [
            Evaluation(
                float(arrays["energy"][k]),
                arrays["direct_forces"],
                expected_errors=arrays.get("expected_errors"),
                energy_uncertainty=_uncertainty(arrays, k),
                energy_known=known,
            )
            for k, arrays in enumerate(_by_structure(output, graph))
        ]

    def energies(self, graph: Graph) -> list[float]:
        """The energies that `forward` omitted, eV, of all structures of a ``graph``."""
        module: Any = self.model.module
        with torch.no_grad():
            return [float(energy) for energy in module.energy_alone(*graph)]

    def batch(self, structures: Sequence[Atoms]) -> list[ExactEvaluation]:
        """Exact evaluations side by side, equal to single ones within rounding.

        If memory runs out, each half of the batch is evaluated by itself.

        Args:
            structures: each with the stress where it has a volume and the model has a stress.

        Raises:
            ForceDeltaError: as `forcedelta.graph.Graphs.batch`; a structure too large for the
                memory.
        """
        stress = [self.model.stress and bool(atoms.pbc.all()) for atoms in structures]
        try:
            return self.evaluate(self.graph_of(structures), stress)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(structures) == 1:
                raise ForceDeltaError(
                    f"not enough memory for a structure of {len(structures[0])} atoms: use a device "
                    "with more memory, or a smaller model"
                ) from error
        half = len(structures) // 2
        return self.batch(structures[:half]) + self.batch(structures[half:])

    def batch_or_reasons(self, structures: Sequence[Atoms]) -> list[ExactEvaluation | str]:
        """The same for ``structures`` of which some may fail, with the reason in place of an evaluation."""
        try:
            return [*self.batch(structures)]
        except ForceDeltaError as error:
            if len(structures) == 1:
                return [str(error)]
        return [answer for atoms in structures for answer in self.batch_or_reasons([atoms])]


def model_info(
    model: LoadedModel, versions: Mapping[str, str] | None = None, **settings: Any
) -> dict[str, Any]:
    """What a file records about the model of its frames, JSON-able.

    Args:
        model: as loaded.
        versions: of the libraries that took part, by name; this package and torch are added.
            Without it no versions are given: an audit records its own.
        settings: more to record, such as the device.
    """
    known = {
        "name": model.name,
        "weights_hash": model.weights_hash,
        "library": model.library,
        "level_of_theory": model.metadata.get("level_of_theory"),
    }
    if hasattr(model.module, "without_energy"):
        known["separate_energy"] = True
    if versions is not None:
        ours = {"forcedelta": __version__, "torch": torch.__version__}
        known["versions"] = {**ours, **versions}
    return {**known, **settings}


def usable_device(name: str) -> torch.device:
    """The device of torch with this name.

    Raises:
        ForceDeltaError: it cannot be used on this machine.
    """
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        torch.empty(0, device=device)
    except Exception as error:  # torch raises of nearly every kind here
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ForceDeltaError(
            f"device '{name}' cannot be used here ({first}); try 'cpu'"
        ) from error
    return device


def exact_evaluations(
    output: Mapping[str, Tensor], graph: Graph, stress: Sequence[bool]
) -> list[ExactEvaluation]:
    """The output of `forcedelta.ForceDelta` for each structure of a graph.

    Args:
        output: of the module.
        graph: its arguments.
        stress: the structures whose stress is kept.
    """
    return [
        ExactEvaluation(
            float(arrays["energy"][k]),
            arrays["direct_forces"],
            arrays["conservative_forces"],
            arrays["force_deltas"],
            float(arrays["force_delta"][k]),
            arrays["stress"][k] if stress[k] else None,
            arrays.get("expected_errors"),
            _uncertainty(arrays, k),
        )
        for k, arrays in enumerate(_by_structure(output, graph))
    ]


def own_name(module: torch.nn.Module) -> str:
    """What the third result of a model is, see `forcedelta.ForceDelta`."""
    uncertain = bool(getattr(module, "gives_energy_uncertainty", False))
    return "energy_uncertainty" if uncertain else "expected_errors"


def _uncertainty(arrays: Mapping[str, FloatArray], structure: int) -> float | None:
    found = arrays.get("energy_uncertainty")
    return None if found is None else float(found[structure])


def _by_structure(output: Mapping[str, Tensor], graph: Graph) -> Iterator[dict[str, FloatArray]]:
    """The tensors of a batch in float64: those per atom for each structure, the others whole."""
    arrays = {
        name: value.detach().to("cpu", torch.float64).numpy() for name, value in output.items()
    }
    structures = len(graph[2])
    if structures == 1:
        yield arrays
        return
    batch = graph[5].cpu().numpy()
    for k in range(structures):
        rows = np.flatnonzero(batch == k)
        yield {**arrays, **{name: arrays[name][rows] for name in _PER_ATOM if name in arrays}}
