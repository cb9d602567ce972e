"""The loader: the same steps whatever the workers, ranks and restarts; packed rows; broken samples in their slots."""
import itertools
import logging
import os
import select
import signal
import time

import numpy as np
import pytest
import torch
import toydata
from test_data_check import KINDS, SOURCES, plant

from core import stream
from core.config_mixture import Mixture, Pack, Source, TextOnly
from core.encode import Encoder
from core.errors import UserError
from core.mixture import Plan
from core.shards import DataSet
from core.stream import Damage, Loader, Packed, prepare
from data_tools.index import adopt

MIXTURE = Mixture(target_ratio=0.3, samples=600, sources=[Source("toy", "image")],
                  text_only=TextOnly("both", 0.25, [Source("toy", "text")]))
PACK = Pack(tokens=256, max_tokens=128, images=32)


@pytest.fixture(scope="module")
def encoder():
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False)
    return Encoder(toydata.tokenizer(), processor, image_tokens=4, max_tokens=128)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    toydata.toy(folder)
    return folder


@pytest.fixture(scope="module")
def ready(root, encoder):
    return prepare(MIXTURE, PACK, 4, root, encoder)


def same(a: Packed, b: Packed) -> bool:
    return (a.keys == b.keys and all(torch.equal(getattr(a, n), getattr(b, n))
            for n in ("input_ids", "position_ids", "labels", "streams"))
            and (a.pixels is None) == (b.pixels is None) and (a.pixels is None or torch.equal(a.pixels, b.pixels)))


def test_workers_change_nothing(ready, encoder):
    plain = list(Loader(*ready, encoder))
    assert len(plain) == ready[0].steps == len(Loader(*ready, encoder))
    for workers in (1, 3):
        found = list(Loader(*ready, encoder, workers=workers))
        assert len(found) == len(plain)
        assert all(same(x, y) for a, b in zip(plain, found, strict=True) for x, y in zip(a, b, strict=True))


def test_a_worker_is_gone_with_its_rank_also_while_it_starts(ready, encoder):
    """Its rank is killed between the fork and its first line: what it then sees as its parent is none of its own."""
    seen, held = os.pipe()
    rank = os.fork()
    if rank == 0:
        os.register_at_fork(after_in_child=lambda: (os.write(held, b"forked"), time.sleep(1)))
        try:
            list(Loader(*ready, encoder, workers=1))
        finally:
            os._exit(1)
    os.close(held)
    assert os.read(seen, 6) == b"forked"
    os.kill(rank, signal.SIGKILL)
    os.waitpid(rank, 0)
    assert select.select([seen], [], [], 12)[0], "somebody still holds the pipe"
    assert os.read(seen, 6) == b""
    os.close(seen)


def test_any_step_can_be_the_first(ready, encoder):
    plain = list(Loader(*ready, encoder))
    for start, workers in ((0, 0), (7, 2), (ready[0].steps - 1, 0), (ready[0].steps, 0)):
        found = list(Loader(*ready, encoder, start_step=start, workers=workers))
        assert len(found) == len(plain) - start
        assert all(same(x, y) for a, b in zip(plain[start:], found, strict=True) for x, y in zip(a, b, strict=True))


def test_global_batches_do_not_depend_on_the_world(ready, encoder):
    def keys(world, micro_batch):
        ranks = [Loader(*ready, encoder, rank=r, world=world, micro_batch=micro_batch) for r in range(world)]
        return [sorted(k for part in parts for p in part for k in p.keys) for parts in zip(*ranks, strict=True)]

    expected = keys(1, 1)
    for world, micro_batch in ((2, 1), (4, 1), (1, 4), (2, 2)):
        assert keys(world, micro_batch) == expected
    with pytest.raises(UserError, match="not a multiple of 3 ranks"):
        Loader(*ready, encoder, world=3)


