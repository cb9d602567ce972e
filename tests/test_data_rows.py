"""Which rows of a source become samples: of which split, joined with what, and each of them accounted for."""
import io
import json
import shutil

import pytest
from PIL import Image

from core.errors import UserError
from core.shards import DataSet
from data_tools import sources, tables
from data_tools.build import build
from data_tools.describe import built
from data_tools.download import BlockStore


def png():
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


PNG = png()


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
    result = build("magpie", folder / "out", "eu", {**places, **options})
    subset = DataSet(folder / "out").subset("text")
    rows, said = result["manifest"]["rows"], built(result)
    lost = [f"{count} {reason}" for reason, count in rows.items() if "skipped" in reason]
    assert all(one in said for one in lost) and ("were kept" in said) == bool(lost)
    return rows, {record["id"]: record["turns"] for record in map(subset.record, range(len(subset)))}


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


def test_what_a_download_brought_since_is_built(tmp_path):
    """The rows are the same, and so is the folder's name."""
    urls = [f"https://images.example/{i}.png" for i in range(3)]
    data = write(tmp_path / "rows.jsonl", [{"id": str(i), "url": url, "caption_en": f"dog {i}",
                                            "caption_eu": f"zakur {i}"} for i, url in enumerate(urls)])
    options = {"data": str(data), "images": str(tmp_path / "images")}
    (tmp_path / "images").mkdir()
    for number, (kept, state) in enumerate([(2, "built"), (2, "unchanged"), (3, "built"), (3, "unchanged")]):
        if number in (0, 2):
            block = BlockStore(tmp_path / "images" / "000-0000", {url: [url] for url in urls})
            for url in block.open_urls[:2]:
                block.add(url, "ok", "", PNG, extension="png")
            block.close()
        result = build("cc3m", tmp_path / "out", "eu", options)
        assert (result["state"], result["manifest"]["rows"]["samples"]) == (state, kept)


def test_an_edit_of_equal_size_is_built(tmp_path):
    places = {key: str(write(tmp_path / f"{key}.jsonl", [talk(i)])) for i, key in enumerate(("data", "target_data"))}
    assert build("magpie", tmp_path / "out", "eu", places)["state"] == "built"
    assert build("magpie", tmp_path / "out", "eu", places)["state"] == "unchanged"
    write(tmp_path / "data.jsonl", [talk(0, "Ask {}")])
    assert build("magpie", tmp_path / "out", "eu", places)["state"] == "built"
    assert "Ask 0" in (tmp_path / "out" / "text" / "000000.tar").read_text()


def test_images_of_their_own_are_in_the_recipe_by_name(tmp_path):
    data = write(tmp_path / "rows.jsonl", [{"id": "a", "image": "a.png", "conversations": [
        {"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]}])
    options = sources.Options(data=str(data), images=str(tmp_path / "images"))
    (tmp_path / "images").mkdir()
    empty = sources.recipe("llava-instruct", "eu", options)
    assert sources.recipe("llava-instruct", "eu", options) == empty
    (tmp_path / "images" / "a.png").write_bytes(PNG)
    assert sources.recipe("llava-instruct", "eu", options) != empty


def test_another_version_of_the_code_builds_anew(tmp_path, monkeypatch):
    data = write(tmp_path / "rows.jsonl", [talk(0)])
    before = sources.recipe("magpie", "eu", sources.Options(data=str(data)))
    for name in sources.RECIPE_FILES:
        shutil.copy(sources.FOLDER.parent / name, tmp_path / name)
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "sources.py"))
    assert sources.recipe("magpie", "eu", sources.Options(data=str(data))) == before
    (tmp_path / "converters.py").write_text("# other rules\n")
    assert sources.recipe("magpie", "eu", sources.Options(data=str(data))) != before


@pytest.mark.parametrize("name, text, says", [
    ("a.json", "5", "a.json holds no list of rows"), ("a.json", '{"rows": []}', "a.json holds no list of rows"),
    ("a.json", '["bus"]', "a.json, row 1, is 'bus'"), ("a.jsonl", '{"conversation_id": 1}\n7\n', "row 2, is '7'"),
    ("a.json", '[{"conversation_id": ["x"]}]', r"\['x'\] as 'conversation_id'")])
def test_json_that_holds_no_rows_is_named(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    target = write(tmp_path / "eu.jsonl", [talk(0)])
    with pytest.raises(UserError, match=says):
        build("magpie", tmp_path / "out", "eu", {"data": str(tmp_path / name), "target_data": str(target)})
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data own/rows\.json does not exist"):
        list(tables.rows("own/rows.json"))


@pytest.mark.parametrize("option", ["limit=-1", "characters=0"])
def test_a_number_of_rows_or_characters_below_nothing_is_refused(tmp_path, option):
    key, value = option.split("=")
    with pytest.raises(UserError, match=f"{key} is {value}: it must be at least"):
        magpie(tmp_path, [talk(0)], [talk(0)], **{key: int(value)})


def test_a_turn_without_text_is_no_answer_none(tmp_path):
    """null in JSON would be learned as the word "None"."""
    base = [{"conversation_id": f"c{i}", "conversations": [{"from": "human", "value": "Say it"},
                                                           {"from": "gpt", "value": (None, "Yes")[i]}]} for i in (0, 1)]
    counts, found = magpie(tmp_path, base, [talk(0), talk(1)])
    assert counts["skipped: conversation is no list of turns by human and gpt"] == 1 and len(found) == 1
