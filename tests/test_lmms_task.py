"""Evaluation items as a task of lmms-eval: what is written stands by itself, and asks and scores as begira does."""
from __future__ import annotations

import importlib.util
import io
import json

import pytest
import yaml
from PIL import Image

from core.errors import UserError
from core.score import normalise
from data_tools.dataset import Sample, building
from data_tools.lmms_task import compare, write

NAME = "toy_eval_dev_describe_eu"


def sample(number, kind="generate"):
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8), (number, 99, 200, 0 if number == 1 else 255)).save(stream, "PNG")
    record = {"id": f"{kind}/{number}", "source": "t", "license": "CC0", "kind": kind, "task": "describe",
              "prompt": {"en": "What is this?\n<image>", "eu": "Zer da hau?\n<image>"},
              "references": {"en": [f"Thing {number}"], "eu": [f"Gauza {number}", "beste bat"]}, "meta": {}}
    if number == 2:
        del record["references"]["eu"]
    if number == 4:
        record["references"]["eu"] = []
    return Sample(record, stream.getvalue())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("task")
    with building(root / "toy", "toy", ["en", "eu"]) as writer:
        writer.subset("eval-dev", "evaluation", [*(sample(i) for i in range(5)), sample(9, "vqa")])
        writer.finish([])
    assert write(root / "toy", "eval-dev", "describe", "eu", root / "out") == NAME
    return root / "out"


@pytest.fixture(scope="module")
def utils(written):
    spec = importlib.util.spec_from_file_location("utils", written / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def items(written):
    from datasets import load_from_disk

    return load_from_disk(str(written / NAME))["test"]


def test_items_are_those_that_can_be_asked(items):
    assert list(items["item"]) == ["generate/0", "generate/1", "generate/3"]     # none without Basque, open or vqa
    assert items[0]["references"] == ["Gauza 0", "beste bat"]
    assert items[1]["image"].convert("RGB").getpixel((0, 0)) == (255, 255, 255)     # transparent is white


def test_the_task_names_what_is_there(written, utils):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    task = yaml.load((written / f"{NAME}.yaml").read_text(), Loader)
    assert task["task"] == NAME and task["dataset_path"] == str(written / NAME)
    for key in ("doc_to_visual", "doc_to_text", "doc_to_messages", "doc_to_target", "process_results"):
        assert callable(getattr(utils, task[key].removeprefix("utils.")))


def test_prompts_are_word_for_word(items, utils):
    assert utils.doc_to_text(items[0]) == "Zer da hau?\n<image>"
    (turn,) = utils.doc_to_messages(items[0])
    assert [part["type"] for part in turn["content"]] == ["text", "image"]


def test_scores_are_begiras(items, utils):
    for text in ("gauza 0.", "GAUZA  0", "Beste bat!", "gauza 1", "", "gauzá 0"):
        expected = normalise(text) in {normalise(one) for one in items[0]["references"]}
        assert utils.process_results(items[0], [text]) == {"exact": float(expected)}
        assert utils.normalise(text) == normalise(text)


def test_nothing_to_ask_is_said(written, tmp_path):
    with pytest.raises(UserError, match="no items of task 'naming'"):
        write(written.parent / "toy", "eval-dev", "naming", "eu", tmp_path)


def test_answers_are_compared_item_by_item(written, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = {"generate/0": "gauza 0", "generate/1": "gauza lu", "generate/3": "gauza 3"}
    rows = [{"item": item, "language": language, "prediction": said if language == "eu" else "thing"}
            for item, said in own.items() for language in ("en", "eu")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    samples = tmp_path / f"20260101_samples_{NAME}.jsonl"
    answers = ["gauza 0", "gauza luzea", "besterik"]
    samples.write_text("".join(json.dumps({"doc_id": number, "filtered_resps": [said]}) + "\n"
                               for number, said in enumerate(answers)))
    assert compare(tmp_path, written, samples) == {"same": 1, "longer": 1, "different": 1}
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "items.parquet")
    with pytest.raises(UserError, match="was not asked generate/1"):
        compare(tmp_path, written, samples)
