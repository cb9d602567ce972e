"""Writing shards: the same samples give the same bytes; WebDataset and core.shards read them; nothing half-written."""
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.shards import DataSet
from data_tools.dataset import Sample, building
from data_tools.index import adopt
from data_tools.shards import Limits, ShardWriter, tar_header

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (48).to_bytes(4, "big") * 2 + bytes(40)


def sample(number: int) -> Sample:
    turns = {"en": [{"role": "user", "content": "What is this?\n<image>"}, {"role": "assistant", "content": "a dog"}],
             "eu": [{"role": "user", "content": "Zer da hau?\n<image>"}, {"role": "assistant", "content": "zakurra"}]}
    if number % 5 == 0:
        turns.pop("eu")
    return Sample({"id": f"t/{number}", "source": "t", "license": "CC0", "turns": turns, "meta": {}},
                  PNG + bytes(number % 700) if number % 3 else None)


def part(bounds: tuple[int, int]) -> list[Sample]:
    return [sample(i) for i in range(*bounds)]


def write(out: Path) -> dict:
    with building(out, "t", ["en", "eu"]) as data:
        data.subset("one", "image", part((0, 50)), Limits(size=20_000))
        data.subset("many", "image", part((50, 150)), Limits(samples=25))
        return data.finish([{"name": "t", "version": "1", "licence": "CC0", "origin": "test", "sha256": ""}])


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_bytes_do_not_depend_on_time(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_limits_bound_every_shard(tmp_path):
    manifest = write(tmp_path / "a")
    one, many = manifest["subsets"]["one"]["shards"], manifest["subsets"]["many"]["shards"]
    assert len(one) > 1 and all(s["bytes"] <= 20_000 + 1024 for s in one)
    assert [s["samples"] for s in many] == [25, 25, 25, 25]
    assert [s["file"] for s in many] == [f"many/{n:06d}.tar" for n in range(4)]


def test_every_reader_sees_the_same(tmp_path):
    import webdataset

    manifest = write(tmp_path / "a")
    subset = DataSet(tmp_path / "a").subset("one")
    urls = [str(tmp_path / "a" / s["file"]) for s in manifest["subsets"]["one"]["shards"]]
    plain = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(plain) == len(subset) == 50
    for i, other in enumerate(plain):
        record, image = subset.read(i)
        assert record == json.loads(other["json"]) == sample(i).record
        assert image == other.get("png") == sample(i).image
    assert subset.chars["eu"][0] == -1 and subset.chars["eu"][1] == len("Zer da hau?\n<image>zakurra")
    assert subset.width[1] == 48 and subset.width[0] == 0
    assert manifest["subsets"]["one"]["words"] == {"en": 250, "eu": 160}


def test_index_of_a_foreign_tar_equals_the_written_one(tmp_path):
    write(tmp_path / "a")
    own = {n: dict(np.load(tmp_path / "a" / n)) for n in ("one/000000.idx.npz", "many/000003.idx.npz")}
    old = json.loads((tmp_path / "a/manifest.json").read_text())
    for path in [*(tmp_path / "a").rglob("*.npz"), tmp_path / "a/manifest.json"]:
        path.unlink()
    new = adopt(tmp_path / "a", ["en", "eu"], "image", old["sources"])
    assert new["subsets"] == old["subsets"] and new["fingerprint"] == old["fingerprint"]
    for name, arrays in own.items():
        again = np.load(tmp_path / "a" / name)
        assert all(np.array_equal(again[k], v) for k, v in arrays.items()) and set(again) == set(arrays)


def test_a_stopped_build_leaves_the_old_data_set(tmp_path):
    write(tmp_path / "a")
    before = contents(tmp_path)
    with pytest.raises(RuntimeError, match="stop here"), building(tmp_path / "a", "t", ["en"]) as data:
        data.subset("one", "image", part((0, 5)))
        raise RuntimeError("stop here")
    assert contents(tmp_path) == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_killed_build_is_cleared_by_the_next(tmp_path):
    process = os.fork()
    if not process:
        with building(tmp_path / "a", "t", ["en", "eu"]) as data:
            data.subset("one", "image", part((0, 5)))
            os._exit(9)
    os.waitpid(process, 0)
    assert len(os.listdir(tmp_path)) == 1 and not (tmp_path / "a").exists()
    write(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_is_no_data_set_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no data set"):
        write(tmp_path / "a")
    assert (tmp_path / "a" / "thesis.tex").exists()


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with pytest.raises(UserError, match="no space left"), building(tmp_path / "a", "t", ["en", "eu"]) as data:
        (data.folder / "one").mkdir()
        (data.folder / "one/000000.tar").symlink_to("/dev/full")
        data.subset("one", "image", part((0, 50)))
    assert os.listdir(tmp_path) == []


def test_an_id_that_comes_twice_is_refused(tmp_path):
    with ShardWriter(tmp_path, "one", ["en"]) as writer:
        writer.write({"id": "x", "turns": {"en": []}})
        with pytest.raises(ValueError, match="'x'"):
            writer.write({"id": "x", "turns": {"en": []}})


@pytest.mark.parametrize(("name", "size"), [("a" * 100, 0), ("k.json", 1), ("é.png", 8_589_934_591)])
def test_headers_are_what_tarfile_reads(name, size):
    info = tarfile.TarInfo.frombuf(tar_header(name.encode(), size), "utf-8", "strict")
    assert (info.name, info.size, info.mtime, info.uid, info.isfile()) == (name, size, 0, 0, True)
