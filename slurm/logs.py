"""The logs of a run: one file per node and attempt below its `logs/`; printed, or followed until the run is over: done,
or ended without a job that would go on. Between two attempts a job waits, and so does who follows."""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from core.errors import UserError
from experiments.state import Where
from experiments.store import read_run
from slurm import submissions
from slurm.backend import Backend
from slurm.studies import choose_backend

EVERY, SELDOM = 0.5, 5.0     # seconds between looks at the files, and at the backend


def newest(run: Path) -> list[Path]:
    """The files of the newest attempt: those that share the newest file's beginning (attempt or job), by node."""
    files = sorted((run / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UserError(f"run {run.name} has no log yet: `begira status` says why{_of_its_job(run)}")
    beginning = files[-1].name.split("_")[0]
    return sorted(path for path in files if path.name.split("_")[0] == beginning)


def _of_its_job(run: Path) -> str:
    """Where its job told of what went wrong before the run began, in words."""
    study = run.parent.parent
    array, _ = submissions.newest(submissions.read(study)).get(run.name, (None, 0))
    folder = submissions.folder(study) / array.key if array else None
    return f"; its job's: {folder}/*.log" if folder and any(folder.glob("*.log")) else ""


def over(run: Path, backend: Backend) -> bool:
    """Nothing more will be written: it is done, or it has no live job."""
    stored = read_run(run)
    seen = None if stored.done else backend.observe(run.parent.parent.name, [stored]).get(stored.id)
    return seen is None or seen.where in (Where.ABSENT, Where.ENDED)


def lines(run: Path, follow: bool, last: int) -> Iterator[str]:
    """The last `last` lines of each file (0: all), then, with `follow`, new ones until the run is over."""
    places: dict[Path, int] = {}
    files = newest(run)
    for path in files:
        data = path.read_bytes()
        places[path] = len(data)
        found = data.decode("utf-8", "replace").splitlines()
        yield from _named(path, files, found[-last:] if last else found)
    if not follow:
        return
    backend, ended, looked = choose_backend(None, run.parent.parent.name), False, 0.0
    while not ended:
        time.sleep(EVERY)
        if time.monotonic() > looked + SELDOM:
            ended, looked = over(run, backend), time.monotonic()
        files = newest(run)
        for path in files:
            with open(path, "rb") as stream:
                stream.seek(places.get(path, 0))
                data = stream.read()
            complete = data.rfind(b"\n") + 1
            places[path] = places.get(path, 0) + complete
            yield from _named(path, files, data[:complete].decode("utf-8", "replace").splitlines())


def _named(path: Path, files: list[Path], found: list[str]) -> Iterator[str]:
    """Lines of several nodes carry the node's name."""
    prefix = f"[{path.stem.partition('_')[2]}] " if len(files) > 1 else ""
    for line in found:
        yield prefix + line
