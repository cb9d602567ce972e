"""Command line of the test cluster: up, down, status, install, call."""
from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import tests.cluster as package
from tests.cluster.cluster import Cluster, missing_programs, template
from tests.cluster.configuration import Options

PACKAGES = "slurmctld slurmd slurmdbd slurm-client munge mariadb-server-core mariadb-client-core"


def up(arguments: argparse.Namespace) -> int:
    if missing_programs():
        print(f"not installed: {' '.join(missing_programs())}; run `python -m tests.cluster install`", file=sys.stderr)
        return 2
    known = {field.name for field in dataclasses.fields(Options)}
    chosen = {name: value for name, value in vars(arguments).items() if name in known and value is not None}
    cluster = Cluster.launch(arguments.dir, Options(**{**chosen, "template": template()}))
    layout = cluster.layout
    print(f"A Slurm with {len(layout.nodes)} nodes ({layout.options.cpus} CPUs, {layout.options.gpus} pretended GPUs "
          f"each) runs in {cluster.root}.\nIn this shell:\n\n"
          f"  export SLURM_CONF={cluster.root}/slurm.conf PATH={cluster.root}/bin:$PATH\n"
          f"  sinfo\n  begira submit mini --cluster virtual\n\n"
          f"A node dies:  python -m tests.cluster call {cluster.root} kill-node {layout.nodes[-1]}\n"
          f"The end:      python -m tests.cluster down {cluster.root}")
    return 0


def install() -> int:
    """Install what is missing with apt when that is allowed; otherwise say what to ask for. Exit code 3: not done."""
    if not missing_programs():
        print("everything is installed")
        return 0
    command = f"apt-get install -y --no-install-recommends {PACKAGES}"
    prefix = [] if os.getuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") and (not prefix or shutil.which("sudo")):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for step in ("apt-get update -qq", command):
            subprocess.run([*prefix, *step.split()], env=environment, stdout=subprocess.DEVNULL)
    if missing_programs():
        print(f"The Slurm tests need {' '.join(missing_programs())}.\nOn Debian or Ubuntu, as root: {command}\n"
              "No service has to run, nothing to be configured; until then these tests are skipped.", file=sys.stderr)
        return 3
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=package.__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("install")
    for verb in ("up", "down", "status", "call"):
        command = verbs.add_parser(verb)
        command.add_argument("dir", type=Path)
        if verb == "up":
            for name in ("nodes", "cpus", "gpus", "memory", "max_array", "max_submit"):
                command.add_argument(f"--{name.replace('_', '-')}", type=int)
            command.add_argument("--preempt", choices=["signal", "plain"])
        if verb == "call":
            command.add_argument("request", choices=["kill-node", "start-node", "kill-daemon", "start-daemon"])
            command.add_argument("what")
            command.add_argument("--daemon-only", action="store_true")
    arguments = parser.parse_args()
    try:
        return act(arguments)
    except (FileNotFoundError, ConnectionRefusedError):
        print(f"no keeper answers in {arguments.dir}: `python -m tests.cluster down` ends the rest", file=sys.stderr)
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
    return 2


def act(arguments: argparse.Namespace) -> int:
    if arguments.verb == "install":
        return install()
    if arguments.verb == "up":
        return up(arguments)
    cluster = Cluster.find(arguments.dir)
    if arguments.verb == "down":
        cluster.stop()
    elif arguments.verb == "call":
        cluster.call(arguments.request, arguments.what, daemon_only=arguments.daemon_only)
    else:
        for name in cluster.daemons.pids():
            print(f"{name:22} {cluster.daemons.alive(name) or 'DEAD'}")
        print(cluster.run("sinfo", "-N", "-l", check=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
