"""Errors of a model, and their ranking by the Force Delta in comparison with trivial predictors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from forcedelta.evaluation import Evaluator
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.network import DirectForceNetwork
from forcedelta.ranking import auroc, spearman, worst_tenth
from forcedelta.rigid_force import rigid_force
from forcedelta.training.data import Batch

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Errors:
    """Predictions of a model and their errors for each of M labelled structures; eV and eV/Å."""

    energy_per_atom_error: Array
    direct_absolute: Array  # mean over the 3N components of a structure
    conservative_absolute: Array
    atoms: NDArray[np.int64]
    epsilon: Array  # true RMS error of the direct forces, eq. 2
    force_delta: Array  # U, eq. 1
    energy: Array  # predicted, per atom, without the energies of the isolated atoms
    force_rms: Array  # RMS of the predicted direct forces
    rigid_force: Array  # their net force and torque
    direct: list[Array]  # [N, 3] direct forces of each structure

    def mae(self, per_structure: Array) -> float:
        """Mean over all components of all structures."""
        return float(np.average(per_structure, weights=self.atoms))


def measure(network: DirectForceNetwork, parts: Sequence[Batch]) -> Errors:
    """Predictions and errors of a network for labelled structures.

    Args:
        network: in float32.
        parts: one structure each.
    """
    model = LoadedModel(network, "network", "", None, network.cutoff, None, "")
    evaluator = Evaluator(model, torch.float32)
    rows: list[tuple[float, ...]] = []
    direct_forces: list[Array] = []
    for part in parts:
        [found] = evaluator.evaluate(part.graph)
        direct, reference = found.direct_forces, part.forces.numpy().astype(np.float64)
        atoms = len(reference)
        species = network.element_index[part.numbers]
        interaction = found.energy - float(network.reference_energies[species].sum())
        rows.append(
            (
                abs(found.energy - float(part.energy[0])) / atoms,
                float(np.abs(direct - reference).mean()),
                float(np.abs(found.conservative_forces - reference).mean()),
                atoms,
                float(np.sqrt(np.mean((direct - reference) ** 2))),
                found.force_delta,
                interaction / atoms,
                float(np.sqrt(np.mean(direct**2))),
                # where no edge crosses a boundary, the structure is free to rotate
                rigid_force(
                    part.positions.numpy(), direct, np.full(3, bool(part.edge_shift.any()))
                ),
            )
        )
        direct_forces.append(direct)
    names = [name for name in Errors.__dataclass_fields__ if name != "direct"]
    columns = zip(names, zip(*rows, strict=True), strict=True)
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns}
    return Errors(**arrays, direct=direct_forces)


def join(parts: Sequence[Errors]) -> Errors:
    """Several sets as one."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Errors.__dataclass_fields__
        if name != "direct"
    }
    return Errors(**arrays, direct=[forces for part in parts for forces in part.direct])


def ensemble_spread(members: Sequence[Errors]) -> Array:
    """RMS over atoms and components of the standard deviation of the members' direct forces [M]."""
    return np.array(
        [
            np.sqrt(np.mean(np.var(np.stack(forces), axis=0)))
            for forces in zip(*(member.direct for member in members), strict=True)
        ]
    )


def ranked(predictors: dict[str, Array], error: Array) -> dict[str, dict[str, float]]:
    """Spearman's r_s and the AUROC for the worst tenth of each predictor; NaN for few structures."""
    enough = len(error) >= 3
    return {
        name: {
            "spearman": round(float(spearman(values, error)), 3) if enough else float("nan"),
            "auroc": round(float(auroc(values, worst_tenth(error))), 3),
        }
        for name, values in predictors.items()
    }


def summary(errors: Errors) -> dict[str, float]:
    """Errors and ranking for the metadata of a file of weights; meV, meV/Å."""
    return {
        "frames": len(errors.epsilon),
        "direct_mae_meV_per_A": round(1e3 * errors.mae(errors.direct_absolute), 1),
        "conservative_mae_meV_per_A": round(1e3 * errors.mae(errors.conservative_absolute), 1),
        "energy_mae_meV_per_atom": round(1e3 * float(errors.energy_per_atom_error.mean()), 2),
        **ranked({"U": errors.force_delta}, errors.epsilon)["U"],
    }


def predictors(errors: Errors, members: Sequence[Errors] = ()) -> dict[str, Array]:
    """Values of the Force Delta and of the controls, by name."""
    named = {
        "Force Delta U": errors.force_delta,
        "predicted energy": errors.energy,
        "RMS of predicted forces": errors.force_rms,
        "net force and torque": errors.rigid_force,
    }
    if members:
        named[f"ensemble of {len(members)}"] = ensemble_spread(members)
    return named
