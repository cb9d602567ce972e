"""A throw-away, real Slurm on this one machine: munge, slurmdbd on MariaDB, slurmctld and several slurmd with declared
CPUs and GPUs, from the distribution's packages, in seconds, as root or as an ordinary user.

    python -m tests.cluster up --nodes 4 DIR      start it in a new directory and print how to use it
    python -m tests.cluster down DIR              stop it and remove that directory
    python -m tests.cluster install               the packages it needs (apt), or what to ask an administrator for
    python -m tests.cluster status DIR            its daemons and nodes
    python -m tests.cluster call DIR kill-node NODE        faults on purpose: see `cluster.py`

`configuration` writes the files of Slurm, `daemons` starts and ends the processes, `keeper` is the parent of them all,
`cluster` is what a test or a person holds in hand. Nothing here is part of begira; it is no simulation either."""
