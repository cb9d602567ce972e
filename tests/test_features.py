"""Cached features of a frozen encoder: the same losses as without, computed once, and broken images stay broken."""
import numpy as np
import pytest
import torch
import toydata
import trainruns
from ranks import run_ranks
from small import vision_folder
from trainruns import curve, finetune_run, ledger, site

from core.assemble import load_tower
from core.config import Mixture, Source
from core.encode import Encoder
from core.errors import UserError
from core.features import compute
from core.lengths import open_subsets


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return site(tmp_path_factory.mktemp("site"))


def test_losses_with_and_without_the_cache_are_equal(root):
    plain, cached = finetune_run(root, "plain"), finetune_run(root, "cached", cache_features=True)
    for path in (plain, cached):
        run_ranks(trainruns.train, 1, path, timeout=100)
    assert [r["loss"] for r in curve(cached)] == pytest.approx([r["loss"] for r in curve(plain)], abs=1e-5)
    assert ledger(cached) == ledger(plain)
    assert len(list((root / "data" / "toy" / "image").glob("features-*.npz"))) == 1


def test_a_trained_encoder_cannot_be_cached(root):
    path = finetune_run(root, "refused", trained=["vision", "connector"], cache_features=True)
    with pytest.raises(AssertionError, match=r"UserError: runtime.cache_features needs a frozen encoder"):
        run_ranks(trainruns.train, 1, path)


@pytest.fixture
def parts(tmp_path):
    tower, processor = load_tower(vision_folder(tmp_path / "clip"), torch.float32)
    samples = [toydata.image_sample(i) for i in range(6)]
    samples[4].image = b"no image"
    toydata.write(tmp_path / "data", {"image": samples, "again": samples[:3]})
    mixture = Mixture(sources=[Source("toy", "image"), Source("toy", "again")])
    return open_subsets(mixture, tmp_path / "data"), Encoder(toydata.tokenizer(), processor, 4), tower


def test_a_table_is_computed_once_and_holds_every_readable_image(parts, monkeypatch):
    subsets, encoder, tower = parts
    found = compute(subsets, encoder, tower, -2, "default", "hash")
    assert len(found.rows) == 5
    image = subsets["toy/image"].read(0)[1]
    monkeypatch.setattr("core.features._table", lambda *_: pytest.fail("computed again"))
    again = compute(subsets, encoder, tower, -2, "default", "hash")
    assert np.array_equal(again(image), found(image)) and found(image).shape == (4, 24)
    with pytest.raises(KeyError):
        found(b"no image")


def test_a_table_without_what_could_not_be_read_is_not_kept(parts):
    subsets, encoder, tower = parts
    shard = subsets["toy/image"].folder / "000000.tar"
    good = shard.read_bytes()
    shard.write_bytes(good.replace(b'{"id":"image/5"', b'~"id":"image/5"'))
    assert len(compute(subsets, encoder, tower, -2, "default", "hash").rows) == 4
    shard.write_bytes(good)
    assert len(compute(subsets, encoder, tower, -2, "default", "hash").rows) == 5


def test_another_encoder_layer_dtype_or_size_is_not_mistaken(parts, monkeypatch):
    subsets, encoder, tower = parts
    compute(subsets, encoder, tower, -2, "default", "hash")
    compute(subsets, encoder, tower, -1, "default", "hash")
    compute(subsets, encoder, tower.to(torch.bfloat16), -1, "default", "hash")
    assert len(list(subsets["toy/image"].folder.glob("features-*.npz"))) == 3
    monkeypatch.setattr("core.features.LIMIT", 100)
    with pytest.raises(UserError, match=r"more than 0 GiB: set runtime.cache_features=false"):
        compute(subsets, encoder, tower, -1, "default", "another")
