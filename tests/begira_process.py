"""begira as a process, on a tiny study of tests/grids with folders of its own: what the tests of the backends share."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY = str(ROOT / "tests" / "grids" / "tiny.yaml")


class Begira:
    """Calls the command line with runs in `folder`."""

    def __init__(self, folder: Path):
        self.runs = folder / "runs"
        self.environment = {**os.environ, "BEGIRA_RUNS": str(self.runs), "BEGIRA_DATA": str(folder / "data"),
                            "BEGIRA_MODELS": str(folder / "models"), "BEGIRA_SLOTS": "3", "CUDA_VISIBLE_DEVICES": "",
                            "PYTHONPATH": str(ROOT)}
        self.environment["BEGIRA_WAIT_FOR_LOCK"] = "1"
        self.environment.pop("BEGIRA_CLUSTER", None)

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, str(ROOT / "begira.py"), *words], env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, *words: str, code: int | None = 0) -> str:
        """Standard output; the exit code must be `code` (None: any)."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        assert code is None or process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        self.error = err
        return out

    def json(self, *words: str) -> list | dict:
        return json.loads(self(*words, "--json"))

    def results(self, study: str = "tiny") -> dict[str, object]:
        """{stage/run id: result without times} of every run that is DONE."""
        found = {}
        for done in sorted((self.runs / study).glob("*/*/DONE")):
            result = json.loads((done.parent / "result.json").read_text())
            found["/".join(done.parts[-3:-1])] = {k: v for k, v in result.items() if k != "seconds"}
        return found

    def attempts(self, pattern: str, study: str = "tiny") -> list[dict]:
        """Attempt records of the runs whose stage/id fits the pattern, oldest first."""
        paths = sorted((self.runs / study).glob(f"{pattern}/attempts/[0-9][0-9][0-9][0-9].json"))
        return [json.loads(path.read_text()) for path in paths]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> object:
    """What the condition gives once it is true. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def ranks_of(runs: Path) -> dict[int, str]:
    """{pid: run id} of living processes that execute a run below `runs` (forked ranks write their log there), without
    the processes that these have started."""
    found, parents = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            target = os.readlink(entry / "fd" / "1")
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if target.startswith(str(runs)) and "/logs/" in target:
            found[int(entry.name)] = Path(target).parts[-3]
    return {pid: run for pid, run in found.items() if parents[pid] not in found}


def end(process: subprocess.Popen) -> None:
    """Kill a process that a failed test has left."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.communicate()
