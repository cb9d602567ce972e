"""What a data set is said to hold: lengths, languages found, what is missing, what 20 % means."""
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from toydata import picture

from core.errors import UserError
from core.shards import DataSet
from data_tools.dataset import Sample, building
from data_tools.describe import shown
from data_tools.show import show
from data_tools.statistics import EDGES, histogram

BASQUE = "Etxe txikia ibaiaren ondoan dago eta zuhaitz handi bat dauka atzean."
ENGLISH = "The small house stands near the river and has a large tree behind it."
SPANISH = "La casa pequeña está cerca del río y tiene un árbol grande detrás de ella."


@pytest.fixture
def data(tmp_path):
    def sample(i, basque, image):
        turns = {"en": [{"role": "user", "content": "What?\n<image>"}, {"role": "assistant", "content": ENGLISH}]}
        if basque is not None:
            turns["eu"] = [{"role": "user", "content": "Zer?\n<image>"}, {"role": "assistant", "content": basque}]
        return Sample({"id": f"{i}", "source": "t", "license": "CC0", "turns": turns, "meta": {}}, image)

    with building(tmp_path / "<d>", "<d>", ["en", "eu"]) as made:
        made.subset("image", "image", [sample(i, None if i % 5 == 0 else BASQUE if i % 2 else SPANISH, picture(i))
                                       for i in range(40)])
        made.finish([{"name": "<s>", "version": "1", "licence": "CC0", "origin": "test", "sha256": ""}])
    return tmp_path / "<d>"


def test_rows_say_what_is_there_and_what_is_not(data):
    row = show(data)["subsets"][0]
    assert row["without_text"] == {"en": 0, "eu": 8}
    assert sum(row["histogram"]["en"]) == 40 and sum(row["histogram"]["eu"]) == 32
    assert row["languages_found"]["en"]["en"] > 0.9
    assert 0.3 < row["languages_found"]["eu"]["eu"] < 0.7 and 0.3 < row["languages_found"]["eu"]["es"] < 0.7


def test_histogram_is_that_of_the_index(data):
    subset = DataSet(data).subset("image")
    chars = subset.chars["en"]
    expected = [int(((chars >= low) & (chars < high)).sum()) for low, high in zip(EDGES, [*EDGES[1:], 1 << 30],
                                                                                  strict=True)]
    assert histogram(subset)["en"] == expected and max(expected) == 40
    subset.chars["en"] = np.array([0, 9, 10, 9999])
    assert histogram(subset)["en"] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


class Page(HTMLParser):
    """Collects text and everything that would load something."""

    def __init__(self):
        super().__init__()
        self.words, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for key, value in attributes if key in ("src", "href") or tag in ("script", "link")]

    def handle_data(self, data):
        self.words.append(data.strip())


def test_page_table_and_json_say_the_same(data):
    subset = DataSet(data).subset("image")
    both = np.where(subset.chars["eu"] >= 0, 10, 0)
    np.savez(subset.folder / "lengths-abc.npz", data=np.array(subset.fingerprint), tokens_en=np.full(40, 10),
             loss_en=np.full(40, 5), tokens_eu=2 * both, loss_eu=both)
    found = show(data)
    assert json.loads(json.dumps(found)) == found
    share = found["subsets"][0]["twenty_percent"]["abc eu"]
    assert share == {"samples": 0.2, "tokens": pytest.approx(1 / 3, abs=1e-4), "loss": pytest.approx(1 / 3, abs=1e-4)}
    table = shown(found)
    assert "8 images of image have no text in eu" in table and "33.3%" in table and found["page"] in table
    page = Page()
    page.feed(Path(found["page"]).read_text())
    text = " ".join(page.words)
    assert page.loads == [] and "33.3%" in text and "<d>" in text and "<s>" in text
    assert "images without eu text" in text and text.count("image, e") == 2


def test_a_folder_without_a_tokenizer_and_a_broken_shard_are_named(data, tmp_path):
    import shutil

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no tokenizer"):
        show(data, tokenizer=tmp_path / "empty", sheet=tmp_path / "sheet")
    cut = tmp_path / "cut"
    shutil.copytree(data, cut)
    for shard in cut.glob("*/*.tar"):
        shard.write_bytes(shard.read_bytes()[:600].ljust(shard.stat().st_size, b"\0"))
    with pytest.raises(UserError, match=r"its JSON is broken .*begira data check .*cut` names all"):
        show(cut, sheet=tmp_path / "sheet")


def test_fertility_needs_a_tokenizer(data, tmp_path):
    from toydata import tokenizer

    tokenizer().save_pretrained(tmp_path / "words")
    found = show(data, tmp_path / "words")
    fertility = found["subsets"][0]["tokens_per_word"]
    assert set(fertility) == {"en", "eu"} and all(value > 0 for value in fertility.values())
    assert "tokens per word eu" in Path(found["page"]).read_text()
    assert "tokens per word" not in Path(show(data)["page"]).read_text()