def test_rows_hold_documents_that_do_not_touch(ready, encoder):
    plan, subsets = ready
    for micro_batch in (1, 4):
        for packed in itertools.chain(*Loader(*ready, encoder, micro_batch=micro_batch)):
            assert packed.input_ids.shape == packed.labels.shape and len(packed.input_ids) == micro_batch
            documents, images = [], 0
            for ids, positions, labels in zip(packed.input_ids, packed.position_ids, packed.labels, strict=True):
                starts = [*torch.where(positions == 0)[0].tolist(), len(ids)]
                for a, b in itertools.pairwise(starts):
                    if b - a > 1:
                        documents.append((ids[a:b].numpy(), labels[a:b].numpy()))
                    else:
                        assert ids[a] == encoder.pad_id and labels[a] == stream.IGNORE
            supervised, tokens = [], 0
            for key, (ids, labels) in zip(packed.keys, documents, strict=True):
                name, sample, language = key.split(":")
                subset = subsets[name]
                index = next(i for i in range(subset.n) if subset.key(i) == sample)
                alone = encoder.encode(*subset.read(index)[:1], language, subset.read(index)[1])
                assert ids.tolist() == alone.ids.tolist()
                assert labels[:-1].tolist() == np.where(alone.supervised[1:], alone.ids[1:], -100).tolist()
                assert labels[-1] == -100
                if alone.pixels is not None:
                    assert np.array_equal(packed.pixels[images].numpy(), alone.pixels[0])
                    images += 1
                number = next(n for n, s in enumerate(plan.streams) if s.name[:2] == (name, language))
                supervised += [number] * alone.loss
                tokens += len(alone.ids)
            assert packed.images == images and packed.tokens == tokens and packed.streams.tolist() == supervised
            assert packed.loss_tokens == (packed.labels != -100).sum() == len(supervised)


def test_the_plan_counts_what_the_loader_gives(ready, encoder):
    plan, _ = ready
    counted = dict.fromkeys(range(len(plan.streams)), 0)
    tokens = 0
    for packed in itertools.chain(*Loader(*ready, encoder)):
        tokens += packed.tokens
        for number in packed.streams.tolist():
            counted[number] += 1
    done = plan.consumed(plan.steps)
    assert {plan.streams[n].name: c for n, c in counted.items()} == {k: v["loss_tokens"] for k, v in done.items()}
    assert tokens == sum(v["tokens"] for v in done.values())


def test_a_step_without_samples_is_all_filler(root, encoder):
    mixture = Mixture(samples=160, sources=[Source("toy", "image")])
    plan, subsets = prepare(mixture, Pack(tokens=256, max_tokens=128, images=1), 1, root, encoder)
    steps = list(itertools.chain(*Loader(plan, subsets, encoder)))
    empty = [packed for packed in steps if not packed.keys]
    assert len(steps) == plan.steps == 160 == sum(packed.samples for packed in steps) and empty
    assert all(packed.loss_tokens == 0 and packed.input_ids.tolist() == [[encoder.pad_id]] for packed in empty)


