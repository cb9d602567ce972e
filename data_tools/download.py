"""The stage `download`: images of a list of URLs, many at a time, every id accounted for. A run like any other.

    <out>/000-0042.tar    images, as they came or reduced to `side` pixels
    <out>/000-0042.jsonl  one line per id: {"id", "url", "status", "reason"} and for an image "offset", "size", "width",
                          "height", "sha256", "likeness"; the name says chunk and block

A line is written when its image lies in the tar, so a killed download goes on where it was: what has a line is not
fetched again. A URL that several ids share is fetched once. Which images go into which data set, and what is a
duplicate, is decided elsewhere (`data_tools.sources`, `data_tools.contamination`).
"""
from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.config import DownloadConfig, structured
from core.errors import Stopped, UserError
from core.files import naming_a_full_disk, read_json, write_json
from core.run import Run
from data_tools import picture_file, tables
from data_tools.shards import BLOCK, id_hash, tar_header

AGAIN = (408, 425, 429, 500, 502, 503, 504)


def download(run: Run) -> dict[str, Any]:
    """Fetch the run's chunk of the list. Returns the number of ids by status.

    Raises Stopped when asked to; UserError if the list or its fields are not there."""
    config = structured(DownloadConfig, run.config)
    started = time.monotonic()
    wanted = chunk(config)
    folder = Path(config.out) if Path(config.out).is_absolute() else Path(config.runtime.data_root) / config.out
    folder.mkdir(parents=True, exist_ok=True)
    _keep_plan(folder / f"{config.chunk:03d}-plan.json", wanted, config)
    urls, stores = list(wanted), []

    def opened() -> Iterator[BlockStore]:
        """Blocks one after the other; the next one is opened while the last images of the one before are on their way,
        so a slow server does not hold up all others."""
        for number, start in enumerate(range(0, len(urls), config.block)):
            block = {url: wanted[url] for url in urls[start:start + config.block]}
            stores.append(BlockStore(folder / f"{config.chunk:03d}-{number:04d}", block))
            if stores[-1].left:
                yield stores[-1]
            else:
                stores[-1].close()

    try:
        complete = asyncio.run(_fetch(opened(), config, run, len(urls)))
    finally:
        for store in stores:
            store.close()
    if not complete:
        raise Stopped(run.stop_requested() or "asked to", sum(not store.left for store in stores))
    counts = sum((store.counts for store in stores), Counter())
    return {"ids": sum(counts.values()), "urls": len(urls), "statuses": dict(sorted(counts.items())),
            "seconds": time.monotonic() - started}


def chunk(config: DownloadConfig) -> dict[str, list[str]]:
    """url -> ids of this chunk, in the order of the list; a URL's chunk follows from its own hash."""
    if not 0 <= config.chunk < config.chunks:
        raise UserError(f"chunk {config.chunk} of {config.chunks}: chunks are counted from 0")
    wanted: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(tables.rows(config.list, config.split)):
        for field in (config.url_field, *([config.id_field] if config.id_field else [])):
            if field not in row:
                raise UserError(f"{config.list}: no field '{field}' (fields: {', '.join(row)}): set url_field and "
                                "id_field")
        url = str(row[config.url_field] or "")
        if id_hash(url) % config.chunks == config.chunk:
            wanted[url].append(str(row[config.id_field] if config.id_field else number))
    return dict(wanted)


def _keep_plan(path: Path, wanted: dict[str, list[str]], config: DownloadConfig) -> None:
    plan = {"urls": len(wanted), "block": config.block, "chunks": config.chunks,
            "list": f"{id_hash(json.dumps(wanted)):016x}"}
    old = read_json(path)
    if old not in (None, plan):
        raise UserError(f"{path.parent} holds a download of another list: choose another `out`, or remove it")
    write_json(path, plan)


