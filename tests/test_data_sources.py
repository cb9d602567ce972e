"""Every declared source turns rows of its true schema into sound shards; what is wrong with the rows is named."""
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.errors import UserError
from core.shards import DataSet
from data_tools import sources, tables
from data_tools.build import build
from data_tools.check import check
from data_tools.converters import pieces
from data_tools.describe import shown
from data_tools.show import show
from tests.begira_process import Begira

ROWS = 12


def picture(seed, form="JPEG"):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)).save(out, form)
    return out.getvalue()


def stored(seed):
    return {"bytes": picture(seed), "path": f"{seed}.jpg"}


def url(i):
    return f"https://images.example/{i}.jpg"


def chat(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


# rows of the published schemas: source -> (English or parallel row, Basque row or None), by row number
SCHEMAS = {
    "cc3m": (lambda i: {"id": str(i), "url": url(i), "caption_en": f"a dog &amp; {i} cats",
                        "caption_eu": f"txakur bat eta {i} katu"}, None),
    "pixmo-ama": (lambda i: {"image_url": url(i // 2), "image_sha256": f"{i // 2:064x}", "question": f"What is {i}?",
                             "answer": f"It is {i}."},
                  lambda i: {"image_url": url(i // 2), "image_sha256": f"{i // 2:064x}", "question": f"Zer da {i}?",
                             "answer": f"{i} da."}),
    "pixmo-cap": (lambda i: {"image_url": url(i), "caption": f"A long caption {i}.", "transcripts": ["well", "er"]},
                  lambda i: {"image_url": url(i), "caption": f"Azalpen luze bat {i}."}),
    "pixmo-capqa-train": (lambda i: {"image_url": url(i), "question": f"[USER] What {i}?", "answer": f"That {i}",
                               "messages": ["x"]},
                    lambda i: {"image_url": url(i), "question": f"Zer {i}?", "answer": f"Hori {i}"}),
    "llava-instruct": (lambda i: {"id": f"{i // 2:012d}", "image": f"{i}.jpg",
                                  "conversations": chat("<image>\nWhat is it?", f"A bus {i}.") + chat("Big?", "Yes.")},
                       lambda i: {"id": f"{i // 2:012d}", "image": f"{i}.jpg", "conversations": chat(
                           "Zer da?\n<image>", f"Autobus bat {i}.") + chat("Handia?", "Bai.")}),
    "magpie": (lambda i: {"conversation_id": f"c{i}", "instruction": f"Say {i}", "response": f"{i}!",
                          "conversations": chat(f"Say {i}", f"{i}!")},
               lambda i: {"conversation_id": f"c{i}", "instruction": f"Esan {i}", "response": f"{i}!",
                          "conversations": chat(f"Esan {i}", f"{i} da!")}),
    "corpus": (lambda i: {"id": i, "source": "wikipedia", "text": f"Lehen lerroa {i}.\n" + "Hitz batzuk. " * 40}, None),
    "vqav2": (lambda i: {"question_id": i, "question": "How many?", "multiple_choice_answer": "two", "image": stored(i),
                         "answers": [{"answer": "two", "answer_confidence": "yes", "answer_id": 1},
                                     {"answer": "2", "answer_confidence": "maybe", "answer_id": 2}]},
              lambda i: {"question_id": i, "question": "Zenbat?", "multiple_choice_answer": "bi", "image": stored(i),
                         "answers": [{"answer": "bi"}, {"answer": "2"}]}),
    "aokvqa": (lambda i: {"question_id": f"q{i}", "question": "What for?", "choices": ["a", "b", "c", "d"],
                          "correct_choice_idx": i % 4, "direct_answers": "['a']", "image": stored(i)},
               lambda i: {"question_id": f"q{i}", "question": "Zertarako?", "choices": ["e", "f", "g", "h"],
                          "correct_choice_idx": i % 4, "image": stored(i)}),
    "pixmo-capqa": (lambda i: {"id": i, "question": "Is it red?", "answer": ("Yes", "no.")[i % 2],
                                     "image": stored(i)},
                          lambda i: {"id": i, "question": "Gorria da?", "answer": ("Bai", "ez")[i % 2],
                                     "image": stored(i)}),
    "wildvision": (lambda i: {"question_id": f"w{i}", "instruction": "Explain it.", "output": "It is...",
                              "image": stored(i)},
                   lambda i: {"question_id": f"w{i}", "instruction": "Azaldu.", "output": None, "image": stored(i)}),
    "mmstar": (lambda i: {"index": i, "question": f"Which {i}?\nOptions: A: red, B: blue, C: one, two, D: none",
                          "answer": "ABCD"[i % 4], "category": "x", "image": stored(i)},
               lambda i: {"index": i, "question": f"Zein {i}?\nAukerak: A: gorria, B: urdina, C: bat, bi, D: ezer ez",
                          "answer": "ABCD"[i % 4], "category": "x", "image": stored(i)}),
}


def lay(folder, name, count=ROWS):
    """Files of the source's schema and its images; returns the options that name them."""
    base, target = SCHEMAS[name]
    entry = sources.load(name)
    options = {}
    for key, make in (("data", base), ("target_data", target)):
        if make is None:
            continue
        rows = [make(i) for i in range(count)]
        path = folder / f"{name}-{key}{'.json' if name == 'llava-instruct' else '.parquet'}"
        if path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
        options[key] = str(path)
    if set(entry.get("images", {})) & {"file", "url"}:
        images = folder / "images"
        images.mkdir()
        options["images"] = str(images)
        if "file" in entry["images"]:
            for i in range(count):
                (images / f"{i}.jpg").write_bytes(picture(i))
        else:
            with open(images / "0.tar", "wb") as tar, open(images / "0.jsonl", "w") as index:
                for i in range(count):
                    index.write(json.dumps({"id": i, "url": url(i), "status": "ok", "offset": tar.tell(),
                                            "size": len(picture(i))}) + "\n")
                    tar.write(picture(i))
    return options


def samples(out, name):
    subset = DataSet(out).subset(sources.load(name)["subset"])
    return [subset.read(i) for i in range(len(subset))]


def test_every_source_has_a_fixture():
    assert set(sources.names()) == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_true_schema_gives_sound_shards(name, tmp_path):
    options = lay(tmp_path, name)
    result = build(name, tmp_path / "out", "eu", options)
    assert result["manifest"]["rows"] == {"samples": ROWS, "rows": ROWS, "kept": ROWS}
    assert check(tmp_path / "out") == []
    for record, image in samples(tmp_path / "out", name):
        sides = record.get("turns") or record["prompt"]
        assert set(sides) == ({"eu"} if name == "corpus" else {"en", "eu"})
        assert bool(image) == (sources.load(name)["kind"] != "text")
        assert record["license"] == sources.load(name)["licence"]
    assert build(name, tmp_path / "out", "eu", options)["state"] == "unchanged"


@pytest.mark.parametrize("name", [n for n, (_, target) in SCHEMAS.items() if target])
def test_the_order_of_the_target_rows_does_not_matter(name, tmp_path):
    options = lay(tmp_path, name)
    build(name, tmp_path / "a", "eu", options)
    rows = list(tables.rows(options["target_data"]))
    mixed = rows[1::2] + rows[::2] if not sources.load(name).get("repeats") else rows[4:] + rows[:4]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(r, default=lambda b: "") + "\n" for r in mixed))
    build(name, tmp_path / "b", "eu", {**options, "target_data": str(path)})
    one, other = ({r["id"]: r for r, _ in samples(tmp_path / x, name)} for x in "ab")
    assert one == other


@pytest.mark.parametrize("name", [n for n in SCHEMAS if n != "llava-instruct"])
def test_a_missing_field_is_named(name, tmp_path):
    options = lay(tmp_path, name)
    entry = sources.load(name)
    field = {"captions": "caption", "instruction": "conversations", "text": "text"}.get(entry["converter"], "question")
    column = entry["fields"][field].replace("{lang}", "en")
    table = pq.read_table(options["data"])
    renamed = table.rename_columns([f"{c}_x" if c == column or (name == "magpie" and c in ("instruction",)) else c
                                    for c in table.column_names])
    pq.write_table(renamed, options["data"])
    missing = "instruction" if name == "magpie" else column
    with pytest.raises(UserError, match=f"'{name}'.*no field '{missing}'.*did you mean '{missing}_x'"):
        build(name, tmp_path / "out", "eu", options)
    assert not (tmp_path / "out").exists()


def test_rows_without_image_or_translation_are_counted_not_lost(tmp_path):
    options = lay(tmp_path, "vqav2")
    rows = list(tables.rows(options["data"]))
    rows[3]["image"], rows[4]["image"], rows[5]["question"] = None, {"bytes": b"GIF89a", "path": "x"}, " "
    pq.write_table(pa.Table.from_pylist(rows), options["data"])
    pq.write_table(pa.Table.from_pylist(list(tables.rows(options["target_data"]))[:-2]), options["target_data"])
    result = build("vqav2", tmp_path / "out", "eu", options)
    assert result["manifest"]["rows"] == {
        "rows": 12, "kept": 7, "samples": 7, "skipped: no image": 1, "skipped: image is no PNG, JPEG or WebP": 1,
        "skipped: empty question": 1, "skipped: no target language": 2}


def test_a_missing_translation_never_shifts_its_neighbours(tmp_path):
    """Two questions per image: where one of two translations is lost, neither is guessed."""
    options = lay(tmp_path, "pixmo-ama")
    pq.write_table(pa.Table.from_pylist(list(tables.rows(options["target_data"]))[1:]), options["target_data"])
    build("pixmo-ama", tmp_path / "out", "eu", options)
    for record, _ in samples(tmp_path / "out", "pixmo-ama"):
        number = record["id"].split("/")[1]
        assert record["turns"]["en"][1]["content"] == f"It is {number}."
        if int(number) < 2:
            assert "eu" not in record["turns"]
        else:
            assert record["turns"]["eu"][1]["content"] == f"{number} da."


def test_llava_ids_that_repeat_stay_apart(tmp_path):
    build("llava-instruct", tmp_path / "out", "eu", lay(tmp_path, "llava-instruct"))
    found = samples(tmp_path / "out", "llava-instruct")
    assert len({r["id"] for r, _ in found}) == ROWS
    turns = found[0][0]["turns"]["en"]
    assert turns[0]["content"] == "What is it?\n<image>" and len(turns) == 4
    assert all("<image>" not in t["content"] for t in turns[1:])


def test_options_of_mmstar_are_taken_out_of_the_question(tmp_path):
    build("mmstar", tmp_path / "out", "eu", lay(tmp_path, "mmstar"))
    record = samples(tmp_path / "out", "mmstar")[2][0]
    assert record["options"] == {"en": ["red", "blue", "one, two", "none"], "eu": ["gorria", "urdina", "bat, bi",
                                                                                  "ezer ez"]}
    assert record["prompt"] == {"en": "Which 2?\n<image>", "eu": "Zein 2?\n<image>"} and record["answer"] == 2


def test_what_is_missing_is_said(tmp_path):
    options = lay(tmp_path, "cc3m")
    with pytest.raises(UserError, match=r"URLs only.*images=FOLDER"):
        build("cc3m", tmp_path / "out", "eu", {"data": options["data"]})
    with pytest.raises(UserError, match=r"set target_data="):
        build("aokvqa", tmp_path / "out", "eu", {"data": options["data"]})
    with pytest.raises(UserError, match="does not exist"):
        build("cc3m", tmp_path / "out", "eu", {**options, "data": str(tmp_path / "no.parquet")})
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cc3m-data.parquet").read_bytes()[:500])
    with pytest.raises(UserError, match=r"cut\.parquet cannot be read"):
        build("cc3m", tmp_path / "out", "eu", {**options, "data": str(tmp_path / "cut.parquet")})


def test_folders_of_the_datasets_library(tmp_path):
    import datasets

    options = lay(tmp_path, "aokvqa")
    for key in ("data", "target_data"):
        rows = list(tables.rows(options[key]))
        data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
        datasets.DatasetDict({"validation": data}).save_to_disk(tmp_path / key)
        options[key] = str(tmp_path / key)
    result = build("aokvqa", tmp_path / "out", "eu", options)
    assert result["manifest"]["rows"]["samples"] == ROWS and check(tmp_path / "out") == []
    with pytest.raises(UserError, match="no split"):
        build("aokvqa", tmp_path / "other", "eu", {**options, "split": "nosplit"})


@pytest.mark.parametrize("characters", [20, 50, 1000])
def test_pieces_keep_every_word_in_order(characters):
    document = "Lehena da hau. Bigarrena! Hirugarrena luzeagoa da?\n\nLerro bat\n" + "x" * 70 + " amaiera."
    cut = list(pieces(document, characters))
    assert all(0 < len(p) <= characters for p in cut)
    assert "".join("".join(cut).split()) == "".join(document.split())


def test_a_source_without_a_version_is_shown_without_a_gap(tmp_path):
    build("magpie", tmp_path / "out", "eu", lay(tmp_path, "magpie"))
    assert "magpie-data.parquet, llama3.1" in shown(show(tmp_path / "out"))


def test_a_mistake_is_one_line_that_names_the_folder(tmp_path):
    options = {**lay(tmp_path, "llava-instruct"), "images": str(tmp_path / "nowhere")}
    words = ["data", "build", "llava-instruct", *(f"{key}={value}" for key, value in options.items())]
    begira = Begira(tmp_path)
    begira(*words, "--out", str(tmp_path / "out"), code=2)
    assert begira.error.count("\n") == 1 and f"{tmp_path / 'nowhere'} is no folder" in begira.error