def test_first_batch_far_into_a_long_run(root, encoder):
    """At sample 10^7 a new process, workers and all, has its first batch in under a second of data time."""
    mixture = Mixture(target_ratio=0.3, samples=20_000_000, sources=[Source("toy", "image")])
    start = time.process_time()
    plan, subsets = prepare(mixture, PACK, 4, root, encoder)
    first = next(iter(Loader(plan, subsets, encoder, start_step=plan.steps // 2)))
    assert time.process_time() - start < 1.0 and first[0].tokens > 100


def break_samples(subset, rows, how):
    """Overwrite the JSON or the image of some samples with zeros."""
    for i in rows:
        text, text_size, image, image_size, shard = subset._place[i].tolist()
        offset, size = (text, text_size) if how == "json" else (image, image_size)
        with open(subset._shards[shard], "r+b") as tar:
            tar.seek(offset)
            tar.write(b"\0" * size)


def test_broken_samples_are_replaced_counted_and_named(tmp_path, encoder):
    toydata.toy(tmp_path)
    plan, subsets = prepare(MIXTURE, PACK, 4, tmp_path, encoder)
    subset = subsets["toy/image"]
    sound = [[p.keys for p in step] for step in Loader(plan, subsets, encoder)]
    break_samples(subset, (3, 50), "json")
    break_samples(subset, (77, 120), "image")
    broken = {subset.key(i) for i in (3, 50, 77, 120)}
    damage, lines = Damage(), []
    for workers in (0, 2):
        damage, lines, keys = Damage(), [], []
        for step in Loader(plan, subsets, encoder, workers=workers):
            lines += damage.add(step)
            keys.append([p.keys for p in step])
        assert keys == sound                          # each broken sample keeps its slot
        assert {line.split(":")[1] for line in lines} == broken
        samples, corrupt, longest = damage.counts()
        assert samples == sum(v["samples"] for v in plan.consumed(plan.steps).values())
        assert corrupt == len(lines) == sum(k.split(":")[1] in broken for s in sound for p in s for k in p)
        assert 1 <= longest < 5 and Damage.verdict(*damage.counts()) is None
    for packed in itertools.chain(*Loader(plan, subsets, encoder)):
        for place, line in packed.corrupt:
            assert line.startswith(packed.keys[place])
            assert (packed.input_ids == encoder.pad_id).any()


def test_training_survives_every_planted_kind_of_damage(tmp_path, encoder, caplog):
    """What `begira data check` lists does not stop a run that never saw the list, and the ledger stays the same."""
    folder = tmp_path / "found"
    folder.mkdir()
    planted = plant(folder, KINDS, 0.002)
    adopt(folder, ["en", "eu"], "image", SOURCES)
    mixture = Mixture(target_ratio=0.3, samples=1000, sources=[Source("found", "data")])
    with caplog.at_level(logging.WARNING):
        plan, subsets = prepare(mixture, PACK, 4, tmp_path, encoder)
    found = []
    for workers in (0, 2):
        steps = list(Loader(plan, subsets, encoder, workers=workers))
        found.append([(p.keys, p.corrupt, p.loss_tokens) for step in steps for p in step])
    assert found[0] == found[1]
    read = [key.split(":")[1] for keys, _, _ in found[0] for key in keys]
    broken = {line.split(":")[1] for _, corrupt, _ in found[0] for _, line in corrupt}
    by_kind = {problem: {key for _, key, p in planted if p == problem} for _, _, problem in planted}
    assert len(read) == 1000
    assert broken == by_kind["undecodable image"] | by_kind["decompression bomb"]
    for problem in ("broken json", "missing image", "zero-byte image"):
        assert not by_kind[problem] & set(read)                     # known before the run: not planned
    assert by_kind["missing image"] & set(caplog.text.replace(",", " ").split())
    assert by_kind["image mode"] <= set(read) and not by_kind["image mode"] & broken


def test_a_subset_that_is_broken_through_and_through_is_refused(tmp_path, encoder):
    folder = tmp_path / "found"
    folder.mkdir()
    plant(folder, ["no image"], 0.06)
    adopt(folder, ["en", "eu"], "image", SOURCES)
    with pytest.raises(UserError, match="60 of 1000 samples of found/data cannot be encoded"):
        prepare(Mixture(samples=1000, sources=[Source("found", "data")]), PACK, 4, tmp_path, encoder)


@pytest.mark.parametrize(("share", "stops"), [(0.04, False), (0.08, True)])
def test_too_much_damage_stops_the_run(tmp_path, encoder, share, stops):
    toydata.toy(tmp_path)
    plan, subsets = prepare(Mixture(samples=2000, sources=[Source("toy", "image")]), PACK, 4, tmp_path, encoder)
    break_samples(subsets["toy/image"], range(0, 200, int(1 / share)), "image")
    damage, verdict = Damage(), None
    for step in Loader(plan, subsets, encoder):
        damage.add(step)
        verdict = verdict or Damage.verdict(*damage.counts())
    assert bool(verdict) == stops and (not stops or "more than 5%" in verdict)


def test_a_hundred_in_a_row_stop_the_run():
    damage = Damage()
    assert Damage.verdict(10_000, 99, 99) is None
    assert Damage.verdict(10_000, 100, 100) == "100 samples in a row cannot be read"
    damage.restore(5000, 99, 99)
    assert damage.counts() == (5000, 99, 99)


def test_samples_that_the_index_calls_bad_are_not_planned(tmp_path, encoder):
    folder = toydata.toy(tmp_path)
    path = folder / "image" / "000000.idx.npz"
    with np.load(path) as arrays:
        index = dict(arrays)
    index["bad"][:40] = 1
    np.savez(path, **index)
    plan, _ = prepare(Mixture(samples=500, sources=[Source("toy", "image")]), PACK, 4, tmp_path, encoder)
    read = {item.index for step in range(plan.steps) for pack in plan.batch(step) for item in pack}
    assert read == set(range(40, 200))


def test_a_shard_that_vanishes_is_an_error_and_no_filler(tmp_path, encoder):
    folder = toydata.toy(tmp_path)
    plan, subsets = prepare(MIXTURE, PACK, 4, tmp_path, encoder)
    os.remove(folder / "image" / "000000.tar")
    for workers in (0, 2):
        for subset in subsets.values():
            subset.close()
        with pytest.raises(UserError, match=r"000000.tar is missing") as caught:
            list(Loader(plan, subsets, encoder, workers=workers))
        assert "\n" not in str(caught.value)


def test_plans_of_different_tokenizers_differ(root, encoder):
    other = Encoder(toydata.tokenizer(vocabulary=300), encoder.pixels.processor, image_tokens=4, max_tokens=128)
    a, b = (prepare(MIXTURE, PACK, 4, root, e)[0] for e in (encoder, other))
    assert isinstance(a, Plan) and a.fingerprint != b.fingerprint
    assert any(line.startswith("data.toy/image") for line in a.difference(b.describe()))
    assert DataSet(root / "toy").subset("image").fingerprint
