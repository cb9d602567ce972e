"""Stage `backbone`: a language model from text alone, its continuation in another language, and its tokenizer."""
import json

import numpy as np
import pytest
import torch
import toydata
from ranks import run_ranks

from core import loop, stop
from core.backbone import backbone
from core.config import Source, Tokenizer, resolve
from core.errors import Stopped, UserError
from core.files import write_json, write_text
from core.run import Run
from core.tokenizer import SPECIAL, study_texts, train

TEXT = [{"data": "toy", "subset": "text"}]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    toydata.write(root, {"text": [toydata.text_sample(i) for i in range(300)]})
    return root


@pytest.fixture(scope="module")
def english(data, tmp_path_factory):
    run = directory(tmp_path_factory.mktemp("study"), "english", data)
    return run, trained(run)


def trained(run):
    """The stage in a process of its own, as a job runs it; "stopped" if it was stopped."""
    return run_ranks(_backbone, 1, run.path, timeout=120)[0]


def _backbone(path):
    try:
        return backbone(Run(path))
    except Stopped:
        return "stopped"


def directory(root, name, data, parents=None, **changes):
    values = {
        "tokenizer": {"vocabulary": 320, "sources": TEXT, "characters": 20000}, "layers": 1, "hidden": 32, "heads": 2,
        "intermediate": 48, "pack": {"tokens": 128, "max_tokens": 128, "window": 4},
        "mixture": {"samples": 120, "supervise": "all", "text_only": {"language": "base", "share": 1, "sources": TEXT}},
        "train": {"trained": ["backbone"], "global_batch": 2, "lr": {"backbone": 5e-3}, "dtype": "float32"},
        "runtime": {"data_root": str(data), "save_every": 5, "micro_batch": 2}}
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values.get(key), dict) else value
    folder = root / "runs" / "study" / "backbone" / name
    write_json(folder / "spec.json", {"id": name, "name": name, "study": "study", "stage": "backbone", "axes": {},
                                      "function": "core.backbone:backbone", "parents": parents or {}})
    write_text(folder / "config.yaml", json.dumps(resolve("core.backbone:backbone", values)))
    return Run(folder)


def loss(folder, text):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    net, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.inference_mode():
        return net(input_ids=ids, labels=ids).loss.item()


def weights(run):
    from safetensors.torch import load_file

    return load_file(run.path / "model" / "model.safetensors")


def test_it_learns_and_leaves_a_plain_folder(english):
    run, result = english
    assert result["loss"] < 4.5 < loss_at_the_start(run)
    assert {row["language"] for row in result["consumed"]} == {"en"}
    assert "lm_head.weight" not in weights(run)
    assert not any("core" in name for name in json.loads((run.path / "model" / "config.json").read_text()))


def loss_at_the_start(run):
    return json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def test_the_continuation_keeps_the_tokenizer_and_learns_the_target_language(english, data):
    run, _ = english
    text = {"language": "target", "share": 1, "sources": TEXT}
    adapted = directory(run.path.parents[3], "adapted", data, {"initial": {"stage": "backbone", "id": run.path.name}},
                        initial="parent:initial", mixture={"text_only": text})
    result = trained(adapted)
    assert {row["language"] for row in result["consumed"]} == {"eu"}
    name = "tokenizer.json"
    assert (adapted.path / "model" / name).read_bytes() == (run.path / "model" / name).read_bytes()
    basque = "txakur gorri txiki katu"
    assert loss(adapted.path / "model", basque) < loss(run.path / "model", basque) - 0.5


def test_a_stopped_run_ends_bit_for_bit_as_a_whole_one(english, data, tmp_path, monkeypatch):
    run = directory(tmp_path, "english", data)
    original = loop.Loop._accumulate

    def accumulate(self, step, *arguments):
        if step == 7:
            stop.request("test")
        return original(self, step, *arguments)

    monkeypatch.setattr(loop.Loop, "_accumulate", accumulate)
    assert trained(run) == "stopped" and not (run.path / "model").exists()
    monkeypatch.undo()
    trained(run)
    first, second = weights(english[0]), weights(run)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_settings_that_make_no_language_model_are_refused(data, tmp_path):
    cases = {"trained": {"train": {"trained": ["connector"]}}, "supervise": {"mixture": {"supervise": "assistant"}},
             "sources": {"mixture": {"sources": TEXT}}, "tokenizer.sources": {"tokenizer": {"sources": []}}}
    for number, (words, changes) in enumerate(cases.items()):
        with pytest.raises(UserError, match=words):
            backbone(directory(tmp_path, str(number), data, **changes))


def test_the_tokenizer_is_a_function_of_its_texts():
    texts = [toydata.text_sample(i).record["turns"]["en"][0]["content"] for i in range(200)]
    one, other = train(texts, 300), train(texts, 300)
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert all(len(one(token, add_special_tokens=False).input_ids) == 1 for token in SPECIAL)
    assert one.decode(one("kaixo, Ñandú 12 🙂\n\n").input_ids) == "kaixo, Ñandú 12 🙂\n\n"
    assert one.pad_token_id not in (one.eos_token_id, one.bos_token_id)
    with pytest.raises(UserError, match="gives only"):
        train(texts, 100000)


def test_the_template_prints_llama_3_turns():
    tokenizer = train(["a cat"] * 10, 265)
    talk = [{"role": "user", "content": " What is this?\n<image> "}, {"role": "assistant", "content": "a cat"}]
    text = tokenizer.apply_chat_template(talk, tokenize=False)
    assert text == ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is this?\n<image><|eot_id|>"
                    "<|start_header_id|>assistant<|end_header_id|>\n\na cat<|eot_id|>")
    assert text.startswith(tokenizer.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True))


def test_the_target_language_has_its_share_of_the_tokenizers_text(data):
    options = Tokenizer(sources=[Source("toy", "text")], characters=5000, target_share=0.2)
    basque = set(toydata.WORDS["eu"])
    count = {True: 0, False: 0}
    for text in study_texts(options, data, "en", "eu"):
        count[set(text.split()) <= basque] += len(text)
    assert count[True] / sum(count.values()) == pytest.approx(0.2, abs=0.05)


def test_broken_samples_are_left_out_of_the_tokenizers_text_marked_or_not(tmp_path):
    shard = toydata.write(tmp_path, {"text": [toydata.text_sample(i) for i in range(40)]}) / "text" / "000000.tar"
    options = Tokenizer(sources=[Source("toy", "text")])
    whole = list(study_texts(options, tmp_path, "en", "eu"))
    good = shard.read_bytes()
    shard.write_bytes(good.replace(b'{"id":"text/3"', b'~"id":"text/3"').replace(b'"turns"', b'"tunrs"', 1))
    assert len(whole) == 80 and len(list(study_texts(options, tmp_path, "en", "eu"))) == 76
    shard.write_bytes(shard.read_bytes().replace(b'{"id":"text/5"', b'~"id":"text/5"'))
    with pytest.raises(UserError, match=r"3 of 40 samples of tokenizer\.sources are unreadable, the last in toy/text"):
        list(study_texts(options, tmp_path, "en", "eu"))
    index = shard.with_name("000000.idx.npz")
    with np.load(index) as arrays:
        columns = dict(arrays)
    columns["bad"][5] = 1
    np.savez(index, **columns)
    assert len(list(study_texts(options, tmp_path, "en", "eu"))) == 74
