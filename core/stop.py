"""When a process has to end: asked to stop, and why; or because the one that it works for is gone.

Signal handlers do nothing but raise a flag; the training loop looks at it at step boundaries, where all ranks agree,
save together and leave. Forked children (data workers) never act on it."""
from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_reason: str | None = None
_NAMES = {signal.SIGUSR2: "time limit or preemption (SIGUSR2)", signal.SIGTERM: "terminated (SIGTERM)",
          signal.SIGINT: "interrupted (SIGINT)"}


def request(reason: str) -> None:
    global _reason
    _reason = _reason or reason


def requested() -> str | None:
    return _reason


def clear() -> None:
    global _reason
    _reason = None


def install(*signals: int) -> dict[int, object]:
    """Let these signals (default: USR2, TERM, INT) raise the flag; returns the handlers that stood there before."""
    previous = {s: signal.getsignal(s) for s in signals or tuple(_NAMES)}
    for number in previous:
        signal.signal(number, lambda received, frame: request(_NAMES.get(received, f"signal {received}")))
    os.register_at_fork(after_in_child=_leave_children_alone)
    return previous


def _leave_children_alone() -> None:
    """A data worker dies by SIGTERM as usual and ignores what is meant for the run as a whole."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def die_with(parent: int) -> None:
    """Let the kernel kill this process (SIGKILL) when process `parent`, which has started it, is gone by whatever
    means, also while this one starts: who asks for its parent only then has another one already.

    Elsewhere than on Linux only the latter is seen; what is to end there has to look."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        pass
    if os.getppid() != parent:
        os._exit(1)
