"""Fetching 20,000 URLs, 30 % of them bad, from a server on this machine: this downloader against img2dataset.

    python -m benchmarks.download --img2dataset VENV/bin/python

img2dataset has dependencies of its own, so it runs from an environment of its own, whose Python is named; without one
only ours is timed. Both get the same list, the same number of connections, the same time-out and no second try. Exit
code 1 if ours took longer.
"""
from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

URLS, THREADS, TIMEOUT = 20_000, 64, 2.0
BAD = ("gone", "slow", "broken", "huge", "mislabelled", "busy")      # together 30 % of the list


def serve(port: Any) -> None:
    """An HTTP server that answers /<who>/<kind>/<number> as `kind` says, until killed; `port` gets its port."""
    from aiohttp import web

    good = [_picture(seed) for seed in range(64)]
    asked: Counter = Counter()

    async def answer(request: web.Request) -> web.StreamResponse:
        kind, number = request.match_info["kind"], int(request.match_info["number"])
        asked[request.path] += 1
        if kind == "slow":
            await asyncio.sleep(2 * TIMEOUT)
        if kind == "gone" or (kind == "busy" and asked[request.path] == 1):
            return web.Response(status=404 if kind == "gone" else 503)
        body = {"broken": good[number % 64][:300], "huge": bytes(21_000_000) if number % 50 == 0 else bytes(900_000),
                "mislabelled": b"plain text that calls itself an image"}.get(kind, good[number % 64])
        return web.Response(body=body, content_type="image/jpeg")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{who}/{kind}/{number}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        port.value = site._server.sockets[0].getsockname()[1]
        await asyncio.Event().wait()

    asyncio.run(main())


def _picture(seed: int) -> bytes:
    import numpy as np
    from PIL import Image

    small = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


def write_list(path: Path, port: int, urls: int) -> Path:
    """The list of one who asks: the same kinds in the same order for everyone."""
    chance = random.Random(0)
    kinds = [chance.choice(BAD) if i < 0.3 * urls else "good" for i in range(urls)]
    chance.shuffle(kinds)
    path.write_text("".join(json.dumps({"id": str(i), "url": f"http://127.0.0.1:{port}/{path.stem}/{kind}/{i}"}) + "\n"
                            for i, kind in enumerate(kinds)))
    return path


def ours(listed: Path, folder: Path) -> dict[str, Any]:
    """Seconds and ids by status. A process of its own, as img2dataset has."""
    path, connections = folder / "run", THREADS * (os.cpu_count() or 1)    # img2dataset's are those of one process
    path.mkdir(parents=True)
    (path / "spec.json").write_text(json.dumps({"id": "run", "name": "run", "study": "t", "stage": "download",
                                                "axes": {}, "function": "data_tools.download:download",
                                                "parents": {}}))
    (path / "config.yaml").write_text(json.dumps({
        "list": str(listed), "out": str(folder / "images"), "side": 256, "timeout": TIMEOUT, "tries": 1,
        "runtime": {"connections": connections, "per_host": connections, "threads": os.cpu_count()}}))
    code = (f"import json; from core.run import Run; from data_tools.download import download\n"
            f"print(json.dumps(download(Run({str(path)!r}))))")
    began = time.monotonic()
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return {"seconds": time.monotonic() - began, **json.loads(said.splitlines()[-1])["statuses"]}


def theirs(listed: Path, folder: Path, python: str) -> dict[str, Any]:
    """The same with img2dataset, its statuses from the files that it writes beside its shards."""
    code = (f"from img2dataset import download; download(url_list={str(listed)!r}, input_format='jsonl', "
            f"url_col='url', output_folder={str(folder)!r}, output_format='webdataset', processes_count="
            f"{os.cpu_count()}, thread_count={THREADS}, image_size=256, resize_mode='keep_ratio', "
            f"resize_only_if_bigger=True, timeout={TIMEOUT}, retries=0, number_sample_per_shard=5000, "
            "enable_wandb=False)")
    began = time.monotonic()
    subprocess.run([python, "-c", f"if __name__ == '__main__':\n    {code}"], check=True, capture_output=True)
    counts = Counter()
    for path in folder.glob("*_stats.json"):
        stats = json.loads(path.read_text())
        counts.update(ok=stats["successes"], all=stats["count"])
    return {"seconds": time.monotonic() - began, **counts}


def compare(urls: int, python: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What came of both on the same list, ours first."""
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    server = context.Process(target=serve, args=(port,), daemon=True)
    server.start()
    try:
        while not port.value:
            time.sleep(0.05)
        with tempfile.TemporaryDirectory() as work:
            lists = [write_list(Path(work) / f"{who}.jsonl", port.value, urls) for who in ("ours", "theirs")]
            own = ours(lists[0], Path(work) / "own")
            return own, theirs(lists[1], Path(work) / "other", python) if python else None
    finally:
        server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--urls", type=int, default=URLS)
    parser.add_argument("--img2dataset", default="", metavar="PYTHON")
    options = parser.parse_args()
    own, other = compare(options.urls, options.img2dataset)
    print("ours", json.dumps(own))
    if other is None:
        return 0
    print("img2dataset", json.dumps(other), f"\nratio of seconds {other['seconds'] / own['seconds']:.2f}", sep=" ")
    return int(own["seconds"] > other["seconds"])


if __name__ == "__main__":
    sys.exit(main())
