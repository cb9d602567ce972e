"""A small process beside every rank that ends it when it must not go on: superseded by a newer launch, or hanging.

    fence    launch.json names another launch: this node was thought dead and the run goes on elsewhere. Killed at once,
             so that nothing of the old attempt is written beside the new one.
    hang     (beside rank 0) the step does not advance for 3 x the median step + 20 s (on Slurm + the profile's
             `hang_seconds`): the stacks of all ranks are written to logs/, the rank is killed, and with it, by
             --kill-on-bad-exit, the others.

It is a process and not a thread because a rank that hangs in a collective may hold the interpreter's lock. Phases other
than "train" (saving, evaluating) and the way to the first steps have budgets of their own."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.files import read_json, write_json
from core.stop import die_with

LAUNCH = "launch.json"               # which launch owns the run directory, and where its ranks meet
FACTOR, SLACK = 3.0, 20.0            # of the median step; seconds
PATIENCE = 3600.0                    # seconds for a phase that is not training, and until two steps are known
EVERY, SELDOM = 1.0, 5.0             # seconds between looks; the latter of other ranks than 0, once the run is theirs
DUMP_SECONDS = 3.0                   # for the ranks to write their stacks


@dataclass
class Progress:
    """Sees heartbeats and says when one is overdue. Pure: the clock comes in."""

    factor: float = FACTOR
    slack: float = SLACK
    patience: float = PATIENCE
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=51))
    last: Mapping[str, Any] = field(default_factory=dict)
    since: float = 0.0               # when the last change was seen

    def see(self, beat: Mapping[str, Any], now: float) -> float | None:
        """Take the present heartbeat; returns the seconds without a step if that is too long, else None.

        Between two heartbeats of the phase "train" the mean time per step counts once: what lies between includes no
        saving, which has a phase of its own."""
        key = (beat.get("attempt"), beat.get("step"), beat.get("phase"))
        if key != (self.last.get("attempt"), self.last.get("step"), self.last.get("phase")) or not self.since:
            self._note(beat)
            self.last, self.since = dict(beat), now
            return None
        waited = now - self.since
        return waited if waited > self.limit() else None

    def limit(self) -> float:
        """Seconds that may pass now without a step."""
        finished = 0 < (self.last.get("total") or 0) <= (self.last.get("step") or 0)  # what is trained is written
        if self.last.get("phase") != "train" or finished or len(self.durations) < 2:
            return self.patience
        return self.factor * self.median() + self.slack

    def median(self) -> float:
        ordered = sorted(self.durations)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    def _note(self, beat: Mapping[str, Any]) -> None:
        both_train = self.last.get("phase") == "train" == beat.get("phase")
        steps = (beat.get("step") or 0) - (self.last.get("step") or 0)
        if both_train and steps > 0 and beat.get("attempt") == self.last.get("attempt"):
            self.durations.append((beat["time"] - self.last["time"]) / steps)


def from_environment() -> Progress:
    return Progress(slack=float(os.environ.get("BEGIRA_HANG_SLACK") or SLACK),
                    patience=float(os.environ.get("BEGIRA_HANG_PATIENCE") or PATIENCE))


def main(run: Path, launch: str, job: str, node: str, rank: int, rank_process: int) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # meant for the rank; Slurm may send them to its children as well
    die_with(rank_process)
    progress, began = from_environment(), False
    while os.getppid() == rank_process:
        owner = read_json(run / LAUNCH, {})
        mine = owner.get("launch") == launch
        began = began or mine  # before rank 0 takes the run over, a former launch still stands there
        if began and not mine:
            _say(f"launch {owner.get('launch')} has taken this run over; {launch} ends here")
            os.kill(rank_process, signal.SIGKILL)
            return
        if rank == 0 and mine:
            beat = read_json(run / "heartbeat.json", {})
            if beat and beat.get("time", 0.0) >= owner["time"]:  # older ones are a former launch's
                waited = progress.see(beat, time.time())
                if waited is not None:
                    end_hang(run, progress, waited, job, node, rank_process)
                    return
        time.sleep(SELDOM if rank and began else EVERY)


def end_hang(run: Path, progress: Progress, waited: float, job: str, node: str, rank_process: int) -> None:
    """Note it, let all ranks write their stacks, kill."""
    median = progress.median() if progress.durations else None
    write_json(run / "attempts" / f"{progress.last['attempt']:04d}.hang.json",
               {"step": progress.last.get("step"), "phase": progress.last.get("phase"), "waited": waited,
                "median": median, "node": node, "time": time.time()})
    _say(f"no step for {waited:.0f} s after step {progress.last.get('step')}: writing the stacks of all ranks")
    try:
        subprocess.run(["scancel", "--signal=USR1", job], timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        os.kill(rank_process, signal.SIGUSR1)  # at least this one's
    time.sleep(DUMP_SECONDS)
    os.kill(rank_process, signal.SIGKILL)


def _say(text: str) -> None:
    sys.stderr.write(f"begira watch: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
