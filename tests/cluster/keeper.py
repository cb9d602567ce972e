"""The parent of every daemon of a cluster. It reaps what they leave behind (slurmstepds, orphaned job processes: where
pid 1 is no init their zombies hold a job in COMPLETING), obeys `cluster.call`, ends the cluster with its owner."""
from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tests.cluster.configuration import Options
from tests.cluster.daemons import Daemons
from tests.cluster.processes import start_time

PR_SET_CHILD_SUBREAPER = 36


def keep(root: Path, options: Options, report: int) -> None:
    """Start the cluster, tell the outcome through the pipe `report`, then serve `root`/ctl until asked to stop."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    daemons = Daemons(root)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = start_time(options.owner) if options.owner else None
    try:
        layout = daemons.start(options)
    except BaseException as error:
        os.write(report, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(1)
    server = _listen(daemons.root / "ctl")
    os.write(report, json.dumps(layout.started).encode())
    os.close(report)
    inode, looked = (daemons.root / "ctl").stat().st_ino, time.monotonic()
    while True:
        if time.monotonic() - looked > 2:
            looked = time.monotonic()
            _end_if_removed(daemons, inode)
        _reap(daemons)
        if asked or (options.owner and start_time(options.owner) != owner):
            daemons.stop(keep=options.keep)
            os._exit(0)
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        with connection:
            request = json.loads(connection.makefile().readline())
            try:
                answer = obey(daemons, request)
            except ValueError as refused:
                answer = {"error": str(refused)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                pass
            if request["verb"] == "stop":
                os._exit(0)


def obey(daemons: Daemons, request: dict[str, Any]) -> dict[str, Any]:
    """One request: stop, kill-node, start-node, kill-daemon, start-daemon. Raises ValueError for a name that it does
    not know."""
    verb, what = request["verb"], request.get("what") or ""
    starters = {"slurmctld": daemons.start_slurmctld, "slurmdbd": daemons.start_slurmdbd}
    names = {"stop": [what], "kill-node": daemons.layout.nodes, "start-node": daemons.layout.nodes,
             "kill-daemon": [name for name in daemons.pids() if name != "keeper"], "start-daemon": list(starters)}
    if verb not in names or what not in names[verb]:
        raise ValueError(f"{verb} {what}: choose from {', '.join(names.get(verb, names))}")
    if verb == "stop":
        daemons.stop(keep=request.get("keep", False))
    elif verb == "kill-node":
        daemons.kill_node(what, request.get("daemon_only", False))
    elif verb == "start-node":
        daemons.start_node(what)
        daemons.wait_nodes([what])
    elif verb == "kill-daemon":
        daemons.end(what, getattr(signal, "SIG" + request.get("signal", "TERM")))
    else:
        starters[what]()
    return {}


def _listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    mask = os.umask(0o077)
    server.bind(str(path))
    os.umask(mask)
    server.listen(8)
    server.settimeout(0.05)
    return server


def _reap(daemons: Daemons) -> None:
    for child in daemons.children.values():
        child.poll()
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _end_if_removed(daemons: Daemons, inode: int) -> None:
    """Somebody removed the directory under us: only our own unreaped children are left to go by."""
    control = daemons.root / "ctl"
    if not control.exists() or control.stat().st_ino != inode:
        for child in daemons.children.values():
            if child.poll() is None:
                child.kill()
        os._exit(1)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), Options(**json.loads(sys.argv[2])), int(sys.argv[3]))
