"""Items of many evaluations as one matrix: a row per run, a column per item, the score in the cell.

Runs of a study are asked the same items, so what describes an item is stored once and the answers of 1,000 runs to
5,000 items take 20 MB. Only the columns that statistics need are read from items.parquet. Prompts, options and
predictions stay on the disk (analysis.samples reads a few of them)."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.stores import Stored
from core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

KEYS = ("item", "task", "language")
DESCRIBING = (*KEYS, "kind", "subset", "style", "set", "concept", "likeness")
MEASURES = ("score", "chrf")


@dataclass
class Items:
    """runs: ids, one per row. described: one line per column: item, task, language, style, set, concept, likeness.

    score: float32 (runs, items) in 0..1; NaN where a run was not asked the item or the item has no score. An item that
    ended in an error counts 0."""

    runs: list[str]
    described: pd.DataFrame
    score: np.ndarray

    def only(self, mask: np.ndarray) -> Items:
        """The items where `mask` (items,) is true."""
        return Items(self.runs, self.described[mask].reset_index(drop=True), self.score[:, mask])

    def of_runs(self, ids: Iterable[str]) -> Items:
        place = {run: row for row, run in enumerate(self.runs)}
        rows = [place[run] for run in ids]
        return Items([self.runs[row] for row in rows], self.described, self.score[rows])

    def complete(self) -> Items:
        """The items that every run was asked."""
        return self.only(~np.isnan(self.score).any(axis=0))

    def asked(self) -> Items:
        """The runs that were asked any of the items."""
        return self.of_runs(np.array(self.runs)[~np.isnan(self.score).all(axis=1)])

    def clusters(self) -> np.ndarray | None:
        """What is resampled as one: the items of a concept, an item of none by itself. None: every item by itself."""
        concepts = self.described.get("concept")
        if concepts is None or concepts.isna().any():
            return None
        return concepts.where(concepts != "", self.described["item"]).to_numpy()


def load_items(runs: Iterable[Stored]) -> dict[str, Items]:
    """The answers of all finished evaluations, by measure: score (what counts as right for the item's kind, see
    core.summary) and chrf (free answers).

    Raises UserError that names a file which cannot be read or lacks a column."""
    import pandas as pd

    runs = [run for run in runs if run.done and run.is_evaluation and (run.path / "items.parquet").exists()]
    layout = _Layout()
    rows = [layout.place(_read(run.path / "items.parquet")) for run in runs]
    described = layout.described() if runs else pd.DataFrame(columns=list(DESCRIBING))
    found = {}
    for number, measure in enumerate(MEASURES):
        score = np.full((len(rows), layout.width), np.nan, np.float32)
        for row, (columns, values) in zip(score, rows, strict=True):
            row[columns] = values[number]
        kept = ~np.isnan(score).all(axis=0) if rows else np.ones(0, bool)
        found[measure] = Items([run.id for run in runs], described, score).only(kept)
    return found


class _Layout:
    """Which column of the matrix an item has. Files with the same items in the same order are recognised at once."""

    def __init__(self) -> None:
        self.seen: list[tuple[pa.Table, np.ndarray]] = []
        self.columns: dict[tuple, int] = {}
        self.lines: list[pd.DataFrame] = []
        self.width = 0

    def place(self, table: pa.Table) -> tuple[np.ndarray, list[np.ndarray]]:
        values = [_values(table, measure) for measure in MEASURES]
        keys = table.select(KEYS)
        for known, columns in self.seen:
            if known.num_rows == keys.num_rows and known.equals(keys):
                return columns, values
        columns = self._new(table, keys)
        self.seen.append((keys, columns))
        return columns, values

    def _new(self, table: pa.Table, keys: pa.Table) -> np.ndarray:
        names = list(zip(*(keys[name].to_pylist() for name in KEYS), strict=True))
        fresh = []
        for row, name in enumerate(names):
            if name not in self.columns:
                self.columns[name] = len(self.columns)
                fresh.append(row)
        self.lines.append(table.select([n for n in DESCRIBING if n in table.column_names]).to_pandas().iloc[fresh])
        self.width = len(self.columns)
        return np.array([self.columns[name] for name in names])

    def described(self) -> pd.DataFrame:
        import pandas as pd

        frame = pd.concat(self.lines, ignore_index=True)
        if "subset" not in frame:
            frame["subset"] = frame["style"]
        return frame


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    with reading(path):
        names = set(pq.read_schema(path).names)
        if lacking := {*KEYS, "kind", "status", *MEASURES} - names:
            raise UserError(f"{path} has no column {', '.join(sorted(lacking))}: evaluate it again with `begira retry`")
        wanted = [name for name in (*DESCRIBING, "status", *MEASURES) if name in names]
        return pq.read_table(path, columns=wanted, use_threads=False, memory_map=True, partitioning=None)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the table of answers that is read in this block, and the way back, where it is damaged."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it and the run's DONE, then submit again") from error


def _values(table: pa.Table, measure: str) -> np.ndarray:
    """Scores in 0..1, NaN where the measure does not apply to the item (an open question has none), else 0 where asking
    it failed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.cast(table[measure], pa.float32()).to_numpy(zero_copy_only=False)
    if measure == "chrf":
        values = values / 100
    failed = pc.fill_null(pc.not_equal(table["status"], "ok"), False).to_numpy(zero_copy_only=False)
    values = np.where(failed & ~np.isnan(values), np.float32(0), values)
    if measure == "score":
        return values
    return np.where(pc.equal(table["kind"], "generate").to_numpy(zero_copy_only=False), values, np.float32(np.nan))
