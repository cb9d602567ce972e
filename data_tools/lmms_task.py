"""Evaluation items as a task of lmms-eval, and its answers beside begira's own.

    python -m data_tools.lmms_task write DATA_SET SUBSET TASK LANGUAGE FOLDER
    python -m data_tools.lmms_task compare EVALUATE_RUN FOLDER SAMPLES

    FOLDER/<name>.yaml     the task, for `--include_path FOLDER --tasks <name>`
    FOLDER/utils.py        how it is asked and scored, without begira: exact match as core.score normalises
    FOLDER/<name>/         the items with their images, as `datasets.load_from_disk` reads them

Items with free answers (kind generate) and a reference only; the prompt is the item's own, word for word, with the
image where the item has it. lmms-eval itself is no dependency: what is written are files. See docs/evaluation.md for
the commands."""
from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import replacing_folder, write_text
from core.questions import check, is_open
from core.shards import DataSet

_UTILS = '''"""How the items are asked and scored. Written by begira's data_tools.lmms_task."""
import unicodedata

IMAGE = "<image>"


def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["prompt"]


def doc_to_messages(doc, lmms_eval_specific_kwargs=None):
    """Text and image in the order in which the prompt has them."""
    before, _, after = doc["prompt"].partition(IMAGE)
    parts = [{"type": "text", "text": before.strip()}, {"type": "image", "url": doc_to_visual(doc)[0]},
             {"type": "text", "text": after.strip()}]
    return [{"role": "user", "content": [part for part in parts if part.get("text") != ""]}]


def doc_to_target(doc):
    return doc["references"][0]


def normalise(text):
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in text).split())


def process_results(doc, results):
    return {"exact": float(normalise(results[0]) in {normalise(one) for one in doc["references"]})}
'''
_TASK = '''task: {name}
dataset_path: {items}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_messages: !function utils.doc_to_messages
doc_to_target: !function utils.doc_to_target
process_results: !function utils.process_results
generation_kwargs: {{max_new_tokens: {longest}, temperature: 0, do_sample: false}}
metric_list:
  - {{metric: exact, aggregation: mean, higher_is_better: true}}
metadata:
  - version: {version}
'''


def write(data_set: Path | str, subset: str, task: str, language: str, out: Path | str, longest: int = 64) -> str:
    """Write the task into the folder `out`; returns its name. longest: new tokens of an answer.

    Raises UserError if the subset holds no such items."""
    from datasets import Dataset, DatasetDict, Features, Image, Value

    data, out = DataSet(data_set), Path(out).absolute()
    rows = _rows(data.subset(subset), task, language)
    if not rows:
        raise UserError(f"{data.name}/{subset} has no items of task '{task}' with an image and a reference in "
                        f"'{language}': choose a task of kind generate")
    name = "_".join(part.replace("-", "_") for part in (data.name, subset, task, language))
    text = Value("string")
    features = Features({"item": text, "prompt": text, "references": [text], "image": Image()})
    with replacing_folder(out / name) as folder:
        DatasetDict({"test": Dataset.from_list(rows, features=features)}).save_to_disk(str(folder))
    write_text(out / "utils.py", _UTILS)
    write_text(out / f"{name}.yaml", _TASK.format(name=name, items=out / name, longest=longest,
                                                   version=data.manifest["fingerprint"][:10]))
    return name


def _rows(subset: Any, task: str, language: str) -> list[dict[str, Any]]:
    rows = []
    for position in range(len(subset)):
        record, image = subset.read(position)
        if record.get("task") != task or record.get("kind") != "generate" or image is None:
            continue
        try:
            check(record, language)
        except ValueError:
            continue
        if is_open(record, language):     # nothing to match the answer with
            continue
        rows.append({"item": record["id"], "prompt": record["prompt"][language],
                     "references": list(record["references"][language]),
                     "image": {"bytes": _png(image), "path": None}})
    return rows


def _png(image: bytes) -> bytes:
    """The image as begira decodes it (transparency on white), so that both see the same."""
    from core.pixels import open_image

    stream = io.BytesIO()
    open_image(image).save(stream, "PNG")
    return stream.getvalue()


def compare(run: Path | str, out: Path | str, samples: Path | str) -> dict[str, int]:
    """How many answers of lmms-eval (its --log_samples file) equal those of the evaluate run, how many begin with them
    (the run's max_new_tokens was smaller), and how many differ. The file's name says which task in `out` it is of.

    Raises UserError if the run was not asked an item."""
    import pyarrow.parquet as pq
    from datasets import load_from_disk

    folder = next((path for path in Path(out).iterdir() if path.is_dir() and path.name in Path(samples).name), None)
    if folder is None:
        raise UserError(f"{samples} holds samples of none of the tasks in {out}")
    items = list(load_from_disk(str(folder))["test"]["item"])
    asked = pq.read_table(Path(run) / "items.parquet", columns=["item", "language", "prediction"]).to_pylist()
    own = {row["item"]: row["prediction"] for row in asked if folder.name.endswith(f"_{row['language']}")}
    counts = {"same": 0, "longer": 0, "different": 0}
    for line in Path(samples).read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        item, said = items[sample["doc_id"]], sample["filtered_resps"]
        if item not in own:
            raise UserError(f"run {run} was not asked {item}: evaluate the same subset")
        said = (said[0] if isinstance(said, list) else said).strip()
        expected = own[item].strip().rstrip("\ufffd")     # a character may be cut in the middle
        counts["same" if said == own[item].strip() else "longer" if said.startswith(expected) else "different"] += 1
    return counts


if __name__ == "__main__":
    verbs = {"write": (write, 5), "compare": (compare, 3)}
    verb, wanted = verbs.get(" ".join(sys.argv[1:2]), (None, 0))
    if verb is None or len(sys.argv) != wanted + 2:
        sys.exit(__doc__)
    try:
        print(verb(*sys.argv[2:]))
    except UserError as error:
        sys.exit(f"begira: {error}")
