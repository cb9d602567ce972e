"""The judgements of a study on the disk: append-only journals, one per judge, and the tidy table made of them.

    <folder>/<judge>.jsonl              one line per judgement, appended when its reply has come
    <folder>/<name>-<hash>.asked.jsonl  what was written out to be judged elsewhere: a batch file, an arena page
    <folder>/judgements.parquet         all journals as one table

A judgement has an id; of several lines with one id the last counts, so a judgement is in the table once, whatever was
killed and repeated. A line that was cut off in the middle is dropped and its judgement made again."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.judge_plan import digest
from core.errors import UserError
from core.files import append_line, naming_a_full_disk, replacing, write_text
from experiments.lock import Held, hold

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"id": "str", "judge": "str", "voter": "str", "kind": "str", "prompt": "str", "prompt_language": "str",
           "images": "bool", "subset": "str", "task": "str", "language": "str", "item": "str", "concept": "str",
           "left": "str", "right": "str", "status": "str", "verdict": "str", "grade": "float", "tokens_in": "int",
           "tokens_out": "int", "cost": "float", "reply": "str", "error": "str"}
_EMPTY = {"str": "", "float": float("nan"), "int": 0, "bool": False}
_TYPES = {"str": "object", "float": "float64", "int": "int64", "bool": "bool"}


class Journal:
    """One judge's judgements, appended to by one process at a time. `lines`: {id: the last line}."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = {line["id"]: line for line in _complete(path)}

    def add(self, line: dict[str, Any]) -> None:
        with naming_a_full_disk(self.path):
            append_line(self.path, json.dumps(line, ensure_ascii=False))
        self.lines[line["id"]] = line


@contextmanager
def journal(folder: Path, name: str) -> Iterator[Journal]:
    """The journal `name`, held against other processes; a cut-off last line is taken away first.

    Raises UserError if another process holds it."""
    path = path_of(folder, name)
    try:
        with hold(path.with_suffix(".lock")):
            if path.exists() and not path.read_bytes().endswith(b"\n"):
                write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in _complete(path)))
            yield Journal(path)
    except Held as error:
        raise UserError(f"another process is writing {path}: wait until it ends, then repeat the command") from error


def keep_asked(folder: Path, name: str, records: Sequence[dict[str, Any]]) -> None:
    """Keep what was written out, so that what comes back needs nothing but its ids. Each list of ids has a file."""
    write_text(folder / f"{slug(name)}-{digest(*(record['id'] for record in records))}.asked.jsonl",
               "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def asked(folder: Path) -> dict[str, dict[str, Any]]:
    """All that was ever written out, by id; of what was written out again after a new evaluation, the latest."""
    files = sorted(folder.glob("*.asked.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return {line["id"]: line for path in files for line in _complete(path)}


def table(folder: Path) -> pd.DataFrame:
    """All judgements, one row each, sorted; empty if there are none. Columns: COLUMNS."""
    import pandas as pd

    lines: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if not path.name.endswith(".asked.jsonl"):
            lines.update((line["id"], line) for line in _complete(path))
    columns = {name: pd.Series([_value(line, name, kind) for line in lines.values()], dtype=_TYPES[kind])
               for name, kind in COLUMNS.items()}
    order = ["judge", "voter", "prompt", "prompt_language", "task", "subset", "language", "item", "left", "right"]
    return pd.DataFrame(columns).sort_values(order, kind="stable", ignore_index=True)


def _value(line: dict[str, Any], name: str, kind: str) -> Any:
    value = line.get(name)
    return _EMPTY[kind] if value is None else value


def write_table(folder: Path) -> pd.DataFrame:
    """Write judgements.parquet from the journals; returns the table."""
    found = table(folder)
    with replacing(folder / "judgements.parquet") as temporary:
        found.to_parquet(temporary, index=False)
    return found


def path_of(folder: Path, name: str) -> Path:
    """The journal of the judge `name`."""
    return folder / f"{slug(name)}.jsonl"


def slug(name: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", name).strip("-")


def _complete(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that are whole: all but, at most, the last. Raises UserError for another broken line."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            if number + 1 < len(lines):
                raise UserError(f"{path}, line {number + 1}, is not JSON ({error}): remove the line, then repeat the "
                                "command; its judgement is made again") from error
