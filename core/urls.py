"""Shards without an index, behind a URL or a pipe, through webdataset's own streaming: no exact resume, and it says so.

A source whose `data` is a URL, a pipe or a tar file ("https://host/x-{000..017}.tar", "pipe:ssh host cat x.tar")
makes the whole mixture a streamed one: `core.stream.prepare` then gives a `StreamPlan`, and the loader reads through
it. Samples have the format of data sets and are read in the target language iff u(id, seed) < target_ratio; they are
encoded, packed and replaced when corrupt as always. What needs the whole in advance is not to be had: shares hold on
average and not at every prefix, the number of steps is an estimate from the first samples, accounts are what was
asked and not what was read, a restart begins at the first sample again, and the order depends on the number of ranks
(rank r reads every world-th shard, over and over). For an exact mixture, fetch the shards and index them.
"""
from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from core.collate import Document, Packed, collate, filler
from core.config import Mixture, Pack
from core.config_mixture import is_stream
from core.encode import Encoder
from core.errors import UserError
from core.mixture import check_world, difference
from core.order import mix
from core.pack import assign
from core.shards import Corrupt

PROBE = 64               # samples from which the mean length is estimated
IMAGES = ("png", "jpg", "jpeg", "webp")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Named:
    """What the rest of training knows of a stream."""

    name: tuple[str, str, str]


class StreamPlan:
    """Looks like `core.mixture.Plan`; see the module for what it cannot promise."""

    def __init__(self, mixture: Mixture, pack: Pack, global_batch: int, encoder: Encoder):
        sources = [*mixture.sources, *mixture.text_only.sources]
        if len(sources) != 1 or not is_stream(sources[0].data):
            raise UserError("a mixture that streams shards without an index has that one source and no other: "
                            "index the shards to mix them with others")
        self.mixture, self.pack, self.global_batch, self.encoder = mixture, pack, global_batch, encoder
        self.shards = _expand(sources[0].data)
        base, target = mixture.base_language, mixture.target_language
        self.streams = [_Named((sources[0].data, language, "image")) for language in (base, target)]
        lengths = [len(d.encoded.ids) for d in itertools.islice(self._documents(self.shards), PROBE)]
        if not lengths:
            raise UserError(f"{sources[0].data} holds no sample")
        self.mean = float(np.mean(lengths))
        self.tokens_per_step = float(global_batch * pack.tokens)
        self.steps = max(1, round(mixture.samples * self.mean / self.tokens_per_step))
        log.warning("%s is streamed without an index: no exact resume (a restart begins at the first sample), the "
                    "mixture's shares hold on average only, %d steps are an estimate", sources[0].data, self.steps)

    def read(self, rank: int, world: int, start_step: int, micro_batch: int) -> Iterator[list[Packed]]:
        """Steps `start_step` and later of one rank, each a list of `Packed`."""
        check_world(self.global_batch, world, micro_batch)
        shards = self.shards[rank::world]
        if not shards:
            raise UserError(f"{world} ranks cannot share {len(self.shards)} streamed shards: use fewer ranks, or index "
                            "the shards")
        if start_step:
            log.warning("the streamed shards are read from their beginning again, at step %d", start_step)
        documents = self._endless(shards)
        for _ in range(start_step, self.steps):
            waiting, tokens = [], 0
            while tokens < self.tokens_per_step / world:
                waiting.append(next(documents))
                tokens += len(waiting[-1].encoded.ids)
            yield self._lay(waiting, self.global_batch // world, micro_batch)

    def _lay(self, documents: list[Document], packs: int, micro_batch: int) -> list[Packed]:
        sizes = np.array([len(d.encoded.ids) for d in documents])
        images = np.array([0 if d.encoded.pixels is None else len(d.encoded.pixels) for d in documents])
        places = assign(np.array([d.stream for d in documents]), sizes, images, packs)
        laid = [[documents[i] for i in np.flatnonzero(places == p)] for p in range(packs)]
        return [collate(laid[i:i + micro_batch], self.encoder.pad_id) for i in range(0, packs, micro_batch)]

    def _endless(self, shards: list[str]) -> Iterator[Document]:
        """The documents of `shards` over and over. Raises UserError after a pass without any: it would never end."""
        found = True
        while found:
            found = False
            for document in self._documents(shards):
                found = True
                yield document
        raise UserError(f"no sample in a whole pass over {shards[0]}{', ...' * (len(shards) > 1)}: restore the shards")

    def _documents(self, shards: list[str]) -> Iterator[Document]:
        import webdataset as wds

        for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False, handler=wds.warn_and_continue):
            yield self._document(sample)

    def _document(self, sample: dict[str, Any]) -> Document:
        key, language = f"{sample.get('__url__', '')}:{sample['__key__']}", self.mixture.base_language
        try:
            record = json.loads(sample["json"])
            language = self._language(record)
            image = next((sample[kind] for kind in IMAGES if kind in sample), None)
            stream = int(language == self.mixture.target_language)
            return Document(self.encoder.encode(record, language, image), stream, f"{key}:{language}")
        except (Corrupt, KeyError, TypeError, ValueError) as error:
            return Document(filler(self.encoder.pad_id), 0, f"{key}:{language}", f"{type(error).__name__}: {error}")

    def _language(self, record: dict[str, Any]) -> str:
        base, target = self.mixture.base_language, self.mixture.target_language
        digest = hashlib.blake2b(str(record["id"]).encode(), digest_size=64).digest()
        drawn = int(mix(int.from_bytes(digest[:8], "big"), self.mixture.seed, 1)) / 2.0 ** 64
        wanted = target if drawn < self.mixture.target_ratio else base
        return wanted if wanted in record["turns"] else base

    def consumed(self, step: int) -> dict[tuple[str, str, str], dict[str, float]]:
        """What `step` steps were asked to read: an estimate."""
        samples = self.mixture.samples * step / self.steps
        shares = (1 - self.mixture.target_ratio, self.mixture.target_ratio)
        return {s.name: {"samples": round(samples * share), "tokens": round(samples * share * self.mean),
                         "loss_tokens": 0, "images": 0, "epochs": 0.0}
                for s, share in zip(self.streams, shares, strict=True) if share}

    def realised(self, _: int) -> dict[str, float]:
        return dict.fromkeys(("sample", "token", "loss_token"), self.mixture.target_ratio)

    def describe(self) -> dict[str, Any]:
        return {"streamed": self.shards, "mixture": asdict(self.mixture), "pack": asdict(self.pack),
                "global_batch": self.global_batch, "steps": self.steps, "encoder": self.encoder.key}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:16]

    def difference(self, other: Mapping[str, Any]) -> list[str]:
        return difference(other, self.describe())


def _expand(urls: str) -> list[str]:
    """Brace notation as webdataset has it: "x-{000..003}.tar" names four shards."""
    from webdataset.shardlists import expand_urls

    return [urls] if urls.startswith("pipe:") and "{" not in urls else list(expand_urls(urls))
