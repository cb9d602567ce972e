"""Writing 100,000 small samples: this writer (with index, checksums and word counts) against webdataset.ShardWriter.

    python benchmarks/write_shards.py [--samples 100000] [--rounds 3]

Both write the same records to the same disk in turns, each `rounds` times; the least CPU and wall time of each count.
Prints one JSON line; `ratio` above 1 means that this writer is faster."""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_tools.dataset import Sample, building

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    samples = [sample(i) for i in range(arguments.samples)]
    timed(webdataset, samples[:100]), timed(ours, samples[:100])
    rounds = [(timed(ours, samples), timed(webdataset, samples)) for _ in range(arguments.rounds)]
    result = {name: min(r[who][unit] for r in rounds) for name, who, unit in
              (("ours_cpu_s", 0, 0), ("webdataset_cpu_s", 1, 0), ("ours_wall_s", 0, 1), ("webdataset_wall_s", 1, 1))}
    print(json.dumps({"samples": arguments.samples, **{k: round(v, 2) for k, v in result.items()},
                      "ratio": round(result["webdataset_cpu_s"] / result["ours_cpu_s"], 2),
                      "ratio_wall": round(result["webdataset_wall_s"] / result["ours_wall_s"], 2)}))


if __name__ == "__main__":
    main()
