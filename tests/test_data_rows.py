"""Which rows of a source become samples: of which split, joined with what, and each of them accounted for."""
import json

import pytest

from core.errors import UserError
from core.shards import DataSet
from data_tools import tables
from data_tools.build import build


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("names, split, taken", [
    (["train-0", "val-0"], "validation", ["val-0"]), (["train-0", "val-0"], "val", ["val-0"]),
    (["train2014", "val2014", "dev"], "validation", ["dev", "val2014"]), (["training", "test"], "train", ["training"]),
    (["data/test/0", "data/validation/0"], "test", ["data/test/0"]), (["one", "two"], "train", ["one", "two"]),
    (["latest", "greatest"], "train", ["greatest", "latest"]), (["mini", "train"], "mini", ["mini"]),
])
def test_a_folder_gives_the_files_of_the_split(tmp_path, names, split, taken):
    for name in names:
        write(tmp_path / f"{name}.jsonl", [{"name": name}])
    assert [row["name"] for row in tables.rows(str(tmp_path), split)] == taken


@pytest.mark.parametrize("names, split", [(["train-0", "val-0"], "test"), (["train"], "validation"),
                                          (["dev", "test"], "train"), (["train"], "testmini")])
def test_rows_of_another_split_are_never_taken_in_its_place(tmp_path, names, split):
    """Or training rows would become evaluation items."""
    for name in names:
        write(tmp_path / f"{name}.jsonl", [{"name": name}])
    with pytest.raises(UserError, match=f"has no split '{split}', its files are named after .*: set split="):
        list(tables.rows(str(tmp_path), split))


def talk(i, instruction="Say {}", response="{}!"):
    return {"conversation_id": f"c{i}", "instruction": instruction.format(i), "response": response.format(i)}


def magpie(folder, base, target, **options):
    """(manifest's account, samples by id) of a text-only source whose languages are joined by conversation_id."""
    places = {"data": str(write(folder / "base.jsonl", base)), "target_data": str(write(folder / "eu.jsonl", target))}
    manifest = build("magpie", folder / "out", "eu", {**places, **options})["manifest"]
    subset = DataSet(folder / "out").subset("text")
    return manifest["rows"], {record["id"]: record["turns"] for record in map(subset.record, range(len(subset)))}


@pytest.mark.parametrize("order", [1, -1])     # the translation comes early or late
def test_a_key_that_stands_twice_is_counted_and_the_first_row_kept(tmp_path, order):
    base = [talk(0), talk(1), talk(1, "Again {}"), talk(2), talk(3)]
    target = [*(talk(i, "Esan {}") for i in (0, 1, 2, 3)[::order]), talk(2, "Berriz {}")]
    rows, found = magpie(tmp_path, base, target)
    assert rows == {"rows": 5, "kept": 4, "samples": 4, "skipped: conversation_id stands twice": 1,
                    "eu skipped: conversation_id stands twice": 1}
    for i in range(4):
        assert [found[f"magpie/c{i}"][lang][0]["content"] for lang in ("en", "eu")] == [f"Say {i}", f"Esan {i}"]


def test_a_translation_that_is_none_is_counted(tmp_path):
    rows, found = magpie(tmp_path, [talk(i) for i in range(3)], [talk(0), talk(1, response=" "), talk(2)])
    assert rows == {"rows": 3, "kept": 3, "samples": 3, "eu skipped: empty response": 1}
    assert [set(turns) for turns in found.values()] == [{"en", "eu"}, {"en"}, {"en", "eu"}]
    rows, found = magpie(tmp_path, [talk(i) for i in range(3)], [talk(0), talk(1, response=" "), talk(2)],
                         require_target=True)
    assert rows == {"rows": 3, "kept": 2, "samples": 2, "skipped: empty response": 1} and "magpie/c1" not in found
