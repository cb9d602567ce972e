"""The driver's end of the fork server, and one job of it: all ranks of one attempt of one run."""
from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.files import write_json
from experiments.expand import Desired
from experiments.store import Stored
from slurm.job import free_port
from slurm.watch import DUMP_SECONDS, Progress, from_environment

# Imported once by the server for stages of `core`; what is missing here is merely imported by each rank.
HEAVY = ("torch", "transformers", "transformers.models.llama.modeling_llama", "transformers.models.clip.modeling_clip",
         "transformers.models.llava.modeling_llava", "deepspeed", "PIL.Image")
GRACE_BAD_EXIT = 2.0     # seconds that the other ranks get to record why, once one failed
GRACE_STOP = 120.0       # seconds that a run gets to save after it was asked to stop


class ServerDied(RuntimeError):
    """The fork server was killed, and with it every rank."""


class Server:
    """Starts the fork server on first use; `poll` gives what happened since."""

    def __init__(self, modules: Sequence[str], log: Path):
        heavy = HEAVY if any(module.startswith("core.") for module in modules) else ()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                       "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with open(log, "ab") as stream:  # what libraries say when they are imported
            self.process = subprocess.Popen(
                [sys.executable, "-m", "slurm.forkserver", *heavy, "omegaconf", "experiments.execute", *modules],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
                start_new_session=True)
        self._buffer = b""

    def spawn(self, key: str, run_dir: Path, environment: dict[str, str], log: Path) -> None:
        request = {"key": key, "run_dir": str(run_dir), "env": environment, "log": str(log)}
        with suppress(BrokenPipeError):  # the next poll finds out
            self.process.stdin.write((json.dumps(request) + "\n").encode())
            self.process.stdin.flush()

    def poll(self, wait: float) -> list[dict[str, Any]]:
        """Answers that arrived within `wait` seconds. Raises ServerDied."""
        readable, _, _ = select.select([self.process.stdout], [], [], wait)
        if not readable:
            return []
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            raise ServerDied(f"the fork server ended with code {self.process.wait()}")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """End the server and every rank that is left."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


@dataclass
class Job:
    """One attempt of a run on this machine."""

    run: Desired
    path: Path
    devices: list[str] = field(default_factory=list)       # GPUs that are its own
    number: int = 1                                         # of the attempt, for the name of its log
    launch: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    started: float = field(default_factory=time.time)
    pids: dict[int, int] = field(default_factory=dict)      # rank: pid
    codes: dict[int, int] = field(default_factory=dict)     # rank: exit code, negative for a signal
    ended: str = ""                                         # cause, once we have ended it ourselves
    asked: float = 0.0                                      # when it was asked to stop
    first_exit: float = 0.0
    limit: float = 0.0                                      # seconds it may run; 0: no limit
    margin: float = 0.0                                     # seconds before the limit at which it is asked to save
    hangs: float = 0.0                                      # when it was found to hang
    progress: Progress = field(default_factory=from_environment)

    @property
    def over(self) -> bool:
        return len(self.codes) == self.run.world_size

    def start(self, server: Server) -> None:
        runtime = self.run.runtime
        nodes, local = int(runtime["nodes"]), int(runtime["ranks_per_node"])
        self.limit = 60 * float(runtime["time_minutes"])
        self.margin = min(float(runtime["signal_seconds"]), self.limit / 2)
        port = free_port()
        (self.path / "logs").mkdir(exist_ok=True)
        for rank in range(nodes * local):
            node = rank // local
            devices = self.devices[node * local:(node + 1) * local]
            server.spawn(f"{self.launch}:{rank}", self.path, {
                "RANK": str(rank), "LOCAL_RANK": str(rank % local), "WORLD_SIZE": str(nodes * local),
                "LOCAL_WORLD_SIZE": str(local), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": str(runtime["threads"]), "BEGIRA_LAUNCH": self.launch, "BEGIRA_BACKEND": "local",
                "BEGIRA_JOB": self.launch, "BEGIRA_NODE": f"node{node}",
                **({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}),
            }, self.path / "logs" / f"{self.number:04d}_node{node}.log")

    def send(self, number: int) -> None:
        """A signal to every rank that lives and whose pid is known."""
        for rank, pid in self.pids.items():
            if rank not in self.codes:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def ask_to_stop(self, number: int, cause: str) -> None:
        if not self.asked:
            self.asked, self.ended = time.time(), self.ended or cause
            self.send(number)

    def kill(self, cause: str) -> None:
        self.ended = self.ended or cause
        self.send(signal.SIGKILL)

    def see(self, record: Stored, now: float) -> None:
        """Take the run's heartbeat; a run whose step stands still writes the stacks of its ranks and is then killed."""
        own = record.attempts and record.attempts[-1].record.get("launch") == self.launch
        if not own or record.heartbeat.get("attempt") != record.attempts[-1].number or self.hangs or self.asked:
            return
        waited = self.progress.see(record.heartbeat, now)
        if waited is not None:
            self.hangs = now
            beat = {key: record.heartbeat.get(key) for key in ("step", "phase", "attempt")}
            write_json(self.path / "attempts" / f"{self.number:04d}.hang.json", {**beat, "waited": waited, "time": now})
            self.send(signal.SIGUSR1)

    def watch(self, now: float) -> None:
        """Time limit, ranks that outlive a failed one, and runs that do not stop when asked."""
        if self.limit and now > self.started + self.limit:
            self.kill("time_limit")
        elif self.limit and now > self.started + self.limit - self.margin:
            self.ask_to_stop(signal.SIGUSR2, "time_limit")
        if self.hangs and now > self.hangs + DUMP_SECONDS:
            self.kill("hang")
        failed = any(code not in (0, 75) for code in self.codes.values())
        if self.first_exit and failed and now > self.first_exit + GRACE_BAD_EXIT:
            self.send(signal.SIGKILL)
        stopped = 75 in self.codes.values() and now > self.first_exit + GRACE_STOP
        if stopped or (self.asked and now > self.asked + GRACE_STOP):
            self.send(signal.SIGKILL)
