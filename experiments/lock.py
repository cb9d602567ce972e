"""One process per thing: an advisory lock (flock) that ends with the process that holds it, however that ends.

Works between processes of one machine, and across nodes where the file system carries flock; attempt numbers (the
fence) hold where it does not. Forked children let go of it, so a worker that outlives its parent blocks nobody."""
from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Held(RuntimeError):
    """Another process holds the lock."""

    EXIT_CODE = 3  # of a process that found its run being executed by another one


@contextmanager
def hold(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` in the block. Raises Held if another process still has it after `wait` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    owner = os.getpid()
    try:
        _take(descriptor, path, wait)
        os.register_at_fork(after_in_child=lambda: _drop(descriptor, owner))
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds it now."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without flock
        return False
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Held(f"{path} is held by another process") from None
            time.sleep(0.05)
        except OSError:  # a file system without flock: the fence remains
            return


def _drop(descriptor: int, owner: int) -> None:
    """In a forked child, close the copy; the parent's lock stays. A reused number is told by its name."""
    with suppress(OSError):
        if os.getpid() != owner and os.readlink(f"/proc/self/fd/{descriptor}").endswith(".lock"):
            os.close(descriptor)
