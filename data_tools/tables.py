"""Rows of a public data set, one by one, as plain dictionaries: from local files, a folder of them, or the hub.

Parquet, JSON (a list), JSON lines, CSV and TSV are read in pieces; folders of `datasets.save_to_disk` and hub ids go
through the `datasets` library, streaming, with images left encoded. What the columns mean is `data_tools.converters`'s.
"""
from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz")
# what file names call the splits; the `datasets` library takes the same words
SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"),
          "test": ("test", "testing", "eval", "evaluation")}
Row = dict[str, Any]


def rows(location: str, split: str = "train", config: str = "") -> Iterator[Row]:
    """Rows of a file, a folder or a hub id. Raises UserError: not found, unreadable, offline, no such split."""
    path = Path(location)
    if path.is_dir() and not any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        yield from _folder(path, split)
    elif path.is_file():
        yield from _file(path)
    elif path.exists() or _is_hub_id(location):
        yield from _datasets(location, split, config)
    else:
        raise UserError(f"data {location} does not exist: give a file, a folder, or a hub id such as owner/name")


def files(location: str, split: str = "train") -> list[Path]:
    """The data files behind a local location, in order; [] for a hub id. Of a folder, those that are named after the
    split, or all where none is named after any. Raises UserError where they are named after other splits only."""
    path = Path(location)
    if path.is_file():
        return [path]
    if not path.is_dir():
        return []
    found = [p for p in sorted(path.rglob("*")) if p.name.endswith(SUFFIXES) and not p.name.startswith(".")]
    names = {p: p.relative_to(path).as_posix() for p in found}
    named = [p for p in found if _is_of(names[p], split)]
    others = [other for other in SPLITS if any(_is_of(name, other) for name in names.values())]
    if others and not named:
        raise UserError(f"folder {path} has no split '{split}', its files are named after {', '.join(others)}: set "
                        "split=...")
    return named or found


def _is_of(name: str, split: str) -> bool:
    """Whether a file's name has the split, or another word for it, as a word of its own: "val2014", "x-dev.jsonl"."""
    words = next((words for words in SPLITS.values() if split in words), (split,))
    return any(re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", name, re.IGNORECASE) for word in words)


def _folder(path: Path, split: str) -> Iterator[Row]:
    found = files(str(path), split)
    if not found:
        raise UserError(f"folder {path} holds no {', '.join(SUFFIXES)} file: give the folder of the data itself")
    for file in found:
        yield from _file(file)


def _file(path: Path) -> Iterator[Row]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.suffix == ".json":
            loaded = json.loads(path.read_text(encoding="utf-8"))
            yield from _mappings(path, loaded.get("data") if isinstance(loaded, dict) else loaded)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8") as stream:
                yield from _mappings(path, (json.loads(line) for line in stream if line.strip()))
        elif path.suffix in (".csv", ".tsv"):
            csv.field_size_limit(1 << 24)
            with open(path, encoding="utf-8", newline="") as stream:
                yield from csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
        else:
            raise UserError(f"{path} has no known kind: {', '.join(SUFFIXES)}")
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} cannot be read ({str(error)[:120]}): fetch it again") from error


def _mappings(path: Path, loaded: Any) -> Iterator[Row]:
    """What a JSON file holds, row by row. Raises UserError where that is no list, or a row is no mapping."""
    if not isinstance(loaded, Iterable) or isinstance(loaded, (str, dict)):
        raise UserError(f"{path} holds no list of rows: write [{{...}}, {{...}}], or {{\"data\": [...]}}")
    for number, row in enumerate(loaded, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}, is {str(row)[:40]!r}: a row is a mapping of fields {{\"id\": ...}}")
        yield row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=500):
            yield from batch.to_pylist()


def _datasets(location: str, split: str, config: str) -> Iterator[Row]:
    import datasets

    try:
        if Path(location).is_dir():
            data: Any = datasets.load_from_disk(location)
            data = data[split] if isinstance(data, datasets.DatasetDict) else data
        else:
            data = datasets.load_dataset(location, config or None, split=split, streaming=True)
        for name, feature in (data.features or {}).items():
            if isinstance(feature, datasets.Image):
                data = data.cast_column(name, datasets.Image(decode=False))
    except KeyError as error:
        raise UserError(f"data {location} has no split {error}: set split=...") from error
    except Exception as error:  # the library raises what its many backends raise
        raise UserError(f"data {location} cannot be opened ({type(error).__name__}: {str(error)[:150]}): go online, "
                        "log in to the hub, or give a local folder") from error
    yield from data


def _is_hub_id(location: str) -> bool:
    parts = location.split("/")
    return len(parts) == 2 and all(parts) and not location.startswith((".", "~")) and not location.endswith(SUFFIXES)


def aligned(base: Iterable[Row], target: Iterable[Row], key: str, repeats: bool = False
            ) -> Iterator[tuple[Row, Row | None]]:
    """Each base row with the target row of the same `key`, None where there is none.

    Both are read in step; rows that come out of order wait in memory, so sets in the same order need none. With
    `repeats` a key may stand in many rows: the n-th of one side belongs to the n-th of the other, but only where both
    have equally many, because one that is missing would shift the others; everything is held in memory then. Without,
    a key stands once on either side: see `once`. Raises UserError if a row has no such field."""
    if repeats:
        yield from _aligned_groups(base, target, key)
        return
    waiting_base: dict[Any, Row] = {}
    waiting_target: dict[Any, Row] = {}
    other = iter(target)
    for row in base:
        touched = [_key(row, key)]
        waiting_base[touched[0]] = row
        following = next(other, None)
        if following is not None:
            touched.append(_key(following, key))
            waiting_target[touched[1]] = following
        for number in dict.fromkeys(touched):
            if number in waiting_base and number in waiting_target:
                yield waiting_base.pop(number), waiting_target.pop(number)
    for row in other:
        number = _key(row, key)
        if number in waiting_base:
            yield waiting_base.pop(number), row
    for number, row in waiting_base.items():
        yield row, waiting_target.get(number)


def once(rows: Iterable[Row], key: str, again: Callable[[], None]) -> Iterator[Row]:
    """The rows but for those whose `key` stood before: `again` is called for each of them.

    Raises UserError if a row has no such field."""
    known: set[Any] = set()
    for row in rows:
        number = _key(row, key)
        if number in known:
            again()
        else:
            known.add(number)
            yield row


def _aligned_groups(base: Iterable[Row], target: Iterable[Row], key: str) -> Iterator[tuple[Row, Row | None]]:
    groups: dict[Any, list[Row]] = {}
    for row in target:
        groups.setdefault(_key(row, key), []).append(row)
    rows = list(base)
    counts = Counter(_key(row, key) for row in rows)
    seen: Counter = Counter()
    for row in rows:
        number = row[key]
        others = groups.get(number, [])
        yield row, others[seen[number]] if len(others) == counts[number] else None
        seen[number] += 1


def _key(row: Row, key: str) -> Any:
    if key not in row:
        raise UserError(f"a row has no field '{key}' to join the languages by (fields: {', '.join(row)}): set join=...")
    if isinstance(row[key], (list, dict)):
        raise UserError(f"a row has {str(row[key])[:40]} as '{key}' to join the languages by: give a text or a number")
    return row[key]
