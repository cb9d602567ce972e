"""Reading samples from tars: an index and `pread` in the plan's shuffled order, against webdataset's pipeline.

    python -m benchmarks reader

raw: both members of every sample as bytes, as they come out of the tar. webdataset reads its shards front to back (its
fast way) without a shuffle buffer; ours reads in a random order, as training does. decoded: JSON parsed, image decoded
to RGB. The last row is the CPU time from nothing to the packs of the step at sample 10^7 of a run; other: the time in
which webdataset, which cannot begin anywhere else than at the beginning, reads up to there."""
from __future__ import annotations

import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, interleaved
from core.pixels import open_image
from core.shards import Subset, open_subset

SAMPLES, SIDE, FAR = 6_000, 64, 10_000_000


def data(root: Path) -> Subset:
    """A data set of PNG photographs' like: smooth colours with some noise."""
    from PIL import Image

    from data_tools.dataset import Sample, building
    from data_tools.shards import Limits

    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 200, SIDE)[:, None, None] + np.linspace(0, 40, SIDE)[None, :, None]

    def sample(i: int) -> Sample:
        image = (smooth + rng.integers(0, 12, (SIDE, SIDE, 3))).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        turns = {language: [{"role": "user", "content": f"{question}\n<image>"},
                            {"role": "assistant", "content": f"{i}"}]
                 for language, question in (("en", "What is this?"), ("eu", "Zer da hau?"))}
        record = {"id": f"s/{i}", "source": "made", "license": "CC0", "turns": turns, "meta": {}}
        return Sample(record, stream.getvalue())

    with building(root / "made", "made", ["en", "eu"]) as writer:
        writer.subset("image", "image", (sample(i) for i in range(SAMPLES)), Limits(samples=1500))
        writer.finish([])
    return open_subset(root, "made", "image")


def webdataset_pipeline(subset: Subset, decode: bool) -> Any:
    """Its own shards -> samples pipeline over the same tars."""
    import webdataset as wds

    files = [str(path) for path in sorted(subset.folder.glob("*.tar"))]
    pipeline = wds.WebDataset(files, shardshuffle=False, empty_check=False)
    return pipeline.decode("pil") if decode else pipeline


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        subset = data(Path(folder))
        order = np.random.default_rng(1).permutation(subset.n).tolist()

        def ours_raw() -> None:
            for i in order:
                subset.raw(i)

        def ours_decoded() -> None:
            for i in order:
                record, image = subset.raw(i)
                json.loads(record), open_image(image)

        def theirs(decode: bool) -> None:
            if sum(1 for _ in webdataset_pipeline(subset, decode)) != subset.n:
                raise RuntimeError("webdataset did not give every sample")

        found = []
        for name, ours, decode, gate in (("raw", ours_raw, False, 8.0), ("decoded", ours_decoded, True, 1.0)):
            mine, its = interleaved(ours, lambda decode=decode: theirs(decode))
            found.append(Row(f"read {name} against webdataset (samples/CPU s)", subset.n / mine, subset.n / its,
                             "samples/s", its / mine, gate))
        return [*found, resume(FAR / found[0].other)]


def resume(skipping: float) -> Row:
    """CPU seconds from nothing to the packs of a step at sample 10^7; `skipping`: what reading up to there takes."""
    from core.config import Mixture, Pack, Source
    from core.mixture import Plan
    from core.shares import Pool

    rng = np.random.default_rng(0)
    n = 100_000
    lengths = {language: rng.integers(20, 400, n).astype(np.int32) for language in ("en", "eu")}
    hashes = rng.integers(0, 2**63, n).astype(np.uint64)
    pool = Pool("made/image", "image", hashes, np.ones(n, np.int32), lengths, lengths)
    mixture = Mixture(target_ratio=0.3, samples=2 * FAR, sources=[Source("made", "image")])

    def first_batch() -> float:
        begin = time.process_time()
        plan = Plan(mixture, Pack(images=64), 64, {pool.name: pool})
        if not all(plan.batch(plan.steps // 2)):
            raise RuntimeError("an empty pack")
        return time.process_time() - begin

    seconds = min(first_batch() for _ in range(3))
    return Row("first batch at sample 10^7 (CPU s)", seconds, skipping, "s", seconds, 1.0, at_least=False)
