"""What a download lays down and a source reads back: whole whatever the disk does, and what is not is named."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UserError
from data_tools.download import BlockStore
from data_tools.pictures import Store

ROOT = Path(__file__).resolve().parent.parent
NUMBER = 90
# the system stops each file at 5,050 bytes, as a full disk would, and later lets it grow on
FILL = """
import resource, sys
from pathlib import Path
from core.errors import UserError
from data_tools.download import BlockStore
size, number = int(sys.argv[2]), int(sys.argv[3])
store = BlockStore(Path(sys.argv[1]), {f"u{i}": [f"i{i}", f"j{i}"] for i in range(number)})
resource.setrlimit(resource.RLIMIT_FSIZE, (5050, resource.RLIM_INFINITY))
for i in range(number):
    data = bytes([i]) * size
    try:
        store.add(f"u{i}", "ok" if data else "dead", "", data, **({"extension": "jpg"} if data else {}))
    except UserError as error:
        print(i, error, flush=True)
        break
if sys.argv[4] == "on":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.add(f"u{i}", "dead")
    store.close()
"""


def lay(path, size, then="end"):
    """Fill a block until the disk is full; returns the number of the URL that found no room."""
    words = [sys.executable, "-c", FILL, str(path), str(size), str(NUMBER), then]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "too large" in done.stdout and not done.stderr, done
    return int(done.stdout.split()[0])


@pytest.mark.parametrize("size", [1500, 0])     # the images outgrow the disk, or the journal does
def test_a_full_disk_leaves_no_half_image_behind(tmp_path, size):
    full = lay(tmp_path / "000-0000", size)
    assert 0 < full < NUMBER - 1
    again = BlockStore(tmp_path / "000-0000", {f"u{i}": [f"i{i}", f"j{i}"] for i in range(NUMBER)})
    assert again.open_urls == [f"u{i}" for i in range(full, NUMBER)]
    for i in range(full, NUMBER):
        again.add(f"u{i}", "ok", "", bytes([i]) * 1500, extension="jpg")
    store = Store(tmp_path)
    for i in range(NUMBER):
        assert store.get(f"u{i}") == (bytes([i]) * 1500 if size or i >= full else None)
    store.close()


@pytest.mark.parametrize("size", [1500, 0])
def test_what_comes_after_a_full_disk_is_readable(tmp_path, size):
    """Requests under way write on while the error travels: their lines must not stand behind half a line."""
    full = lay(tmp_path / "000-0000", size, "on")
    lines = [json.loads(line) for line in (tmp_path / "000-0000.jsonl").read_text().splitlines()]
    assert [line["url"] for line in lines] == [f"u{i}" for i in range(full + 1) for _ in "ij"]
    assert lines[-1]["status"] == "dead"


def test_what_a_kill_cut_in_two_is_not_there_yet_and_other_damage_is_named(tmp_path):
    block = BlockStore(tmp_path / "000-0000", {"u0": ["i0"], "u1": ["i1"]})
    for url in ("u0", "u1"):
        block.add(url, "ok", "", url.encode() * 300, extension="jpg")
    journal = tmp_path / "000-0000.jsonl"
    whole = journal.read_text()
    journal.write_text(whole[:-20])
    store = Store(tmp_path)
    assert store.get("u0") == b"u0" * 300 and store.get("u1") is None
    store.close()
    for damaged in (f"{whole[:40]}\n{whole}", f"{whole[:-1]}x\n", '{"key": 1}\n', "[]\n"):
        journal.write_text(damaged)
        with pytest.raises(UserError, match=r"000-0000\.jsonl, line \d, names no download .*run the download again"):
            Store(tmp_path)
    journal.unlink()
    with pytest.raises(UserError, match=r"000-0000\.tar has no 000-0000\.jsonl beside it"):
        Store(tmp_path)
