"""
Audit trajectories on a Slurm cluster
=====================================

Audit trajectories on a Slurm cluster: python audit_slurm.py TRAJ...

Each worker is a Slurm job of one core. Without arguments, the script prints the batch script of such
a job: check queue, account and environment before the first submission.
"""

# ci: skip (needs a Slurm cluster)

import sys

from dask_jobqueue import SLURMCluster
from distributed import Client

from forcedelta import audit

if __name__ == "__main__":
    with SLURMCluster(
        queue="standard",
        account="my-project",
        cores=1,
        memory="4GB",
        walltime="04:00:00",
        job_script_prologue=["export OMP_NUM_THREADS=1", "source ~/forcedelta/bin/activate"],
        # any free port: on a login node the default one is often taken
        scheduler_options={"dashboard_address": ":0"},
    ) as cluster:
        if len(sys.argv) == 1:
            print(cluster.job_script())
        else:
            cluster.adapt(maximum_jobs=20)
            with Client(cluster) as client, client.get_executor(retries=2) as executor:
                # "restart": repeat the same call to continue after a time limit
                for result in audit(
                    sys.argv[1:], "acac", "audits", executor=executor, mode="restart"
                ):
                    print(result.line)
