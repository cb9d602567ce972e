"""Writing 100,000 small samples: this writer (with index, checksums and word counts) against webdataset.ShardWriter.

    python -m benchmarks write_shards

Both write the same records to the same disk in turns; the least CPU and wall time of each count."""
from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Row
from data_tools.dataset import Sample, building

SAMPLES, ROUNDS = 100_000, 3
HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (48).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"


def sample(number: int) -> tuple[dict, bytes]:
    """A record as in the miniature, and 2 kB that look like a PNG."""
    turns = {language: [{"role": "user", "content": question}, {"role": "assistant", "content": f"{word} {number}"}]
             for language, question, word in (("en", "What is this?\n<image>", "dog"),
                                              ("eu", "Zer da hau?\n<image>", "zakurra"))}
    return ({"id": f"emoji/naming/{number}/noto", "source": "emoji:noto", "license": "Apache-2.0", "turns": turns,
             "meta": {"concept": "dog", "set": "A", "style": "noto"}}, HEAD + number.to_bytes(8, "big") * 250)


def ours(folder: Path, samples: list) -> None:
    with building(folder / "data", "data", ["en", "eu"]) as data:
        data.subset("name", "image", (Sample(record, image) for record, image in samples))
        data.finish([])


def webdataset(folder: Path, samples: list) -> None:
    from webdataset import ShardWriter

    with ShardWriter(str(folder / "%06d.tar"), maxcount=50_000, verbose=0) as writer:
        for number, (record, image) in enumerate(samples):
            writer.write({"__key__": f"{number:016x}", "json": record, "png": image})


def timed(write: Callable[[Path, list], None], samples: list) -> tuple[float, float]:
    folder = Path(tempfile.mkdtemp())
    try:
        cpu, wall = time.process_time(), time.monotonic()
        write(folder, samples)
        return time.process_time() - cpu, time.monotonic() - wall
    finally:
        shutil.rmtree(folder)


def rows() -> list[Row]:
    samples = [sample(i) for i in range(SAMPLES)]
    timed(webdataset, samples[:100]), timed(ours, samples[:100])
    rounds = [(timed(ours, samples), timed(webdataset, samples)) for _ in range(ROUNDS)]
    (our_cpu, our_wall), (its_cpu, its_wall) = (tuple(min(r[who][unit] for r in rounds) for unit in (0, 1))
                                                for who in (0, 1))
    return [Row(f"write {SAMPLES:,} samples (CPU s)", our_cpu, its_cpu, "s", its_cpu / our_cpu, 1.0),
            Row(f"write {SAMPLES:,} samples (wall s)", our_wall, its_wall, "s", its_wall / our_wall, 1.0)]
