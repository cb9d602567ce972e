"""What one task of a Slurm job does, from submitit's hands to `experiments.execute`: names itself, meets the other
ranks, listens to signals, writes one log per node, is watched. All that is pickled is the run directory's path.

Signals only raise a flag (core.stop): submitit's own handler, which saves inside the handler on rank 0 alone, is
replaced before anything else. All ranks agree at a step boundary, save together and end with code 75. The batch script
outlives them even when they are killed: there `slurm.epilogue` decides whether the job is requeued."""
from __future__ import annotations

import faulthandler
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from core import stop
from core.errors import Stopped
from core.files import read_json, write_json
from slurm.watch import LAUNCH

MEET_SECONDS = 300.0         # for the slowest node to start
VISIBLE_SECONDS = 90.0       # for a parent's marker to be seen on every node


@dataclass(frozen=True)
class Place:
    """This task among all tasks of its job."""

    job: str                 # 123 or 123_4
    launch: str              # the same on all ranks of one start, another after a requeue
    rank: int
    local_rank: int
    world: int
    local_world: int
    node: str
    hosts: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One array element. Called by submitit in every task."""

    path: str

    def __call__(self) -> None:
        stop.install()
        for number in (signal.SIGCONT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        run, place = Path(self.path), find_place()
        _log_to(run / "logs" / f"{place.launch}_{place.node}.log")
        stacks = run / "logs" / f"{place.launch}_rank{place.rank:04d}.stacks"
        with open(stacks, "a", encoding="utf-8") as stream:
            faulthandler.register(signal.SIGUSR1, file=stream, all_threads=True)
            watcher = _watch(run, place)
            try:
                code = self._run(run, place)
            finally:
                watcher.kill()
                faulthandler.unregister(signal.SIGUSR1)
                if not stacks.stat().st_size:
                    stacks.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        if code == Stopped.EXIT_CODE and place.rank:
            code = 0  # rank 0 says it for all; at another rank's bad exit Slurm would kill it while it writes that
        if code not in (0, Stopped.EXIT_CODE):
            os._exit(code)  # nothing is left to do, and a group that has lost a rank may hold an orderly exit back
        raise SystemExit(code)  # no result file: the run directory has it

    def _run(self, run: Path, place: Place) -> int:
        wait_for_parents(run)
        meeting = meet(run, place)
        os.environ.update(environment(place, meeting["host"], meeting["port"]))
        from experiments.execute import execute

        return execute(run)


def find_place() -> Place:
    """From Slurm's environment, as submitit reads it."""
    import submitit

    here = submitit.JobEnvironment()
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    return Place(here.job_id, launch_name(), here.global_rank, here.local_rank, here.num_tasks,
                 here.num_tasks // here.num_nodes, node, tuple(here.hostnames))


def launch_name() -> str:
    """Job and restart: equal in all tasks and in the batch script of one start."""
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def meet(run: Path, place: Place) -> dict[str, object]:
    """Rank 0 takes the run directory over and says where the ranks meet; the others read it: launch, host, port.

    Whoever still runs for an earlier launch (its node was thought dead) sees it and ends: see `slurm.watch`."""
    path = run / LAUNCH
    if place.rank == 0:
        found = {"launch": place.launch, "job": place.job, "node": place.node, "host": place.hosts[0],
                 "port": free_port(), "time": time.time()}
        write_json(path, found)
        return found
    deadline = time.monotonic() + MEET_SECONDS
    while time.monotonic() < deadline:
        found = read_json(path, {})
        if found.get("launch") == place.launch:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"rank 0 of launch {place.launch} did not say within {MEET_SECONDS:.0f} s where to meet")


def wait_for_parents(run: Path) -> None:
    """Until this node sees what Slurm waited for elsewhere; file systems may tell a node late. Gives up in silence."""
    links = (read_json(run / "spec.json", {}).get("parents") or {}).values()
    markers = [run.parent.parent / link["stage"] / link["id"] / "DONE" for link in links]
    deadline = time.monotonic() + VISIBLE_SECONDS
    while time.monotonic() < deadline and not all(marker.exists() for marker in markers):
        time.sleep(1.0)


def environment(place: Place, host: object, port: object) -> dict[str, str]:
    """What torch and `experiments.execute` read. The devices stay as Slurm gave them."""
    return {"RANK": str(place.rank), "LOCAL_RANK": str(place.local_rank), "WORLD_SIZE": str(place.world),
            "LOCAL_WORLD_SIZE": str(place.local_world), "MASTER_ADDR": str(host), "MASTER_PORT": str(port),
            "BEGIRA_LAUNCH": place.launch, "BEGIRA_BACKEND": "slurm", "BEGIRA_JOB": place.job,
            "BEGIRA_NODE": place.node}


def free_port() -> int:
    """A port of this node that is free now, below the range that outgoing connections take."""
    import random

    source = random.SystemRandom()
    while True:
        port = source.randrange(10000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
                return port
            except OSError:
                continue


def _log_to(path: Path) -> None:
    """Let this process, and what it starts, write to the node's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _watch(run: Path, place: Place) -> subprocess.Popen[bytes]:
    """A small process that sees what this one cannot when it hangs or has been superseded."""
    arguments = [sys.executable, "-S", "-m", "slurm.watch", str(run), place.launch, place.job, place.node,
                 str(place.rank), str(os.getpid())]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