class BlockStore:
    """One block: a tar that grows and a journal beside it; what the journal does not name is cut off on opening."""

    def __init__(self, path: Path, wanted: dict[str, list[str]]):
        self.wanted, self.counts, self.size = wanted, Counter(), 0
        self.tar_path, self.journal_path = path.with_suffix(".tar"), path.with_suffix(".jsonl")
        done = set()
        for line in self._journal():
            done.add(line["url"])
            self.counts[line["status"]] += 1
            if line.get("size"):
                self.size = max(self.size, -(-(line["offset"] + line["size"]) // BLOCK) * BLOCK)
        self.open_urls = [url for url in wanted if url not in done]
        self.left = len(self.open_urls)
        self._tar = os.open(self.tar_path, os.O_RDWR | os.O_CREAT, 0o644)
        self._lines = os.open(self.journal_path, os.O_WRONLY | os.O_CREAT, 0o644)
        self.written = os.fstat(self._lines).st_size
        if self.open_urls:
            os.ftruncate(self._tar, self.size)

    def _journal(self) -> Iterator[dict[str, Any]]:
        """Whole lines; a line that a kill cut in two, and the other ids of its URL, are dropped from the file."""
        if not self.journal_path.exists():
            return
        text = self.journal_path.read_bytes()
        lines = [json.loads(line) for line in text[:text.rfind(b"\n") + 1].splitlines()]
        have = Counter(line["url"] for line in lines)
        kept = [line for line in lines if have[line["url"]] == len(self.wanted.get(line["url"], ()))]
        if len(kept) < len(lines) or not text.endswith(b"\n"):
            partial = self.journal_path.with_suffix(".part")
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
            os.replace(partial, self.journal_path)
        yield from kept

    def add(self, url: str, status: str, reason: str = "", data: bytes = b"", **more: Any) -> None:
        """Lay an image down, then its lines. Called from one thread. Raises UserError when the disk is full."""
        place: dict[str, Any] = {}
        if data:
            name = f"{id_hash(url):016x}.{more['extension']}".encode()
            place = {"offset": self.size + BLOCK, "size": len(data), **more}
            whole = tar_header(name, len(data)) + data + bytes(-len(data) % BLOCK)
            self._write(self._tar, whole, self.size)
            self.size += len(whole)
        lines = "".join(json.dumps({"id": i, "url": url, "status": status, "reason": reason, **place}) + "\n"
                        for i in self.wanted[url]).encode()
        self._write(self._lines, lines, self.written)
        self.written += len(lines)
        self.counts[status] += len(self.wanted[url])
        self.left -= 1
        if not self.left:
            self.close()

    def close(self) -> None:
        """End the tar. Called again it does nothing."""
        if self._tar < 0:
            return
        self._write(self._tar, bytes(2 * BLOCK), self.size)
        os.close(self._tar)
        os.close(self._lines)
        self._tar = -1

    def _write(self, descriptor: int, data: bytes, place: int) -> None:
        """All of `data`, where the system may take a part at a time; of what finds no room nothing stays."""
        rest = memoryview(data)
        try:
            with naming_a_full_disk(self.tar_path):
                while rest:
                    rest = rest[os.pwrite(descriptor, rest, place + len(data) - len(rest)):]
        except BaseException:
            os.ftruncate(descriptor, place)
            raise


async def _fetch(stores: Iterator[BlockStore], config: DownloadConfig, run: Run, total: int) -> bool:
    """Every open URL of the blocks, `runtime.connections` at a time; False if it was asked to stop before the end."""
    try:
        import aiohttp
    except ImportError:
        raise UserError("downloading needs aiohttp: `pip install begira[download]` brings it") from None
    hosts: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(config.runtime.per_host))
    limits = aiohttp.ClientTimeout(total=config.timeout, sock_connect=min(10.0, config.timeout))
    waiting = ((store, url) for store in stores for url in store.open_urls)
    done = itertools.count(1)
    pool = ThreadPoolExecutor(max(1, config.runtime.threads))
    async with aiohttp.ClientSession(timeout=limits, headers={"User-Agent": config.user_agent},
                                     connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=600)) as session:
        async def worker() -> None:
            for store, url in waiting:
                if run.stop_requested():
                    return
                try:
                    host = urlsplit(url).netloc
                except ValueError:
                    host = ""
                async with hosts[host]:
                    status, reason, data = await _get(session, url, config)
                if data:
                    picture = await asyncio.get_running_loop().run_in_executor(
                        pool, picture_file.prepare, data, config.side, config.least_side)
                    store.add(url, picture.pop("status"), picture.pop("reason"), picture.pop("data"), **picture)
                else:
                    store.add(url, status, reason)
                run.heartbeat(next(done), total, "download")

        await asyncio.gather(*(worker() for _ in range(config.runtime.connections)))
    pool.shutdown()
    return next(waiting, None) is None and not run.stop_requested()


async def _get(session: Any, url: str, config: DownloadConfig) -> tuple[str, str, bytes]:
    """(status, reason, bytes): tried again, with growing pauses, while the server may recover."""
    import aiohttp

    status, reason = "dead", "no URL"
    if not url.startswith(("http://", "https://")):
        return status, reason, b""
    for attempt in range(config.tries):
        if attempt:
            await asyncio.sleep(min(30.0, config.pause * 2 ** (attempt - 1)))
        try:
            async with session.get(url) as response:
                if response.status != 200:
                    status, reason = "dead", f"HTTP {response.status}"
                    if response.status in AGAIN:
                        continue
                    return status, reason, b""
                kind = response.headers.get("Content-Type", "image/").split(";")[0].strip()
                if not kind.startswith(("image/", "application/octet-stream", "binary/")):
                    return "no image", kind, b""
                if int(response.headers.get("Content-Length") or 0) > config.most_bytes:
                    return "too large", f"{response.headers['Content-Length']} bytes", b""
                data = bytearray()
                async for part in response.content.iter_chunked(1 << 16):
                    data += part
                    if len(data) > config.most_bytes:
                        return "too large", f"more than {config.most_bytes} bytes", b""
                return ("ok", "", bytes(data)) if data else ("broken", "empty", b"")
        except asyncio.TimeoutError:
            status, reason = "slow", f"no answer within {config.timeout} s"
        except aiohttp.InvalidURL:
            return "dead", "invalid URL", b""
        except (aiohttp.ClientError, OSError, ValueError) as error:
            status, reason = "dead", type(error).__name__
    return status, reason, b""
