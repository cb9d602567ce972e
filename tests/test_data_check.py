"""`begira data check` lists exactly what was planted, by name, and nothing in sound data."""
import io
import json
import random
import struct
import tarfile
import zlib
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from data_tools.check import PROBLEMS, check
from data_tools.index import adopt

SOURCES = [{"name": "t", "version": "1", "licence": "CC0", "origin": "test", "sha256": ""}]
SHARDS, EACH = 5, 200


@lru_cache
def encoded(mode="RGB", form="JPEG", size=(24, 24), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, form)
    return out.getvalue()


def bomb():
    """A PNG of a few bytes that says it is 40,000 x 40,000."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
            + b"\0\0\0\0IEND\xaeB`\x82")


def record(number):
    return {"id": f"t/{number}", "source": "t", "license": "CC0", "meta": {}, "turns": {
        "en": [{"role": "user", "content": "What?\n<image>"}, {"role": "assistant", "content": "dog"}],
        "eu": [{"role": "user", "content": "Zer?\n<image>"}, {"role": "assistant", "content": "zakurra"}]}}


def twice(value):
    value["turns"]["eu"][0]["content"] += "<image>"


KINDS = {  # what is planted -> (change of the record, image as (extension, bytes), what check must say)
    "truncated": (None, lambda: ("jpg", encoded(size=(64, 64))[:-900]), "undecodable image"),
    "zero": (None, lambda: ("jpg", b""), "zero-byte image"),
    "extension": (None, lambda: ("png", encoded()), "wrong extension"),
    "bomb": (None, lambda: ("png", bomb()), "decompression bomb"),
    "cmyk": (None, lambda: ("jpg", encoded("CMYK")), "image mode"),
    "palette": (None, lambda: ("png", encoded("P", "PNG")), "image mode"),
    "la": (None, lambda: ("png", encoded("LA", "PNG")), "image mode"),
    "no image": (None, lambda: None, "missing image"),
    "broken json": ("cut", lambda: ("jpg", encoded()), "broken json"),
    "duplicate id": (lambda r: r.update(id="t/0"), lambda: ("jpg", encoded()), "duplicate id"),
    "language": (lambda r: r["turns"].pop("eu"), lambda: ("jpg", encoded()), "language missing"),
    "placeholders": (twice, lambda: ("jpg", encoded()), "placeholder"),
    "role": (lambda r: r["turns"]["en"][1].update(role="bot"), lambda: ("jpg", encoded()), "schema"),
    "licence": (lambda r: r.pop("license"), lambda: ("jpg", encoded()), "schema"),
}


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def plant(folder, kinds, share):
    """SHARDS x EACH samples, of which every kind spoils `share`; returns {(file, key, problem)}."""
    chooser, planted = random.Random(7), set()
    numbers = list(range(1, SHARDS * EACH))
    chooser.shuffle(numbers)
    count = int(SHARDS * EACH * share)
    spoiled = {n: kind for i, kind in enumerate(kinds) for n in numbers[i * count:(i + 1) * count]}
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as archive:
            for number in range(shard * EACH, (shard + 1) * EACH):
                value, image, key = record(number), ("jpg", encoded(seed=number % 9)), f"s{number:05d}"
                change = None
                if number in spoiled:
                    change, make, problem = KINDS[spoiled[number]]
                    image = make()
                    planted.add((f"{shard:06d}.tar", key, problem))
                if callable(change):
                    change(value)
                text = json.dumps(value).encode()
                if image:
                    add(archive, f"{key}.{image[0]}", image[1])
                add(archive, f"{key}.json", text[:-7] if change == "cut" else text)
    return planted


def listed(findings):
    return {(f["file"], f["sample"], f["problem"]) for f in findings}


def test_exactly_the_planted_are_listed(tmp_path):
    planted = plant(tmp_path, KINDS, 0.02)
    adopt(tmp_path, ["en", "eu"], "image", SOURCES)
    findings = check(tmp_path)
    assert listed(findings) == planted
    assert len(findings) == len(planted) == 20 * len(KINDS)
    assert {f["problem"] for f in findings if f["level"] == "note"} == {"image mode"}
    assert all(f["problem"] in PROBLEMS for f in findings)


def test_mark_flags_the_bad_samples_for_the_loader(tmp_path):
    planted = plant(tmp_path, ["truncated", "cmyk"], 0.01)
    adopt(tmp_path, ["en", "eu"], "image", SOURCES)
    check(tmp_path, mark=True)
    bad = {key.decode() for p in tmp_path.glob("*.npz") for key in np.load(p)["key"][np.load(p)["bad"] == 1]}
    assert bad == {key for _, key, problem in planted if problem != "image mode"}


@pytest.fixture
def sound(tmp_path):
    plant(tmp_path, [], 0)
    adopt(tmp_path, ["en", "eu"], "image", SOURCES)
    assert check(tmp_path) == []
    return tmp_path


def problems(folder):
    return Counter(f["problem"] for f in check(folder))


def test_cut_tars_are_named_with_their_last_sample(sound):
    path = sound / "000002.tar"
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    for size, key in ((members[100].offset, members[99].name), (members[101].offset_data + 5, members[101].name)):
        path.write_bytes(data[:size])
        findings = check(sound)
        assert [(f["problem"], f["file"], f["sample"]) for f in findings] == [
            ("truncated tar", "000002.tar", key.split(".")[0])]
    path.write_bytes(b"")
    assert problems(sound) == {"truncated tar": 1}


def test_one_changed_byte_is_a_checksum_mismatch(sound):
    path = sound / "000001.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        member = archive.getmember("s00250.json")
    data[member.offset_data + member.size] ^= 1  # in the padding behind it: every sample still reads
    path.write_bytes(data)
    assert problems(sound) == {"checksum": 1}


def test_files_and_index(sound):
    (sound / "000003.idx.npz").unlink()
    assert problems(sound) == {"missing index": 1}
    (sound / "000000.tar").unlink()
    assert problems(sound) == {"missing index": 1, "missing file": 1}


def test_an_index_of_other_bytes_is_stale(sound):
    (sound / "000004.idx.npz").write_bytes((sound / "000003.idx.npz").read_bytes())
    assert problems(sound) == {"stale index": 1}
    (sound / "000004.idx.npz").write_bytes(b"no zip")
    assert problems(sound) == {"stale index": 1}


def test_repeated_keys(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for key, number in (("x", 1), ("y", 2), ("x", 3)):
            add(archive, f"{key}.jpg", encoded())
            add(archive, f"{key}.json", json.dumps(record(number)).encode())
    findings = [f for f in check(tmp_path) if f["problem"] != "manifest"]
    assert [(f["problem"], f["sample"]) for f in findings] == [("duplicate key", "x")]


def test_manifest_faults(sound):
    manifest = json.loads((sound / "manifest.json").read_text())
    manifest["fingerprint"], manifest["sources"][0]["licence"] = "0", ""
    (sound / "manifest.json").write_text(json.dumps(manifest))
    details = [f["detail"] for f in check(sound)]
    assert len(details) == 2 and "fingerprint" in details[0] and "licence" in details[1]
    (sound / "manifest.json").write_text("{")
    assert check(sound)[0]["problem"] == "manifest"


@pytest.mark.parametrize("change, says", [
    (lambda m: {k: v for k, v in m.items() if k != "languages"}, "no field 'languages'"),
    (lambda m: [], "not as begira writes it (AttributeError"),
    (lambda m: {**m, "subsets": {"a": {}}}, "not as begira writes it (KeyError: 'shards')")])
def test_a_manifest_of_another_shape_is_a_finding(sound, change, says):
    path = sound / "000001.tar"
    path.write_bytes(path.read_bytes()[:5000])
    changed = change(json.loads((sound / "manifest.json").read_text()))
    (sound / "manifest.json").write_text(json.dumps(changed))
    findings = check(sound, mark=True)
    assert [f["detail"] for f in findings if f["problem"] == "manifest" and says in f["detail"]], findings
    assert "truncated tar" in {f["problem"] for f in findings}     # the shards are looked at all the same


def test_no_data_set_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="neither"):
        check(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        check(tmp_path / "nothing")
