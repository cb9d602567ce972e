"""Downloading images: every id accounted for, nothing done twice, whatever the servers do and whenever it is killed."""
import http.server
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.files import write_json
from core.run import Run
from data_tools import download
from data_tools.build import build
from data_tools.fingerprints import Neighbours, distances, of_image, views
from data_tools.pictures import Store

pytest.importorskip("aiohttp")
ROOT = Path(__file__).resolve().parent.parent
KINDS = ("ok", "png", "gif", "large", "gone", "slow", "broken", "empty", "huge", "html", "mislabelled", "busy", "reset",
         "bomb", "tiny")
STATUS = {"ok": "ok", "png": "ok", "gif": "ok", "large": "ok", "gone": "dead", "slow": "slow", "broken": "broken",
          "empty": "broken", "huge": "too large", "html": "no image", "mislabelled": "no image", "busy": "ok",
          "reset": "dead", "bomb": "bomb", "tiny": "too small"}


def picture(seed, form="JPEG", size=(40, 30)):
    chance, out = np.random.default_rng(seed), io.BytesIO()
    small = chance.integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(out, form)
    return out.getvalue()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 512

    def __init__(self):
        self.asked = Counter()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def root(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked[self.path] += 1
        kind, number = self.path.split("/")[1], int(self.path.split("/")[2])
        make = {"png": lambda: picture(number, "PNG"), "gif": lambda: picture(number, "GIF"),
                "large": lambda: picture(number, size=(900, 300)), "empty": lambda: b"", "huge": lambda: bytes(300_000),
                "broken": lambda: picture(number, size=(90, 90))[:700], "html": lambda: b"<html>not found</html>",
                "mislabelled": lambda: b"plain text that calls itself an image", "bomb": bomb,
                "tiny": lambda: picture(number, size=(4, 4))}
        if kind == "slow":
            time.sleep(2.0)
        if kind == "reset":
            self.close_connection = True
            return
        code = 404 if kind == "gone" else 503 if kind == "busy" and self.server.asked[self.path] == 1 else 200
        data = make.get(kind, lambda: picture(number))() if code == 200 else b""
        try:
            self.send_response(code)
            self.send_header("Content-Type", "text/html" if kind == "html" else "image/jpeg")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client gave up

    def log_message(self, *_):
        pass


def bomb():
    import struct
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
            + b"\0\0\0\0IEND\xaeB`\x82")


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def write_list(root, server, each, good=0):
    """`each` URLs of every kind, `good` ones more that are fine."""
    rows = [{"id": f"{kind}-{i}", "url": f"{server.root}/{kind}/{i}"} for kind in KINDS
            for i in range(each + good * (kind == "ok"))]
    rows += [{"id": "twin", "url": rows[0]["url"]}, {"id": "nothing", "url": None}, {"id": "odd", "url": "ftp://x/y.jpg"}]
    random.Random(0).shuffle(rows)
    (root / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def make_run(root, number=0, **more):
    path = root / "runs" / f"chunk{number}"
    path.mkdir(parents=True)
    write_json(path / "spec.json", {"id": path.name, "name": path.name, "study": "t", "stage": "download", "axes": {},
                                    "function": "data_tools.download:download", "parents": {}})
    write_json(path / "config.yaml", {
        "list": str(root / "list.jsonl"), "out": str(root / "images"), "chunk": number, "block": 40, "side": 200,
        "most_bytes": 200_000, "timeout": 1.2, "pause": 0.05, "tries": 2,
        "runtime": {"connections": 64, "per_host": 64, "threads": 2}, **more})
    return Run(path)


def lines(folder):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_every_id_has_its_status(server, tmp_path):
    rows = write_list(tmp_path, server, 4)
    result = download.download(make_run(tmp_path))
    found = {line["id"]: line for line in lines(tmp_path / "images")}
    assert set(found) == {row["id"] for row in rows} and result["ids"] == len(rows)
    for key, line in found.items():
        expected = {"twin": "ok", "nothing": "dead", "odd": "dead"}.get(key) or STATUS[key.split("-")[0]]
        assert line["status"] == expected, line
        assert bool(line["reason"]) == (line["status"] != "ok")
    assert result["statuses"] == Counter(line["status"] for line in found.values())
    assert server.asked["/ok/0"] == 1 and server.asked["/busy/0"] == 2 and server.asked["/gone/0"] == 1


def test_images_can_be_read_by_url_and_by_tar(server, tmp_path):
    rows = write_list(tmp_path, server, 3)
    download.download(make_run(tmp_path))
    store = Store(tmp_path / "images")
    by_id = {line["id"]: line for line in lines(tmp_path / "images")}
    for row in rows:
        data = store.get(row["url"] or "")
        assert (data is not None) == (by_id[row["id"]]["status"] == "ok")
        if data is None:
            continue
        image = Image.open(io.BytesIO(data))
        assert image.size == (by_id[row["id"]]["width"], by_id[row["id"]]["height"]) and max(image.size) <= 200
        assert image.format == {"jpg": "JPEG", "png": "PNG"}[by_id[row["id"]]["extension"]]
    store.close()
    members = 0
    for path in (tmp_path / "images").glob("*.tar"):
        with tarfile.open(path) as archive:
            members += len(archive.getnames())
    assert members == sum(line["status"] == "ok" for line in by_id.values()) - 1  # twins share one


@pytest.mark.slow
@pytest.mark.parametrize(("each", "good", "block"), [(12, 0, 40), (600, 11_000, 1000)])  # 20,000 URLs, 30 % of them bad
def test_killed_five_times_nothing_is_done_twice(server, tmp_path, each, good, block):
    """Requests in flight at a kill are all that may be asked again; what had its line is not."""
    rows = write_list(tmp_path, server, each, good)
    run = make_run(tmp_path, block=block)
    code = f"from core.run import Run; from data_tools import download; download.download(Run({str(run.path)!r}))"
    settled: Counter = Counter()
    chance = random.Random(1)
    for _ in range(5):
        before = len(lines(tmp_path / "images")) if (tmp_path / "images").exists() else 0
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        deadline, want = time.monotonic() + 60, before + len(rows) * chance.uniform(.06, .14)
        while process.poll() is None and time.monotonic() < deadline and sum(
                p.read_bytes().count(b"\n") for p in (tmp_path / "images").glob("*.jsonl")) < want:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in (tmp_path / "images").glob("*.jsonl"):
            whole = path.read_bytes()
            for line in whole[:whole.rfind(b"\n") + 1].splitlines():
                url = json.loads(line)["url"].replace(server.root, "")
                settled.setdefault(url, server.asked[url])
    assert len(rows) / 5 < len(settled) < len(rows)
    result = download.download(run)
    assert result["ids"] == len(rows) == len({line["id"] for line in lines(tmp_path / "images")}) == len(
        lines(tmp_path / "images"))
    assert all(server.asked[url] == count for url, count in settled.items())
    asked = sum(server.asked.values())
    assert download.download(run)["statuses"] == result["statuses"] and sum(server.asked.values()) == asked
    test_lines = [line for line in lines(tmp_path / "images") if line["status"] == "ok"]
    store = Store(tmp_path / "images")
    assert all(Image.open(io.BytesIO(store.get(line["url"]))).size == (line["width"], line["height"])
               for line in test_lines)
    store.close()


def test_chunks_share_the_list(server, tmp_path):
    rows = write_list(tmp_path, server, 2)
    results = [download.download(make_run(tmp_path, i, chunks=3)) for i in range(3)]
    assert sum(r["ids"] for r in results) == len(rows) and all(r["ids"] > 3 for r in results)
    assert Counter(line["id"] for line in lines(tmp_path / "images")) == Counter(row["id"] for row in rows)


def test_one_host_is_not_overrun(server, tmp_path, monkeypatch):
    (tmp_path / "list.jsonl").write_text("".join(
        json.dumps({"id": i, "url": f"{server.root}/ok/{i}"}) + "\n" for i in range(60)))
    now, most, lock = [0], [0], threading.Lock()
    plain = Handler.do_GET

    def counted(self):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        plain(self)

    monkeypatch.setattr(Handler, "do_GET", counted)
    download.download(make_run(tmp_path, runtime={"connections": 64, "per_host": 3}))
    assert 1 <= most[0] <= 3
    download.download(make_run(tmp_path, 1, chunk=0, out=str(tmp_path / "again"),
                               runtime={"connections": 64, "per_host": 64}))
    assert most[0] > 3


def test_downloads_feed_a_source(server, tmp_path):
    rows = write_list(tmp_path, server, 3)
    download.download(make_run(tmp_path))
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(
        {**row, "caption_en": f"a {row['id']}", "caption_eu": f"{row['id']} bat"}) + "\n" for row in rows))
    manifest = build("cc3m", tmp_path / "out", "eu", {"data": str(tmp_path / "captions.jsonl"),
                                                      "images": str(tmp_path / "images")})["manifest"]
    good = sum(line["status"] == "ok" for line in lines(tmp_path / "images"))
    assert manifest["rows"] == {"rows": len(rows), "kept": good, "samples": good, "skipped: no image": len(rows) - good}


