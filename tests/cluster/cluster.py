"""What a test or a person holds: launch a cluster, bind the environment to it, break it on purpose, end it."""
from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.cluster.configuration import Layout, Options
from tests.cluster.daemons import PATH, Daemons

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "srun", "sacct")


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if not shutil.which(program, path=PATH)]


class Cluster:
    """A running cluster, known by its directory."""

    def __init__(self, root: Path | str):
        self.root = Path(root).resolve()
        self._keeper: subprocess.Popen[bytes] | None = None

    @classmethod
    def launch(cls, root: Path | str, options: Options) -> Cluster:
        """Start it in a new or empty directory, which is its own from then on, and return when every node is idle.

        Raises RuntimeError with the cause."""
        cluster = cls(root)
        if len(str(cluster.root)) > 80:
            raise RuntimeError(f"{cluster.root}: name too long for unix sockets (108 bytes), choose a shorter one")
        cluster.root.mkdir(parents=True, exist_ok=True)
        if any(cluster.root.iterdir()):
            raise RuntimeError(f"{cluster.root} is not empty, and a cluster's end removes its directory: give another")
        reader, writer = os.pipe()
        with open(cluster.root / "keeper.out", "ab") as out:
            command = [sys.executable, "-m", "tests.cluster.keeper", str(cluster.root), json.dumps(vars(options)),
                       str(writer)]
            cluster._keeper = subprocess.Popen(command, pass_fds=[writer], cwd=REPOSITORY, stdin=subprocess.DEVNULL,
                                               stdout=out, stderr=out, start_new_session=True)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answer = json.loads(pipe.read() or '{"error": "the keeper died: see keeper.out"}')
        if "error" in answer:
            cluster._keeper.wait()
            raise RuntimeError(answer["error"])
        return cluster

    @classmethod
    def find(cls, root: Path | str) -> Cluster:
        """The cluster that was launched there. Raises RuntimeError for any other directory: its end would remove it."""
        cluster = cls(root)
        try:
            Layout.load(cluster.root)
        except (OSError, ValueError, TypeError, KeyError):
            raise RuntimeError(f"{cluster.root} holds no test cluster (no meta.json of one): give the directory that "
                               "`up` was given") from None
        return cluster

    @property
    def layout(self) -> Layout:
        return Layout.load(self.root)

    @property
    def daemons(self) -> Daemons:
        return Daemons(self.root)

    @property
    def variables(self) -> dict[str, str]:
        """What to set so that every Slurm command, and submitit, speaks to this cluster."""
        return {"SLURM_CONF": f"{self.root}/slurm.conf", "PATH": f"{self.root}/bin:{os.environ.get('PATH', '')}"}

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """Output of a Slurm command, not noted in calls.log."""
        return self.daemons.run(*command, check=check, timeout=timeout)

    def calls(self, tool: str = "sbatch") -> list[tuple[int, str]]:
        """(exit status, arguments) of every call of `tool` so far."""
        file = self.root / "calls.log"
        rows = (line.split(" ", 2) for line in (file.read_text().splitlines() if file.exists() else []))
        return [(int(row[1]), row[2] if len(row) > 2 else "") for row in rows if row[0] == tool]

    def call(self, verb: str, what: str = "", **more: Any) -> None:
        """Ask the keeper: kill-node, start-node, kill-daemon, start-daemon, stop. Raises RuntimeError if it failed."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.root / "ctl"))
            control.sendall(json.dumps({"verb": verb, "what": what, **more}).encode() + b"\n")
            answer = json.loads(control.makefile().readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])

    def stop(self, keep: bool = False) -> None:
        """End it; works also where the keeper itself was killed."""
        try:
            self.call("stop", keep=keep)
        except (FileNotFoundError, ConnectionRefusedError):
            self.daemons.stop(keep=keep)
        if self._keeper:
            self._keeper.wait(10)


def template() -> str:
    """A database directory with Slurm's tables and no jobs, made once per user and machine (12 s), then copied."""
    version = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, env={"PATH": PATH}).stdout.split()[-1]
    target = Path(tempfile.gettempdir()) / f"begira-slurm-{version}-{os.getuid()}"
    if not target.is_dir():
        scratch = tempfile.mkdtemp(prefix="bst")
        cluster = Cluster.launch(scratch, Options(nodes=1, owner=os.getpid()))
        cluster.stop(keep=True)
        try:
            os.rename(cluster.root / "db" / "data", target)
        except OSError:  # another session was quicker
            pass
        shutil.rmtree(scratch, ignore_errors=True)
    return str(target)
