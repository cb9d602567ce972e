"""Shards behind a pipe: streamed through webdataset, packed as always, and honest about what that cannot do."""
import json
import logging
import shutil
from collections import Counter

import pytest
import toydata

from core.config_mixture import Mixture, Pack, Source, TextOnly
from core.encode import Encoder
from core.errors import UserError
from core.shards import DataSet
from core.stream import Loader, prepare

PACK = Pack(tokens=256, max_tokens=128)


@pytest.fixture(scope="module")
def encoder():
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False)
    return Encoder(toydata.tokenizer(), processor, image_tokens=4, max_tokens=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toydata.toy(tmp_path_factory.mktemp("data"), images=400, texts=1)


def mixture(folder, files="{000000..000003}", samples=800, **more):
    return Mixture(samples=samples, target_ratio=0.4, sources=[Source(f"pipe:cat {folder}/image/{files}.tar")], **more)


def test_a_pipe_is_read_without_an_index(folder, encoder, caplog):
    with caplog.at_level(logging.WARNING):
        plan, subsets = prepare(mixture(folder), PACK, 4, folder.parent, encoder)
    assert subsets == {} and "no exact resume" in caplog.text
    steps = list(Loader(plan, subsets, encoder, micro_batch=2))
    assert len(steps) == plan.steps and all(len(step) == 2 for step in steps)
    keys = [key.split(":")[-2:] for step in steps for packed in step for key in packed.keys]
    read, found = Counter(k for k, _ in keys), Counter(language for _, language in keys)
    assert len(read) == 400 and len(keys) == pytest.approx(800, rel=0.1)
    subset = DataSet(folder).subset("image")
    both = {subset.key(i) for i in range(subset.n) if "eu" in subset.record(i)["turns"]}
    assert {k for k, language in keys if language == "eu"} <= both
    assert found["eu"] / len(keys) == pytest.approx(0.4 * 0.8, abs=0.08)
    assert len(set(map(tuple, keys))) == 400                               # one language per id, in every epoch
    tokens = [sum(p.tokens for p in step) for step in steps]
    assert min(tokens) >= 4 * 256 and max(tokens) < 4 * 256 + 128


def test_ranks_read_different_shards_and_start_over(folder, encoder, caplog):
    plan, subsets = prepare(mixture(folder), PACK, 4, folder.parent, encoder)
    keys = [{key.split(":")[-2] for step in Loader(plan, subsets, encoder, rank, 2) for packed in step
             for key in packed.keys} for rank in range(2)]
    assert not keys[0] & keys[1]
    first = next(iter(Loader(plan, subsets, encoder)))
    with caplog.at_level(logging.WARNING):
        again = next(iter(Loader(plan, subsets, encoder, start_step=3)))
    assert again[0].keys == first[0].keys and "from their beginning again" in caplog.text


def test_broken_samples_are_fillers(folder, encoder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "toy")
    path = copy / "image" / "000000.tar"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"id":"image/7"', b'"id":~image/7"'))
    plan, subsets = prepare(mixture(copy, "000000", samples=90), PACK, 4, tmp_path, encoder)
    corrupt = [line for step in Loader(plan, subsets, encoder) for packed in step for _, line in packed.corrupt]
    assert corrupt and all("JSONDecodeError" in line for line in corrupt)


@pytest.mark.timeout(60)
def test_shards_that_have_gone_end_the_run(folder, encoder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "toy")
    plan, subsets = prepare(mixture(copy, "{000000..000001}"), PACK, 4, tmp_path, encoder)
    (copy / "image" / "000001.tar").unlink()
    assert next(iter(Loader(plan, subsets, encoder, 0, 2)))
    with pytest.raises(UserError, match=r"no sample in a whole pass over pipe:cat .*000001\.tar: restore the shards"):
        next(iter(Loader(plan, subsets, encoder, 1, 2)))


def test_a_changed_stream_is_told_apart(folder, encoder):
    plan, _ = prepare(mixture(folder), PACK, 4, folder.parent, encoder)
    other, _ = prepare(mixture(folder, seed=1), PACK, 4, folder.parent, encoder)
    assert plan.fingerprint != other.fingerprint
    assert "mixture.seed: 0 -> 1" in other.difference(json.loads(json.dumps(plan.describe())))


def test_what_streams_cannot_do_is_said(folder, encoder):
    mixed = mixture(folder, text_only=TextOnly("both", 0.2, [Source("toy", "text")]))
    with pytest.raises(UserError, match="one source and no other"):
        prepare(mixed, PACK, 4, folder.parent, encoder)
    plan, subsets = prepare(mixture(folder, "000000"), PACK, 4, folder.parent, encoder)
    with pytest.raises(UserError, match="2 ranks cannot share 1 streamed shards"):
        list(Loader(plan, subsets, encoder, 1, 2))
