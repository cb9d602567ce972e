"""A large store: 1,000 runs x 5,000 items collected into the table and the item matrix, and the whole report.

    python -m benchmarks.collect [--runs 1000] [--items 5000] [--report]

Prints seconds, peak memory, and the ratio to reading each file whole into a data frame."""
from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, interleaved

LIMIT_S, LIMIT_GB = 20.0, 2.0


def make(root: Path, runs: int, items: int) -> Path:
    """A store of `runs` evaluations with `items` items each (half of them per language), from one drawn study."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from core.files import read_json, write_json
    from tests.simulated_store import simulate

    seeds = range(max(1, runs // 30))
    one = simulate(root, "one", ratios=(0.2,), backbones=("llama",), text_only=("none",), seeds=(0,),
                   items=items // 20, generate=True, styles=("eval-dev", "eval-emojione"))
    study = simulate(root, "large", seeds=seeds, items=2, styles=("eval-emojione",), tasks=("naming",), generate=False)
    evaluation = next((one / "evaluate").iterdir())
    table, metrics = pq.read_table(evaluation / "items.parquet"), read_json(evaluation / "result.json")["metrics"]
    rng = np.random.default_rng(0)
    for run in sorted((study / "evaluate").iterdir()):
        score = pa.array((rng.random(len(table)) < .5).astype(float))
        place = table.column_names.index("score")
        pq.write_table(table.set_column(place, "score", score), run / "items.parquet", compression="zstd")
        write_json(run / "result.json", {"metrics": [{**row, "value": float(rng.random())} for row in metrics]})
    return study


def measured(work) -> tuple[float, object]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def whole(runs: list, count: int) -> float:
    """Seconds per file of reading all its columns into a data frame, over the first `count` files."""
    import pandas as pd

    began = time.perf_counter()
    for run in runs[:count]:
        pd.read_parquet(run.path / "items.parquet")
    return (time.perf_counter() - began) / count


def rows() -> list[Row]:
    """CPU seconds of the items of 100 runs: the columns that statistics need, and whole files as data frames."""
    import pandas as pd

    from analysis.items import load_items
    from analysis.stores import read_stores

    with tempfile.TemporaryDirectory() as root:
        study = make(Path(root), 100, 5000)
        runs = [run for run in read_stores([study]) if run.is_evaluation]
        ours, other = interleaved(lambda: load_items(runs),
                                  lambda: [pd.read_parquet(run.path / "items.parquet") for run in runs], repeats=2)
    return [Row("items of 100 runs x 6,000 (CPU s)", ours, other, "s", ours / other, 0.5, at_least=False)]


def main() -> None:
    from analysis.collect import collect, write_tables
    from analysis.items import load_items
    from analysis.report import report

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--report", action="store_true", help="the whole report too")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="begira-collect-"))
    try:
        study = make(root, options.runs, options.items)
        tables, collected = measured(lambda: collect([study]))
        written, _ = measured(lambda: write_tables(collected, root / "out"))
        evaluations = [run for run in collected.runs if run.is_evaluation]
        loading, items = measured(lambda: load_items(evaluations))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        total = tables + written + loading
        answered = sum(found.score.size for found in items.values())
        print(f"{len(evaluations)} runs, {answered:,} scores, {len(collected.scores):,} rows: {total:.1f} s (limit "
              f"{LIMIT_S:.0f}: table {tables:.1f}, writing {written:.1f}, items {loading:.1f}), peak {peak:.2f} GB "
              f"(limit {LIMIT_GB:.0f})")
        naive = whole(evaluations, 50) * len(evaluations)
        print(f"items by column / whole files as data frames: {loading / naive:.2f}")
        if options.report:
            seconds, _ = measured(lambda: report([study], {"name": "large"}, root / "report"))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"whole report: {seconds:.1f} s, peak {peak:.2f} GB")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
