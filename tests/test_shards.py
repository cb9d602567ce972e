"""Indexed reading: what stands in the tars comes back, broken samples are named, missing files too."""
import json
import os
import tarfile

import numpy as np
import pytest
import toydata
from hypothesis import given, settings
from hypothesis import strategies as st

from core import shards
from core.errors import UserError
from core.shards import Corrupt, DataSet, open_subset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toydata.toy(tmp_path_factory.mktemp("data"), images=250, texts=30)


def copy(data, tmp_path):
    import shutil

    return shutil.copytree(data, tmp_path / data.name)


def test_every_sample_is_what_the_tar_holds(data):
    subset = DataSet(data).subset("image")
    found = {}
    for path in sorted((data / "image").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
    assert subset.n == 250 == len(found) / 2
    for i in range(subset.n):
        record, image = subset.read(i)
        assert record == json.loads(found[f"{subset.key(i)}.json"]) and image == found[f"{subset.key(i)}.png"]
        assert subset.raw(i) == (found[f"{subset.key(i)}.json"], image)


def test_columns_of_the_index(data):
    subset, text = open_subset(data.parent, data.name, "image"), open_subset(data.parent, data.name, "text")
    assert subset.kind == "image" and text.kind == "text" and subset.name == "toy/image"
    assert subset.images.all() and not text.images.any() and (subset.width == 16).all()
    assert len(np.unique(subset.id_hash)) == 250
    absent = [i for i in range(subset.n) if "eu" not in subset.record(i)["turns"]]
    assert np.flatnonzero(subset.chars["eu"] < 0).tolist() == absent and len(absent) == 50
    assert text.read(3)[1] is None


def test_few_files_stay_open(data, monkeypatch):
    monkeypatch.setattr(shards, "MAX_OPEN", 2)
    before = len(os.listdir("/proc/self/fd"))
    subset = DataSet(data).subset("image")
    for i in (0, 120, 240, 5, 249):
        subset.read(i)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    subset.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_announcing_changes_nothing(data):
    subset = DataSet(data).subset("image")
    before = subset.raw(249)
    subset.announce([249, 3, 4, 120])
    subset.announce([])
    assert subset.raw(249) == before


def test_a_forked_child_reads_through_the_same_descriptors(data):
    subset = DataSet(data).subset("image")
    expected = [subset.raw(i) for i in range(0, 250, 10)]
    child = os.fork()
    if child == 0:
        os._exit(0 if [subset.raw(i) for i in range(0, 250, 10)] == expected else 1)
    assert [subset.raw(i) for i in range(0, 250, 10)] == expected
    assert os.waitpid(child, 0)[1] == 0


def test_a_cut_tar_breaks_the_samples_behind_the_cut_and_no_other(data, tmp_path):
    path = copy(data, tmp_path)
    shard = path / "image" / "000001.tar"
    subset = DataSet(path).subset("image")
    os.truncate(shard, shard.stat().st_size // 2)                   # while it is in use
    broken = []
    for i in range(subset.n):
        try:
            subset.read(i)
        except Corrupt as error:
            assert error.key == subset.key(i) and "000001.tar ends before" in str(error)
            broken.append(i)
    assert broken and min(broken) > 120 and max(broken) == 199 and len(broken) == max(broken) - min(broken) + 1


@settings(max_examples=30, deadline=None)
@given(place=st.integers(0, 249), junk=st.binary(min_size=1, max_size=40))
def test_overwritten_bytes_never_do_worse_than_corrupt(data, place, junk):
    subset = DataSet(data).subset("image")
    subset._bytes = lambda i, shard, offset, size: (junk * (size // len(junk) + 1))[:size]
    try:
        assert isinstance(subset.record(place), dict)
    except Corrupt as error:
        assert subset.key(place) in str(error)


@pytest.mark.parametrize(("break_it", "says"), [
    (lambda p: (p / "manifest.json").unlink(), "no manifest.json"),
    (lambda p: (p / "image" / "000001.idx.npz").unlink(), "000001.idx.npz is missing"),
    (lambda p: (p / "image" / "000001.tar").unlink(), "000001.tar is missing"),
    (lambda p: os.truncate(p / "image" / "000001.tar", 1000), r"000001.tar has 1000 bytes, the manifest says \d+: "),
    (lambda p: (p / "image" / "000001.idx.npz").write_bytes(b"PK\3\4 junk"), "cannot be read"),
    (lambda p: (p / "image" / "000001.idx.npz").write_bytes(b""), "cannot be read"),
    (lambda p: (p / "image" / "000002.idx.npz").replace(p / "image" / "000001.idx.npz"), "stale"),
    (lambda p: (p / "manifest.json").write_text('{"schema": 99}'), "schema 99"),
])
def test_what_is_missing_is_named(data, tmp_path, break_it, says):
    path = copy(data, tmp_path)
    break_it(path)
    with pytest.raises(UserError, match=says) as caught:
        DataSet(path).subset("image")
    assert "\n" not in str(caught.value)


def test_an_unknown_subset_names_the_known_ones(data):
    with pytest.raises(UserError, match="no subset 'nmae': it has image, text"):
        open_subset(data.parent, "toy", "nmae")
