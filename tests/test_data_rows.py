"""Which rows of a source become samples: of which split, joined with what, and each of them accounted for."""
import json

import pytest

from core.errors import UserError
from data_tools import tables


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
