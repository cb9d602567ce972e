"""What Slurm says of this user's jobs: one squeue, and one sacct for what squeue has forgotten. Parsed, not yet judged.

squeue knows what waits and runs, and for some minutes what ended; it is the authority. sacct lags by seconds and may be
down with its database; then what the runs recorded themselves has to do."""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.errors import UserError
from slurm import commands

SQUEUE = "%i|%j|%T|%r|%N"
SACCT = "JobID,JobName,State,ExitCode,NodeList,Start"
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY",
                   "BOOT_FAIL", "DEADLINE", "REVOKED"})
SLURM = "slurm"
_NAMELESS = "allocation"    # what sacct calls a job that was cancelled before the database had heard of it
_WAITS = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})


@dataclass(frozen=True)
class Job:
    """One job or array element."""

    id: str                     # 123 or 123_4
    name: str
    state: str                  # Slurm's first word, e.g. RUNNING
    reason: str = ""
    nodes: str = ""
    exit_code: int = 0
    exit_signal: int = 0
    started: bool = True
    by: str = ""                # who cancelled it, where sacct says so: a user's number, or SLURM itself

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def waits(self) -> bool:
        return self.state in _WAITS

    @property
    def held(self) -> bool:
        return self.waits and (self.reason.startswith("JobHeld") or "held" in self.reason.lower())


@dataclass
class Queue:
    """The user's jobs by id. `accounting` is False where sacct was asked and could not answer."""

    jobs: dict[str, Job] = field(default_factory=dict)
    accounting: bool = True

    def live(self) -> list[Job]:
        return [job for job in self.jobs.values() if not job.ended]


def look(patience: float = commands.PATIENCE) -> Queue:
    """What squeue knows: one command for any number of runs."""
    text = commands.call("squeue", "--noheader", "--array", "--states=all", f"--user={commands.user()}",
                         f"--format={SQUEUE}", patience=patience)
    return Queue({job.id: job for job in parse_squeue(text)})


def add_history(queue: Queue, jobs: Mapping[str, str]) -> None:
    """Lay what sacct knows of these jobs ({id, of an array its own: name}) under what squeue said.

    It is asked by id: by time it leaves out what was cancelled while it waited for its parents."""
    wanted = {*jobs.values(), _NAMELESS}
    try:
        text = commands.call("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(sorted(jobs))}",
                             f"--format={SACCT}", patience=0.0, timeout=30.0)
    except UserError:
        queue.accounting = False
        return
    for job in parse_sacct(text):
        if job.name in wanted and job.ended:
            queue.jobs.setdefault(job.id, job)


def parse_squeue(text: str) -> list[Job]:
    jobs = []
    for line in text.splitlines():
        parts = _columns(line, 5)
        if len(parts) == 5:
            state, reason = parts[2].split()[0], parts[3]
            jobs.append(Job(parts[0], parts[1], state, "" if reason == "None" else reason, parts[4]))
    return jobs


def parse_sacct(text: str) -> list[Job]:
    """One job per element; of several rows of one job (it was requeued) the last counts."""
    found: dict[str, Job] = {}
    for line in text.splitlines():
        parts = _columns(line, 6)
        if len(parts) < 6 or not parts[2]:
            continue
        words = parts[2].split()
        code, _, number = parts[3].partition(":")
        for id_ in expand(parts[0]):
            found[id_] = Job(id_, parts[1], words[0].rstrip("+"), "", "" if parts[4] == "None assigned" else parts[4],
                             _number(code), _number(number), parts[5] not in ("Unknown", "None", ""),
                             (words[-1] if len(words) > 2 else SLURM) if words[0] == "CANCELLED" else "")
    return list(found.values())


def _columns(line: str, count: int) -> list[str]:
    """A line's columns. The second, the job's name, may hold a `|` of its own: the user's other jobs are listed too."""
    first, _, rest = line.strip().partition("|")
    return [first, *rest.rsplit("|", count - 2)]


def expand(job: str) -> list[str]:
    """123_[0,2-4%2] -> 123_0 123_2 123_3 123_4; any other id is itself; a step of a job is nothing."""
    if "." in job:
        return []
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if not match:
        return [job]
    result = []
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        result += [f"{match[1]}_{index}" for index in range(int(first), int(last or first) + 1)]
    return result


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
