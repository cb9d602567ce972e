"""The logs of a run: one file per node and attempt below its `logs/`; printed, or followed while it runs."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.errors import UserError


def newest(run: Path) -> list[Path]:
    """The files of the newest attempt: those that share the newest file's beginning (attempt or job), by node."""
    files = sorted((run / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UserError(f"run {run.name} has no log yet: `begira status` says why it waits")
    beginning = files[-1].name.split("_")[0]
    return sorted(path for path in files if path.name.split("_")[0] == beginning)


def lines(run: Path, follow: bool, last: int, over: Callable[[], bool]) -> Iterator[str]:
    """The last `last` lines of each file (0: all), then, with `follow`, new ones until `over()`."""
    places: dict[Path, int] = {}
    files = newest(run)
    for path in files:
        data = path.read_bytes()
        places[path] = len(data)
        found = data.decode("utf-8", "replace").splitlines()
        yield from _named(path, files, found[-last:] if last else found)
    while follow and not over():
        time.sleep(0.5)
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
