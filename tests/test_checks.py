"""What can be known to go wrong before the first job, and what is only streamed and so cannot be looked for."""
import sys

import pytest
import toydata

from core.config import resolve
from experiments.checks import check_runs
from experiments.expand import Desired


def findings(monkeypatch, root, data, mixture=(), **more):
    mixture = {"sources": [{"data": data, "subset": "image"}], **dict(mixture)}
    return found(monkeypatch, root, "core.train:align", {"mixture": mixture, **more})


def found(monkeypatch, root, function, config):
    monkeypatch.setenv("BEGIRA_DATA", str(root))
    run = Desired("0" * 10, "a run", "study", "a stage", function, {}, {}, resolve(function, config))
    return [finding.what for finding in check_runs([run])]


@pytest.mark.parametrize("data", ["https://a.eu/{000..999}.tar", "pipe:ssh a cat x.tar", "shards.tar"])
def test_streamed_shards_are_no_missing_data_set(tmp_path, monkeypatch, data):
    (tmp_path / "shards.tar").touch()
    assert findings(monkeypatch, tmp_path, data) == []
    assert findings(monkeypatch, tmp_path, "shards") == [f"no data set shards in {tmp_path}"]
    toydata.toy(tmp_path, images=2, texts=1)
    assert findings(monkeypatch, tmp_path, "toy") == []


def test_adapters_without_peft_are_found_before_the_start(tmp_path, monkeypatch):
    toydata.toy(tmp_path, images=2, texts=1)
    assert findings(monkeypatch, tmp_path, "toy", train={"lora_rank": 4}) == []
    monkeypatch.setitem(sys.modules, "peft", None)
    assert findings(monkeypatch, tmp_path, "toy") == []
    assert findings(monkeypatch, tmp_path, "toy", train={"lora_rank": 4}) == \
        ["train.lora_rank needs peft, which is not installed here"]


def test_a_target_language_that_the_data_lack_is_found_before_the_start(tmp_path, monkeypatch):
    toydata.toy(tmp_path, images=2, texts=1)
    welsh = {"target_language": "cy", "target_ratio": 0.2}
    assert findings(monkeypatch, tmp_path, "toy", {**welsh, "target_language": "eu"}) == []
    assert findings(monkeypatch, tmp_path, "toy", {**welsh, "target_ratio": 0.0}) == []
    assert findings(monkeypatch, tmp_path, "toy", welsh) == ["data set toy has no cy"]
    asked = {"tasks": [{"data": "toy", "subset": "image"}], "languages": ["en", "xx"]}
    assert found(monkeypatch, tmp_path, "core.evaluate:evaluate", asked) == ["data set toy has no xx"]
    assert found(monkeypatch, tmp_path, "core.evaluate:evaluate", {**asked, "languages": ["en", "eu"]}) == []
    assert found(monkeypatch, tmp_path, "core.evaluate:evaluate", {**asked, "tasks": []}) == []
