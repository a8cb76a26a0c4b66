"""Audits several trajectories at once on a Dask cluster, here two processes of this machine.

A worker that is killed loses nothing: Dask gives its job to another one, which goes on where the
file of the first one ends. For a Slurm cluster see audit_slurm.py.
"""

import ase.io
import torch
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from distributed import Client, LocalCluster

from forcedelta.ase import ForceDeltaCalculator
from forcedelta.audit import audit


def trajectory(temperature: float) -> str:
    """A short run that nobody watched, as an ASE trajectory."""
    torch.set_num_threads(1)
    atoms = ase.io.read(__file__.replace("audit_dask.py", "acetylacetone.xyz"))
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
