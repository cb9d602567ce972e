"""A process that has imported the heavy libraries once and forks a rank of a run whenever it is told to.

`python -m slurm.forkserver MODULE ...`: it reads requests as JSON lines on standard input and answers on standard
output ({"ready"}, {"spawned"}, {"exited"}). It has one thread and never runs user code itself. When its driver dies, by
whatever, it dies, and every rank with it (PR_SET_PDEATHSIG): a killed driver leaves nothing running behind its back.
"""
from __future__ import annotations

import faulthandler
import importlib
import json
import os
import select
import signal
import sys
from typing import Any

from core.stop import die_with

_WATCHED = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)  # held back until the rank has its handlers


def main(modules: list[str]) -> None:
    """Preload, then serve until standard input closes."""
    die_with(os.getppid())  # where that was late: standard input is closed
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not look like an answer
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            pass  # the rank that needs it will say so, in its own log and record
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _answer(answers, {"ready": True})
    children: dict[int, str] = {}
    buffer = b""
    while True:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            _reap(children, answers)
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                _spawn(json.loads(line), children, answers)
    for pid in children:
        _kill(pid)


def _spawn(request: dict[str, Any], children: dict[int, str], answers: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _rank(request, server)
        except BaseException:  # the child must never fall back into the server's loop
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    children[pid] = request["key"]
    _answer(answers, {"spawned": request["key"], "pid": pid})


def _rank(request: dict[str, Any], server: int) -> int:
    """In the child: a process group, an environment and a log of its own, then the run."""
    die_with(server)
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(request["env"])
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(request["env"].get("OMP_NUM_THREADS", "1")))
    from core import stop
    from experiments.execute import execute

    stop.install()
    stacks = f"{request['log'].removesuffix('.log')}_rank{int(request['env']['RANK']):04d}.stacks"
    with open(stacks, "a", encoding="utf-8") as stream:
        faulthandler.register(signal.SIGUSR1, file=stream, all_threads=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        try:
            return execute(request["run_dir"])
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            if not os.path.getsize(stacks):
                os.unlink(stacks)


def _reap(children: dict[int, str], answers: int) -> None:
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        key = children.pop(pid, None)
        _kill(pid)  # its data workers, should it have left any
        if key is not None:
            _answer(answers, {"exited": key, "pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _kill(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _answer(descriptor: int, message: dict[str, Any]) -> None:
    try:
        os.write(descriptor, (json.dumps(message) + "\n").encode())
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
