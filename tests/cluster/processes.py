"""Which processes belong to a cluster, told by pid with start time and by environment; never by name."""
from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` began; None if it is gone or a zombie. Guards against recycled pids."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children.setdefault(parent_of(int(entry)), []).append(int(entry))
            except OSError:
                continue
    found, left = [], [pid]
    while left:
        for child in children.get(left.pop(), []):
            found.append(child)
            left.append(child)
    return found


def of_cluster(root: Path, nodes: Iterable[str], spare: set[int]) -> list[int]:
    """slurmstepds and job processes of these nodes, orphans included.

    Known by BEGIRA_TEST_NODE (given to slurmd, so its slurmstepds have it), or by this cluster's SLURM_CONF together
    with SLURMD_NODENAME (set in every batch script and task). Never this process, what started it, or `spare`."""
    nodes = list(nodes)
    daemons = {f"BEGIRA_TEST_NODE={root}:{node}".encode() for node in nodes}
    tasks = {f"SLURMD_NODENAME={node}".encode() for node in nodes}
    configuration = f"SLURM_CONF={root}/slurm.conf".encode()
    spared, pid = set(spare), os.getpid()
    while pid > 1:
        spared.add(pid)
        pid = parent_of(pid)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in spared:
            try:
                environment = set(Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"))
            except OSError:
                continue
            if environment & daemons or (configuration in environment and environment & tasks):
                found.append(int(entry))
    return found


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
