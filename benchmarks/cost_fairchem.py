"""Cost of exact U with fairchem's direct-force models, relative to fairchem's own calculator.

    python benchmarks/cost_fairchem.py                     # real size, random weights
    python benchmarks/cost_fairchem.py --model esen-sm-direct-all-omol
    python benchmarks/cost_fairchem.py --model checkpoint.pt --trust

Without --model it writes a checkpoint of the size of esen-sm-direct-all-omol (6.3 million
parameters) with random weights and loads it as any other. Clusters of ammonia of 64 and 200 atoms;
processor time on one thread, alternating within rounds; medians over rounds.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import all_changes

from forcedelta import load_model
from forcedelta.ase import ForceDeltaCalculator
from forcedelta.models import LoadedModel
from forcedelta.models.fairchem.library import import_library, quiet_loading

ESEN = "fairchem.core.models.uma"
CONFIG = {
    "_target_": "fairchem.core.models.base.HydraModel",
    "backbone": {
        "model": f"{ESEN}.escn_moe.eSCNMDMoeBackbone",
        "num_experts": 0,
        "max_num_elements": 100,
        "sphere_channels": 128,
        "lmax": 2,
        "mmax": 2,
        "otf_graph": True,
        "max_neighbors": 30,
        "cutoff": 6.0,
        "edge_channels": 128,
        "num_distance_basis": 64,
        "regress_forces": True,
        "direct_forces": True,
        "num_layers": 4,
        "hidden_channels": 128,
        "norm_type": "rms_norm_sh",
        "act_type": "gate",
        "ff_type": "spectral",
        "chg_spin_emb_type": "rand_emb",
        "cs_emb_grad": True,
        "dataset_list": ["omol"],
    },
    "heads": {
        "energy": {"module": f"{ESEN}.escn_md.MLP_Energy_Head"},
        "forces": {"module": f"{ESEN}.escn_md.Linear_Force_Head"},
    },
}


def random_checkpoint(path: Path) -> Path:
    """Write an inference checkpoint of fairchem-core with random weights."""
    import_library()
    import hydra
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    unit = "fairchem.core.units.mlip_unit.mlip_unit"
    tasks = [
        {
            "_target_": f"{unit}.Task",
            "name": name,
            "level": level,
            "property": name,
            "out_spec": {"_target_": f"{unit}.OutputSpec", "dim": [size], "dtype": "float32"},
            "normalizer": {
                "_target_": "fairchem.core.modules.normalization.normalizer.Normalizer",
                "mean": 0.0,
                "rmsd": 1.0,
            },
            "datasets": ["omol"],
        }
        for name, level, size in (("energy", "system", 1), ("forces", "atom", 3))
    ]
    torch.manual_seed(0)
    with quiet_loading():
        network = hydra.utils.instantiate(copy.deepcopy(CONFIG))
    averaged = torch.optim.swa_utils.AveragedModel(network)
    checkpoint = MLIPInferenceCheckpoint(CONFIG, network.state_dict(), averaged.state_dict(), tasks)
    torch.save(checkpoint, path)
    return path


def cluster(count: int) -> Atoms:
    """Molecules of ammonia on a grid, turned and displaced at random."""
    generator = np.random.default_rng(0)
    side = int(np.ceil(count ** (1 / 3)))
    places = [(x, y, z) for x in range(side) for y in range(side) for z in range(side)]
    atoms = Atoms()
    for place in places[:count]:
        one = molecule("NH3")
        one.rotate(generator.uniform(0, 360), generator.normal(size=3))
        one.translate(3.4 * np.array(place))
        atoms += one
    atoms.rattle(0.03, seed=0)
    atoms.info.update(charge=0, spin=1)
    return atoms


def measure(model: LoadedModel, atoms: Atoms, rounds: int) -> None:
    """Print one row."""
    assert model.calculator is not None, "fairchem has no calculator for this network"
    ours = ForceDeltaCalculator(model)
    library = model.calculator()
    module: Any = model.module
    force_delta = ours._evaluator._force_delta
    inside = {"network": 0.0, "adapter": 0.0, "passes": 0.0}
    started = dict.fromkeys(inside, 0.0)

    def both_passes(*graph: Any, **options: Any) -> Any:
        started["passes"] = time.process_time()
        result = force_delta(*graph, **options)
        inside["passes"] = time.process_time() - started["passes"]
        return result

    ours._evaluator._force_delta = both_passes  # type: ignore[assignment]

    def watch(part: torch.nn.Module, name: str) -> None:
        def begin(*_: Any) -> None:
            started[name] = time.process_time()

        def end(*_: Any) -> None:
            inside[name] = time.process_time() - started[name]

        part.register_forward_pre_hook(begin)
        part.register_forward_hook(end)

    watch(module.network, "network")
    watch(module, "adapter")

    def own() -> None:
        ours.results = {}
        ours.calculate(atoms, ["energy", "forces"], all_changes)

    def moved() -> None:
        atoms.positions += 1e-3 * generator.normal(size=atoms.positions.shape)

    ways: dict[str, Callable[[], object]] = {
        "library": lambda: library.calculate(atoms, ["energy", "forces"], all_changes),
        "own": own,
    }
    generator = np.random.default_rng(1)
    rows: list[dict[str, float]] = []
    for _ in range(rounds + 1):
        moved()
        row = {}
        for name, way in ways.items():
            start = time.process_time()
            way()
            row[name] = time.process_time() - start
        row["around"] = row["own"] - inside["passes"] + inside["adapter"] - inside["network"]
        rows.append(row)
    rows = rows[1:]  # the first one warms up

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(value, rows))

    step = median(lambda row: row["own"])
    ratio = median(lambda row: row["own"] / row["library"])
    around = median(lambda row: row["around"])
    start = time.process_time()
    for _ in range(20):
        ours._graph(atoms)
    graphs = (time.process_time() - start) / 20
    print(
        f"{len(atoms):4d} atoms  fairchem's step {1e3 * median(lambda row: row['library']):7.0f} ms"
        f"  with exact U {1e3 * step:7.0f} ms  ratio {ratio:.2f}"
        f"  around the network {1e3 * around:6.1f} ms ({100 * around / step:.2f} %,"
        f" graph {1e3 * graphs:.2f} ms)",
        flush=True,
    )


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", help="published name or checkpoint; random weights without")
parser.add_argument("--trust", action="store_true", help="let a checkpoint run its code")
parser.add_argument("--compile", action="store_true", help="torch.compile; ours only")
parser.add_argument("--rounds", type=int, default=7)
arguments = parser.parse_args()
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder:
    trust = arguments.trust or arguments.model is None
    name = arguments.model or random_checkpoint(Path(folder) / "inference_ckpt.pt")
    is_file = Path(name).is_file()
    loaded = load_model(
        name,
        architecture="fairchem" if is_file else None,
        trust=trust,
        compile=arguments.compile,
    )
    size = sum(parameter.numel() for parameter in loaded.module.parameters())
    print(f"{loaded.name}: {size / 1e6:.1f} million parameters, {loaded.library}")
    for count in (16, 50):
        measure(loaded, cluster(count), arguments.rounds)