def test_what_the_user_can_mend(server, tmp_path):
    write_list(tmp_path, server, 1)
    with pytest.raises(UserError, match="no field 'link'"):
        download.download(make_run(tmp_path, 1, chunk=0, url_field="link"))
    download.download(make_run(tmp_path, 2, chunk=0))
    write_list(tmp_path, server, 2)
    with pytest.raises(UserError, match="another list"):
        download.download(make_run(tmp_path, 3, chunk=0))


def test_fingerprints_survive_recompression_and_tell_images_apart():
    images = [Image.open(io.BytesIO(picture(seed, "PNG", (120, 90)))) for seed in range(300)]
    marks = [of_image(image) for image in images]
    index = Neighbours(marks)
    for number in range(0, 300, 10):
        out = io.BytesIO()
        images[number].resize((77, 61)).save(out, "JPEG", quality=40)
        assert index.find(of_image(Image.open(io.BytesIO(out.getvalue()))), 7) == [number]
    assert len(list(views())) == 29


def test_neighbours_are_those_of_a_full_search():
    chance = random.Random(0)
    marks = [chance.getrandbits(64) for _ in range(2000)]
    for _ in range(500):
        marks.append(chance.choice(marks) ^ sum(1 << bit for bit in chance.sample(range(64), chance.randint(0, 9))))
    index, array = Neighbours(marks), np.array(marks, np.uint64)
    for mark in marks[1900:2200]:
        assert index.find(mark, 7) == np.flatnonzero(distances(array, mark) <= 7).tolist()
    assert index.find(marks[5], 12) == np.flatnonzero(distances(array, marks[5]) <= 12).tolist()
