"""Why an attempt ended, from evidence, and what follows. Pure: everything that is known comes in as an `Evidence`.

The causes are those of `experiments.state.CAUSES`, where their worth in further attempts stands; here is how they are
told apart. The culprit's own record comes first, then what Slurm says, then the
log; a rank that died with the others (`--kill-on-bad-exit` shows 9:0 for all of them) is never the culprit."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.symptoms import SYMPTOMS, symptom

_LOG = (  # Slurm's words around those of the ranks; the first that matches decides
    ("memory_host", r"exceeded memory limit|oom[-_ ]kill|Out Of Memory|OUT_OF_MEMORY|Detected \d+ oom"),
    ("node_failure", r"Node failure on"),
    *SYMPTOMS,
    ("time_limit", r"DUE TO TIME LIMIT"),
    ("preempted", r"DUE TO PREEMPTION"),
    ("cancelled", r"\*\*\* JOB .* CANCELLED AT \S+ \*\*\*"),  # without "DUE TO": a person's scancel
    ("code", r"ModuleNotFoundError|ImportError|SyntaxError"),
)
_SLURM = {"TIMEOUT": "time_limit", "DEADLINE": "time_limit", "PREEMPTED": "preempted", "REQUEUED": "preempted",
          "NODE_FAIL": "node_failure", "BOOT_FAIL": "node_failure", "OUT_OF_MEMORY": "memory_host",
          "CANCELLED": "cancelled"}
_WORDS = {"time_limit": "time limit reached", "preempted": "preempted", "node_failure": "its node failed",
          "memory_host": "out of memory on the host", "cancelled": "cancelled with scancel",
          "memory_gpu": "out of memory on the GPU", "disk_full": "disk or quota full",
          "rendezvous": "the ranks did not find each other", "asset": "a file from the internet was needed",
          "code": "an error in the code", "killed": "a process was killed", "hang": "no step for too long"}


@dataclass(frozen=True)
class Evidence:
    """What is known of an ended attempt. Everything may be missing."""

    state: str = ""                     # Slurm's, e.g. "FAILED", "CANCELLED by 1000"
    exit_code: int = 0                  # of srun or of the job
    exit_signal: int = 0
    nodes: str = ""
    failure: Mapping[str, Any] = field(default_factory=dict)   # record of the rank that failed first
    hang: Mapping[str, Any] = field(default_factory=dict)      # record of the hang watch
    log: str = ""                       # last lines of the job's and the node's logs
    listening: bool = True              # whether the attempt had begun to listen to signals


@dataclass(frozen=True)
class Verdict:
    cause: str
    reason: str
    node: str = ""
    rank: int | None = None


def triage(evidence: Evidence) -> Verdict:
    """The cause, in one line of words, with the node and the rank where they are known."""
    state = evidence.state.split()[0].rstrip("+") if evidence.state else ""
    nodes = evidence.nodes
    if evidence.hang:
        waited, step = evidence.hang.get("waited", 0), evidence.hang.get("step")
        return Verdict("hang", f"no step for {waited:.0f} s after step {step}; the stacks of all ranks are in logs/",
                       evidence.nodes if evidence.nodes == evidence.hang.get("node") else "")
    if evidence.failure and evidence.failure.get("cause") not in ("rendezvous", "unknown"):
        return _of_rank(evidence.failure, evidence.failure["cause"])
    if state in _SLURM:
        return Verdict(_SLURM[state], _WORDS[_SLURM[state]], nodes)
    if told := symptom(evidence.log, _LOG):
        cause, words = told
        line = next((one.strip() for one in evidence.log.splitlines() if words in one), words)
        return Verdict(cause, f"{_WORDS[cause]}: {line[:160]}", nodes)
    if evidence.failure:
        return _of_rank(evidence.failure, evidence.failure.get("cause") or "unknown")
    return _of_code(evidence)


def _of_rank(failure: Mapping[str, Any], cause: str) -> Verdict:
    return Verdict(cause, f"rank {failure.get('rank')}: {failure.get('type')}: {failure.get('message')}"[:300],
                   str(failure.get("node", "")), failure.get("rank"))


def _of_code(evidence: Evidence) -> Verdict:
    number = evidence.exit_signal or (evidence.exit_code - 128 if evidence.exit_code > 128 else 0)
    if number in (10, 12) and not evidence.listening:
        return Verdict("preempted", "the signal to stop came before it listened", evidence.nodes)
    if number == 15:
        return Verdict("preempted", "terminated (SIGTERM)", evidence.nodes)
    if number in (4, 6, 7, 8, 11):
        return Verdict("unknown", f"a process crashed with signal {number}", evidence.nodes)
    if number:
        return Verdict("killed", f"a process was killed by signal {number}", evidence.nodes)
    if evidence.exit_code == 2:
        return Verdict("user", "see its log", evidence.nodes)
    code = evidence.exit_code
    return Verdict("unknown", f"ended with exit code {code}; see its log" if code else "ended without a word",
                   evidence.nodes)
