"""Translations beside their source texts: what is damaged is left out and counted, and nothing else is lost."""
import json

import pytest

from core.files import write_json
from core.run import Run
from core.shards import Corrupt, DataSet
from data_tools import translate, translated
from data_tools.dataset import Sample, building


@pytest.fixture
def data(tmp_path):
    """Five texts of one subset, of which the third cannot be read, and one of a subset that is not translated."""
    with building(tmp_path / "t", "t", ["en"]) as writer:
        for name, numbers in (("text", range(5)), ("other", [5])):
            writer.subset(name, "text", (Sample({"id": f"x/{i}", "source": "t", "license": "CC0", "meta": {}, "turns": {
                "en": [{"role": "assistant", "content": f"The dog number {i}."}]}}) for i in numbers))
        writer.finish([{"name": "t", "version": "1", "licence": "CC0", "origin": "test", "sha256": ""}])
    for name, key in (("text", b'"x/2"'), ("other", b'"x/5"')):
        tar = tmp_path / "t" / name / "000000.tar"
        tar.write_bytes(tar.read_bytes().replace(key, b"x" * len(key)))
    (tmp_path / "words.json").write_text(json.dumps({"dog": "txakurra"}))
    return tmp_path


def test_a_damaged_sample_costs_itself_alone(data):
    with pytest.raises(Corrupt):
        DataSet(data / "t").subset("text").record(2)
    run = Run(data / "run")
    write_json(run.path / "spec.json", {"id": "run", "name": "run", "study": "t", "stage": "translate", "axes": {},
                                        "function": "data_tools.translate:translate", "parents": {}})
    write_json(run.path / "config.yaml", {
        "data": "t", "target_language": "eu", "subsets": ["text"], "runtime": {"data_root": str(data)},
        "engines": [{"kind": "dictionary", "model": str(data / "words.json")}],
        "gates": {"length": [[0, 0.1, 9.0]], "copied": 1.0, "language_words": 999}})
    assert translate.translate(run)["passed"] == 4
    (run.path / "DONE").touch()
    manifest = translated.merge([run.path], data / "t-eu")
    assert manifest["translation"] == {"engine": f"dictionary:{data / 'words.json'}", "language": "eu", "records": 4,
                                       "translated": 4, "damaged": 2}
    made = DataSet(data / "t-eu").subset("text")
    assert [made.record(i)["turns"]["eu"][0]["content"] for i in range(len(made))] == [
        f"The txakurra number {i}." for i in (0, 1, 3, 4)]
