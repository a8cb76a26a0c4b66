"""How good a model is, and how well its Force Delta ranks its errors, beside trivial predictors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, spearmanr

from forcedelta.force_delta import ForceDelta
from forcedelta.models.network import DirectForceNetwork
from forcedelta.training.data import Batch

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Per structure [M] what a model predicts and how wrong it is; eV and eV/Å."""

    energy_per_atom_error: Array
    direct_absolute: Array  # mean over the 3N components of a structure
    conservative_absolute: Array
    atoms: NDArray[np.int64]
    epsilon: Array  # true RMS error of the direct forces, eq. 2
    force_delta: Array  # U, eq. 1
    energy: Array  # predicted, per atom, without the energies of the isolated atoms
    force_rms: Array  # RMS of the predicted direct forces
    direct: list[Array]  # [N, 3] direct forces of each structure

    def mae(self, per_structure: Array) -> float:
        """Mean over all components of all structures."""
        return float(np.average(per_structure, weights=self.atoms))


def evaluate(model: DirectForceNetwork, parts: Sequence[Batch]) -> Evaluation:
    """Predictions and errors of ``model`` for each labelled structure (batches of one)."""
    force_delta = ForceDelta(model)
    rows: list[tuple[float, ...]] = []
    direct_forces: list[Array] = []
    for part in parts:
        result = force_delta(*part.graph)
        direct, reference = result["direct_forces"], part.forces
        conservative = result["conservative_forces"]
        atoms = len(reference)
        species = model.element_index[part.numbers]
        interaction = result["energy"][0] - model.reference_energies[species].sum()
        rows.append(
            (
                abs(float(result["energy"][0] - part.energy[0])) / atoms,
                float((direct - reference).abs().mean()),
                float((conservative - reference).abs().mean()),
                atoms,
                float((direct - reference).square().mean().sqrt()),
                float(result["force_delta"][0]),
                float(interaction) / atoms,
                float(direct.square().mean().sqrt()),
            )
        )
        direct_forces.append(direct.numpy().astype(np.float64))
    names = [name for name in Evaluation.__dataclass_fields__ if name != "direct"]
    columns = zip(names, zip(*rows, strict=True), strict=True)
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns}
    return Evaluation(**arrays, direct=direct_forces)


def join(parts: Sequence[Evaluation]) -> Evaluation:
    """Several evaluations as one."""
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Evaluation.__dataclass_fields__
        if name != "direct"
    }
    return Evaluation(**arrays, direct=[forces for part in parts for forces in part.direct])


def ensemble_spread(members: Sequence[Evaluation]) -> Array:
    """RMS over atoms and components of the standard deviation of the members' direct forces [M]."""
    return np.array(
        [
            np.sqrt(np.mean(np.var(np.stack(forces), axis=0)))
            for forces in zip(*(member.direct for member in members), strict=True)
        ]
    )


def spearman(predictor: Array, error: Array) -> float:
    """Spearman's rank correlation; NaN for fewer than 3 structures."""
    if len(error) < 3:
        return float("nan")
    return float(spearmanr(predictor, error).statistic)


def auroc_worst_tenth(predictor: Array, error: Array) -> float:
    """Chance that a structure of the worst tenth by ``error`` has the larger ``predictor`` than one of the others.

    NaN where there are no others.
    """
    worst = error >= np.quantile(error, 0.9)
    pairs = int(worst.sum()) * int((~worst).sum())
    if pairs == 0:
        return float("nan")
    return float(mannwhitneyu(predictor[worst], predictor[~worst]).statistic) / pairs


def ranking(predictors: dict[str, Array], error: Array) -> dict[str, dict[str, float]]:
    """Spearman's r_s and AUROC of each predictor against the error."""
    return {
        name: {
            "spearman": round(spearman(values, error), 3),
            "auroc": round(auroc_worst_tenth(values, error), 3),
        }
        for name, values in predictors.items()
    }


def summary(evaluation: Evaluation) -> dict[str, float]:
    """The numbers that go into the metadata of a file of weights; meV, meV/Å."""
    return {
        "frames": len(evaluation.epsilon),
        "direct_mae_meV_per_A": round(1e3 * evaluation.mae(evaluation.direct_absolute), 1),
        "conservative_mae_meV_per_A": round(
            1e3 * evaluation.mae(evaluation.conservative_absolute), 1
        ),
        "energy_mae_meV_per_atom": round(1e3 * float(evaluation.energy_per_atom_error.mean()), 2),
        **ranking({"U": evaluation.force_delta}, evaluation.epsilon)["U"],
    }


def predictors(evaluation: Evaluation, members: Sequence[Evaluation] = ()) -> dict[str, Array]:
    """The Force Delta and its controls."""
    named = {
        "Force Delta U": evaluation.force_delta,
        "predicted energy": evaluation.energy,
        "RMS of predicted forces": evaluation.force_rms,
    }
    if members:
        named[f"ensemble of {len(members)}"] = ensemble_spread(members)
    return named
