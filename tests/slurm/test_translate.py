"""50,000 rows in an array of eight tasks, three of them killed: every row is translated, once, and keeps its spans."""
import json
import os
import re
import signal
from collections import Counter

import pytest
import yaml

from core.files import read_json
from core.shards import DataSet
from data_tools.check import check
from data_tools.dataset import Sample, building
from data_tools.quality import protected
from tests.test_data_translate import WORDS, sentence

ROWS, TASKS, KILLED = 50_000, 8, 3


def text(number):
    """A sentence with numbers and spans that must not change; every tenth row repeats an earlier one."""
    number -= number % 10 == 9
    return f"{sentence(number)} See https://a.eus/{number} for {{name}} and `run {number % 7}`."


@pytest.mark.slow
def test_an_array_translates_every_row_once_whatever_is_killed(desk):
    data = desk.folder / "data"
    with building(data / "many", "many", ["en"]) as made:
        made.subset("text", "text", (Sample({
            "id": f"row/{i}", "source": "t", "license": "CC0", "meta": {},
            "turns": {"en": [{"role": "assistant", "content": text(i)}]}}) for i in range(ROWS)))
        made.finish([{"name": "t", "version": "1", "licence": "CC0", "origin": "test", "sha256": ""}])
    (desk.folder / "words.json").write_text(json.dumps(WORDS))
    grid = desk.folder / "translate-many.yaml"
    config = {"engines": [{"kind": "dictionary", "model": str(desk.folder / "words.json")}], "block": 100,
              "gates": {"length": [[0, 0.1, 9.0]], "copied": 1.0, "language_words": 999}}
    grid.write_text(yaml.safe_dump({"inherit": "translate", "data": {"set": "many"},
                                    "stages": {"translate": {"config": config}}}))
    earlier = len(desk.sbatch_calls())                       # of other tests on this cluster
    desk.submit(grid)
    assert desk.sbatch_calls()[earlier:] == [0], "one array of eight tasks"
    runs = [desk.path(grid, run.name) for run in desk.study(grid).runs]
    assert len(runs) == TASKS

    def blocks(run):
        return len(list(run.glob("translations/0*.jsonl")))

    killed = set()
    while len(killed) < KILLED:
        run = desk.until(lambda: next((r for r in runs if r not in killed and 2 <= blocks(r) < 40), None), 120,
                         lambda: desk.describe(grid), every=0.02)
        os.kill(read_json(run / "attempts" / "0001.json")["pid"], signal.SIGKILL)
        killed.add(run)
    assert set(desk.wait(grid, seconds=300).values()) == {"done"}, desk.describe(grid)
    assert Counter(len(desk.attempts(run)) for run in runs) == {1: TASKS - KILLED, 2: KILLED}
    results = [read_json(run / "result.json") for run in runs]
    assert sum(r["texts"] for r in results) == sum(r["passed"] for r in results) == ROWS * 9 // 10
    lines = [line["id"] for run in runs for path in run.glob("translations/0*.jsonl")
             for line in map(json.loads, path.read_text().splitlines())]
    assert len(lines) == len(set(lines)) == ROWS * 9 // 10

    merged = desk.begira("data", "translate", str(grid), "--out", str(data / "many-eu"))
    assert merged.returncode == 0, merged.stderr
    assert check(data / "many-eu") == []
    before, after = (DataSet(data / name).subset("text") for name in ("many", "many-eu"))
    assert len(before) == len(after) == ROWS
    for i in range(ROWS):
        old, new = before.record(i), after.record(i)
        english, basque = (new["turns"][language][0]["content"] for language in ("en", "eu"))
        assert old["id"] == new["id"] == f"row/{i}" and old["turns"]["en"][0]["content"] == english != basque
        assert protected(english) == protected(basque)
        assert re.findall(r"\d+", english) == re.findall(r"\d+", basque)

    stamps = {path: path.stat().st_mtime_ns for run in runs for path in run.glob("translations/*")}
    assert desk.submit(grid) == 0 and set(desk.sbatch_calls()) == {0}
    calls = len(desk.sbatch_calls())
    assert desk.submit(grid) == 0 and len(desk.sbatch_calls()) == calls
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
