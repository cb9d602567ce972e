"""Starting and ending the daemons of a cluster, inside its keeper process; `keeper` and `cluster` ask for it."""
from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster import processes
from tests.cluster.configuration import Layout, Options, lay_out

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Daemons:
    """munged, mariadbd, slurmdbd, slurmctld and the slurmds of the cluster in `root`."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.log = self.root / "log"
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def layout(self) -> Layout:
        return Layout.load(self.root)

    def environment(self) -> dict[str, str]:
        """This process's environment without another Slurm's variables, bound to this cluster."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SLURMD_", "SBATCH_", "SRUN_"))}
        return {**kept, "SLURM_CONF": f"{self.root}/slurm.conf", "PATH": PATH}

    # -- bookkeeping: pids.json holds name -> [pid, start time]
    def pids(self) -> dict[str, list[int]]:
        file = self.root / "pids.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def record(self, name: str, pid: int | None) -> None:
        known = self.pids()
        known.pop(name, None)
        if pid is not None:
            known[name] = [pid, processes.start_time(pid) or 0]
        temporary = self.root / "pids.tmp"
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(self.root / "pids.json")

    def alive(self, name: str) -> int | None:
        known = self.pids().get(name)
        return known[0] if known and processes.start_time(known[0]) == known[1] else None

    # -- helpers
    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise RuntimeError(f"{command} -> {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def spawn(self, name: str, command: list[str], **extra: str) -> None:
        with open(self.log / f"{name}.out", "ab") as out:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.root,
                                     env={**self.environment(), **extra}, start_new_session=True)
        self.record(name, child.pid)
        self.children[name] = child

    def wait(self, what: str, ready: Callable[[], Any], name: str = "", timeout: float = 60,
             every: float = 0.05) -> None:
        begin = time.monotonic()
        while not ready():
            child = self.children.get(name)
            gone = child is not None and child.poll() is not None
            if gone or time.monotonic() - begin > timeout:
                file = self.log / f"{name}.out"
                tail = file.read_text(errors="replace")[-3000:] if file.exists() else ""
                raise RuntimeError(f"{name} ended before {what}:\n{tail}" if gone else f"timeout: {what}\n{tail}")
            time.sleep(every)

    # -- start, in this order
    def start(self, options: Options) -> Layout:
        """Everything up and every node idle, in a directory that is the cluster's own: it is emptied for another try.

        Raises RuntimeError with the last lines of the daemon that failed."""
        for left in (2, 1, 0):  # another process may take a port between our look and the daemon's bind
            try:
                return self._start(options)
            except RuntimeError as error:
                logs = "".join(f.read_text(errors="replace")[-4000:] for f in self.log.glob("*.out"))
                if not left or "ddress already in use" not in str(error) + logs:
                    raise
                shutil.rmtree(self.root, ignore_errors=True)
        raise AssertionError

    def _start(self, options: Options) -> Layout:
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        self.log.mkdir(exist_ok=True)
        self.record("keeper", os.getpid())
        begin, laps = time.monotonic(), {}
        try:
            layout = lay_out(self.root, options)
            self.start_munge()
            if options.accounting:
                self.start_database(layout)
                laps["mariadbd"] = time.monotonic() - begin
                self.start_slurmdbd()
                laps["slurmdbd"] = time.monotonic() - begin
            self.start_slurmctld()
            for node in layout.nodes:
                self.start_node(node)
            self.wait_nodes(layout.nodes)
        except BaseException:
            self.stop(keep=True)
            raise
        laps["total"] = time.monotonic() - begin
        layout.started = {k: round(v, 2) for k, v in laps.items()}
        layout.save(self.root)
        return layout

    def start_munge(self) -> None:
        folder = self.root / "munge"
        self.spawn("munged", ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket.2",
                              f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid",
                              f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
                              "--num-threads=4"])
        ping = ["munge", "-n", "-S", str(folder / "munge.socket.2")]
        self.wait("munge answers", lambda: (folder / "munge.socket.2").exists() and subprocess.run(
            ping, capture_output=True).returncode == 0, "munged")

    def start_database(self, layout: Layout) -> None:
        data = self.root / "db" / "data"
        common = ["--no-defaults", f"--datadir={data}", f"--user={layout.user}"]
        quick = ["--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"]
        template = layout.options.template
        if template and Path(template).is_dir():
            shutil.copytree(template, data)
        else:
            self.run("mariadb-install-db", *common, *quick, "--auth-root-authentication-method=normal",
                     "--skip-test-db", "--skip-name-resolve", "--cross-bootstrap", "--innodb-fast-shutdown=1")
        first = self.root / "db" / "init.sql"
        first.write_text("CREATE DATABASE IF NOT EXISTS slurm_acct;\n"
                         "CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';\n"
                         "GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';\n")
        self.spawn("mariadbd", ["mariadbd", *common, *quick, f"--socket={self.root}/db/s", f"--port={layout.db_port}",
                                "--bind-address=127.0.0.1", f"--pid-file={self.root}/db/mariadbd.pid",
                                f"--init-file={first}", "--skip-name-resolve", "--innodb-buffer-pool-size=64M",
                                "--innodb-lock-wait-timeout=900", "--innodb-flush-method=nosync", "--skip-log-bin",
                                "--performance-schema=0", "--max-allowed-packet=16M"])
        self.wait("the database's port", lambda: _listens(layout.db_port), "mariadbd")

    def start_slurmdbd(self) -> None:
        layout = self.layout
        self.spawn("slurmdbd", ["slurmdbd", "-D"])  # finds slurmdbd.conf beside slurm.conf
        self.wait("slurmdbd's port", lambda: _listens(layout.dbd_port), "slurmdbd", timeout=120)

        def answers() -> bool:
            done = subprocess.run(["sacctmgr", "-n", "-P", "list", "cluster"], env=self.environment(),
                                  capture_output=True, text=True)
            if "pars" in done.stderr.lower():  # a key this Slurm does not know: waiting does not help
                raise RuntimeError(done.stderr)
            return done.returncode == 0
        self.wait("sacctmgr answers", answers, "slurmdbd")
        if layout.name not in self.run("sacctmgr", "-n", "-P", "list", "cluster", "format=cluster").split():
            self.run("sacctmgr", "-i", "-Q", "add", "cluster", layout.name)
        limit = layout.options.max_submit
        if limit:
            self.run("sacctmgr", "-i", "-Q", "add", "account", "study", check=False)
            self.run("sacctmgr", "-i", "-Q", "add", "user", layout.user, "account=study", "defaultaccount=study",
                     check=False)
            self.run("sacctmgr", "-i", "-Q", "modify", "user", layout.user, "where", "account=study", "set",
                     f"maxsubmitjobs={limit}")
            if layout.user == "root":  # comes with an association of its own
                self.run("sacctmgr", "-i", "-Q", "modify", "user", "root", "set", f"maxsubmitjobs={limit}")

    def start_slurmctld(self) -> None:
        self.spawn("slurmctld", ["slurmctld", "-D"])
        self.wait("slurmctld", lambda: "is UP" in self.run("scontrol", "ping", check=False), "slurmctld", every=0.1)

    def start_node(self, node: str) -> None:
        (self.root / "spool" / node).mkdir(mode=0o755, exist_ok=True)
        self.spawn(f"slurmd-{node}", ["slurmd", "-D", "-N", node], BEGIRA_TEST_NODE=f"{self.root}:{node}")

    def wait_nodes(self, nodes: list[str], timeout: float = 60) -> None:
        def up() -> bool:
            listing = self.run("sinfo", "-h", "-N", "-o", "%N %T", "-p", "debug", check=False)
            states = dict(line.split() for line in listing.splitlines() if line.strip())
            return all(states.get(node) in ("idle", "mixed", "allocated") for node in nodes)
        self.wait(f"nodes {nodes} up", up, timeout=timeout, every=0.1)

    # -- faults and the end
    def kill_node(self, node: str, daemon_only: bool = False) -> None:
        """A node's sudden death: slurmd, its slurmstepds and all they run, by SIGKILL.

        daemon_only: slurmd alone dies; the job's processes live on beside the attempt that Slurm starts elsewhere."""
        victims = [] if daemon_only else [k for p in self.job_processes(node) for k in [p, *processes.descendants(p)]]
        pid = self.alive(f"slurmd-{node}")
        processes.kill(([pid] if pid else []) + victims)
        self.record(f"slurmd-{node}", None)

    def job_processes(self, node: str | None = None) -> list[int]:
        nodes = [node] if node else self.layout.nodes
        return processes.of_cluster(self.root, nodes, {known[0] for known in self.pids().values()})

    def end(self, name: str, first: int = signal.SIGTERM, grace: float = 10) -> None:
        pid = self.alive(name)
        begin = time.monotonic()
        if pid:
            os.kill(pid, first)
        while pid and self.alive(name):
            if name in self.children:
                self.children[name].poll()
            if time.monotonic() - begin > grace:
                processes.kill([pid])
                grace += 5
            time.sleep(0.02)
        self.record(name, None)

    def stop(self, keep: bool = False) -> None:
        """keep=False: everything by SIGKILL, the directory removed. keep=True: in order, and the directory stays."""
        number = signal.SIGTERM if keep else signal.SIGKILL
        slurmds = [name for name in self.pids() if name.startswith("slurmd-")]
        if keep and self.alive("slurmctld"):
            self.run("scancel", "-Q", f"--user={getpass.getuser()}", check=False)
            try:
                self.wait("jobs gone", lambda: not self.run("squeue", "-h", check=False).strip(), timeout=8, every=0.1)
            except RuntimeError:
                pass
        if not keep:
            self.end("slurmctld", number)  # first: it must start nothing more
        for name in slurmds:
            self.end(name, number)
        for _ in range(5):
            left = self.job_processes() if (self.root / "meta.json").exists() else []
            processes.kill(k for pid in left for k in [pid, *processes.descendants(pid)])
            if not left:
                break
            time.sleep(0.05)
        for name in ("slurmctld", "slurmdbd", "mariadbd"):
            self.end(name, number)
        self.end("munged")
        if not keep:
            shutil.rmtree(self.root, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
