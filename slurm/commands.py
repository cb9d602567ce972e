"""Calling Slurm's commands: the only module that does (but for sbatch, which submitit calls).

A controller that is busy or restarting is waited for a little; what stays broken is a UserError that says which command
said what. Output is asked for in parsable formats of our own, never as JSON, whose schema changes with the version."""
from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Sequence

from core.errors import UserError

PATIENCE = 30.0          # seconds that a controller gets to answer again
CHUNK = 500              # job ids per command line
_BROKEN_PIPE = (-13, 141)    # the controller closed the connection on a command that it was too busy for
_PASSING = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "temporarily unable")


def call(*command: str, patience: float = PATIENCE, timeout: float = 60.0) -> str:
    """Standard output of a command. Raises UserError naming it if it is not there or keeps failing."""
    need(command[0])
    deadline = time.monotonic() + patience
    while True:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise UserError(f"{command[0]} did not answer within {timeout:.0f} s: try again later") from None
        if done.returncode == 0:
            return done.stdout
        error = " ".join(done.stderr.split())
        passing = done.returncode in _BROKEN_PIPE or any(words in error for words in _PASSING)
        if time.monotonic() > deadline or not passing:
            raise UserError(f"{' '.join(command)[:100]} failed: {error[:300] or f'exit code {done.returncode}'}")
        time.sleep(2.0)


def need(*names: str) -> None:
    """UserError unless this machine has these commands."""
    for name in names:
        if not shutil.which(name):
            raise UserError(f"no {name} on this machine: submit from a login node, or use --cluster local")


def release(jobs: Sequence[str]) -> None:
    """Let held jobs go; ids that are already gone or released are no mistake."""
    for job in jobs:
        try:
            call("scontrol", "release", job)
        except UserError as error:
            if "Invalid job id" not in str(error) and "already" not in str(error):
                raise


def cancel(jobs: Sequence[str], signal_name: str = "") -> None:
    """End jobs, or send their steps a signal; ids that are gone are no mistake."""
    how = [f"--signal={signal_name}"] if signal_name else []
    for start in range(0, len(jobs), CHUNK):
        try:
            call("scancel", "--quiet", *how, *jobs[start:start + CHUNK])
        except UserError as error:
            if "Invalid job id" not in str(error):
                raise


def user() -> str:
    return os.environ.get("SLURM_JOB_USER") or getpass.getuser()
