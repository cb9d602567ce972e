"""Shards on a node's own disk: copied once whoever races, used only when whole, never a reason to fail."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toydata

from core import staging
from core.errors import UserError
from core.files import write_json
from core.shards import DataSet
from experiments.execute import execute

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.delenv(staging.STAGED, raising=False)
    monkeypatch.delenv("BEGIRA_STAGE_TO", raising=False)
    yield toydata.toy(tmp_path / "data", images=60, texts=20)
    os.environ.pop(staging.STAGED, None)


def asking(data, to, **more):
    return {"mixture": {"sources": [{"data": "toy", "subset": "image"}]},
            "runtime": {"data_root": str(data.parent), "stage_to": str(to)}, **more}


def hide(data):
    for path in (data / "image").glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))


def test_copies_are_read_in_place_of_the_shards(data, tmp_path):
    before = [DataSet(data).subset("image").read(i) for i in range(60)]
    staged = staging.stage(asking(data, tmp_path / "node"), reserve=0)
    assert staged.local == len(list((data / "image").glob("*.tar"))) and staged.shared == 0 and "lie in" in str(staged)
    hide(data)
    subset = DataSet(data).subset("image")
    assert [subset.read(i) for i in range(60)] == before
    assert subset.folder == data / "image", "what is counted once stays with the data set"
    del os.environ[staging.STAGED]
    with pytest.raises(Exception, match="JSON"):
        DataSet(data).subset("image").read(0)


def test_only_what_is_named_is_copied(data, tmp_path):
    number = {name: len(list((data / name).glob("*.tar"))) for name in ("image", "text")}
    assert staging.stage(asking(data, tmp_path / "one"), 0).local == number["image"]
    whole = {"data": "toy", "runtime": {"data_root": str(data.parent), "stage_to": str(tmp_path / "two")}}
    assert staging.stage(whole, 0).local >= sum(number.values())
    assert staging.stage(asking(data, "")) is None
    (data.parent / "x.tar").touch()
    for stream in ("https://a.eu/{000..999}.tar", "pipe:cat x", "x.tar"):
        asked = asking(data, tmp_path / "three", mixture={"sources": [{"data": stream}]})
        assert staging.stage(asked, 0).local == 0


def test_a_profile_may_ask_for_it(data, tmp_path, monkeypatch):
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "node"))
    monkeypatch.setenv("BEGIRA_STAGE_TO", "$NODE_DISK")
    assert Path(staging.stage(asking(data, ""), 0).folder).is_relative_to(tmp_path / "node")
    monkeypatch.delenv("NODE_DISK")
    staged = staging.stage(asking(data, ""), 0)
    assert staged.local == 0 and "not set" in str(staged)


CHILD = """
import contextlib, shutil, sys, time
from pathlib import Path
from core import staging
plain, copies = shutil.copyfile, []
def slow(source, target):
    copies.append(target)
    time.sleep(0.5)
    return plain(source, target)
shutil.copyfile = slow
if sys.argv[4] == "unguarded":
    staging._lock = lambda path: contextlib.nullcontext()
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
entry = {"sha256": "ab", "bytes": int(sys.argv[3])}
print("ready", flush=True)
sys.stdin.readline()
reason = staging.copy(source, entry, folder, 0)
assert not reason and (folder / "ab.tar").read_bytes() == source.read_bytes(), reason
print(len(copies), flush=True)
"""


def race(source, folder, guard):
    """Two processes want the same shard at the same moment; how many copies each makes before it finds a whole one."""
    words = [sys.executable, "-c", CHILD, str(source), str(folder), str(source.stat().st_size), guard]
    both = [subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    return sorted(process.communicate(timeout=60)[0].strip() for process in both)


def test_of_two_processes_one_copies(tmp_path):
    source = tmp_path / "000000.tar"
    source.write_bytes(os.urandom(5 << 20))
    assert race(source, tmp_path / "guarded", "guarded") == ["0", "1"]
    assert race(source, tmp_path / "unguarded", "unguarded") == ["1", "1"], "without the lock the test would notice"


def test_too_little_room_leaves_the_shard_where_it_is(data, tmp_path):
    staged = staging.stage(asking(data, tmp_path / "node"), reserve=1 << 60)
    assert staged.local == 0 and staged.shared > 0 and "too little room" in str(staged)
    DataSet(data).subset("image").read(0)


def test_a_copy_that_does_not_come_to_an_end_is_removed(tmp_path):
    """The system stops the file at half its size, as a full disk would."""
    source = tmp_path / "000000.tar"
    source.write_bytes(bytes(4 << 20))
    code = ("import resource, sys; from pathlib import Path; from core import staging\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))\n"
            f"print(staging.copy(Path({str(source)!r}), {{'sha256': 'ab', 'bytes': 4 << 20}}, "
            f"Path({str(tmp_path / 'node')!r}), 0))")
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "File too large" in said.stdout, said
    assert [path.name for path in (tmp_path / "node").iterdir()] == ["ab.lock"]


def test_halves_and_forbidden_folders_are_not_used(data, tmp_path):
    entry = DataSet(data).manifest["subsets"]["image"]["shards"][0]
    source = data / entry["file"]
    target = tmp_path / "node" / f"{entry['sha256']}.tar"
    assert staging.copy(source, entry, target.parent, 0) == ""
    os.environ[staging.STAGED] = str(target.parent)
    assert staging.nearest(source, entry) == target
    target.chmod(0o600)
    target.write_bytes(b"half")
    assert staging.nearest(source, entry) == source
    assert staging.copy(source, entry, target.parent, 0) == "" and staging.nearest(source, entry) == target
    assert "its manifest says" in staging.copy(source, {**entry, "sha256": "cd", "bytes": 7}, target.parent, 0)
    assert not (target.parent / "cd.tar").exists(), "what is not whole gets no name"
    (tmp_path / "file").write_text("")
    assert staging.copy(source, entry, tmp_path / "file" / "below", 0)


def test_a_run_stages_at_its_start(data, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("BEGIRA_ATTEMPT", raising=False)
    (tmp_path / "words.json").write_text(json.dumps({"red": "gorria"}))
    path = tmp_path / "runs" / "one"
    write_json(path / "spec.json", {"id": "one", "name": "one", "study": "t", "stage": "translate", "axes": {},
                                    "function": "data_tools.translate:translate", "parents": {}})
    write_json(path / "config.yaml", {
        "data": "toy", "subsets": ["image"], "where": "all",
        "engines": [{"kind": "dictionary", "model": str(tmp_path / "words.json")}],
        "runtime": {"data_root": str(data.parent), "stage_to": str(tmp_path / "node")}})
    monkeypatch.setattr(staging, "RESERVE", 0)
    assert execute(path) == 0
    assert "lie in" in capfd.readouterr().err and list((tmp_path / "node").rglob("*.tar"))
    os.environ.pop("BEGIRA_ATTEMPT", None)


def test_a_missing_data_set_is_the_stages_business(data, tmp_path):
    config = asking(data, tmp_path / "node", mixture={"sources": [{"data": "none", "subset": "x"}]})
    assert staging.stage(config, 0).local == 0
    with pytest.raises(UserError, match="no data set"):
        DataSet(data.parent / "none")
