"""
Audit several trajectories with Dask
====================================

Audit several trajectories at once on a Dask cluster, here of two processes on this machine.

If a worker is killed, Dask gives its job to another one, which continues from the last frame of the
first one's file. For a Slurm cluster see audit_slurm.py.
"""

from pathlib import Path

import ase.io
import torch
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from distributed import Client, LocalCluster

from forcedelta import ForceDeltaCalculator, audit


def trajectory(temperature: float) -> str:
    """Write a short run without a guard as an ASE trajectory; gives its path."""
    torch.set_num_threads(1)
    atoms = ase.io.read(Path(__file__).with_name("acetylacetone.xyz"))
    atoms.calc = ForceDeltaCalculator("acac")
    thermalize_momenta(atoms, temperature)
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=temperature, friction=0.01 / units.fs, fixcm=False
    )
    path = f"at_{temperature:.0f}K.traj"
    with ase.io.Trajectory(path, "w", atoms) as out:
        dynamics.attach(out.write, interval=2)
        dynamics.run(100)
    return path


if __name__ == "__main__":
    paths = [trajectory(temperature) for temperature in (300, 600, 1200)]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        client.get_executor(retries=2) as executor,
    ):
        results = audit(
            paths, "acac", "audits", executor=executor, mode="overwrite", flag_above=0.06
        )
    for result in results:
        print(result.line)
