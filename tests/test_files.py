"""Files that nobody sees half of, not even after a node's death: on the disk before they have their name."""
import errno
import os
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from safetensors.torch import save_file

from core import files
from core.errors import UserError


def limited(work, size, *arguments):
    """`work(*arguments)` in a process whose files cannot become larger than `size` bytes, as if the disk was full."""
    with ProcessPoolExecutor(1, get_context("fork"), resource.setrlimit, (resource.RLIMIT_FSIZE, (size, size))) as pool:
        return pool.submit(work, *arguments).result()


@pytest.fixture
def told(monkeypatch):
    """What the kernel is told, in order: ("flush", path) and ("rename", old path, new path)."""
    events, fsync, replace = [], os.fsync, os.replace

    def spy_flush(descriptor):
        events.append(("flush", os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))
        fsync(descriptor)

    def spy_replace(old, new):
        events.append(("rename", str(old), str(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", spy_flush)
    monkeypatch.setattr(os, "replace", spy_replace)
    return events


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, told):
    files.write_text(tmp_path / "a", "five!")
    (_, temporary, size), (kind, old, new), (_, folder, _) = told
    assert (kind, old, new, size, folder) == ("rename", temporary, str(tmp_path / "a"), 5, str(tmp_path))


def test_a_folder_is_on_the_disk_with_all_that_is_in_it(tmp_path, told):
    for content in ("one", "other"):
        told.clear()
        with files.replacing_folder(tmp_path / "model") as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / "weights").write_text(content)
        at = next(i for i, event in enumerate(told) if event[:2] == ("rename", str(temporary)))
        wanted = {temporary, temporary / "inner", temporary / "inner" / "weights"}
        assert {path for _, path, _ in told[:at]} >= set(map(str, wanted))
        assert told[at + 1][:2] == ("flush", str(tmp_path))
    assert (tmp_path / "model" / "inner" / "weights").read_text() == "other"


def test_what_is_out_of_date_in_a_second_costs_no_wait(tmp_path, told):
    files.write_json(tmp_path / "heartbeat.json", {}, settled=False)
    assert [kind for kind, *_ in told] == ["rename"]


def plain(_, path):
    path.write_bytes(bytes(400_000))


def write(how, path):
    """The number behind the UserError that a full disk gives."""
    try:
        with files.replacing(path) as temporary:
            how({"a": torch.zeros(100_000)}, temporary)
    except UserError as error:
        assert str(error).startswith(f"no space left while writing {path} (File too large): ")
        return error.__cause__.errno


@pytest.mark.parametrize("how", [torch.save, save_file, plain])
def test_a_full_disk_is_named_whoever_meets_it(tmp_path, how):
    assert limited(write, 200_000, how, tmp_path / "state") == errno.EFBIG
    assert not list(tmp_path.iterdir()) and write(how, tmp_path / "state") is None


def test_what_torch_fails_at_with_room_left_is_no_full_disk(tmp_path):
    with pytest.raises(RuntimeError, match="unexpected pos"), files.replacing(tmp_path / "state"):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


def append(path, line):
    with pytest.raises(UserError, match=r"no space left while writing .*lines"):
        files.append_line(path, line)
    return path.stat().st_size


def test_a_line_that_is_taken_in_part_only_is_no_success(tmp_path):
    files.append_line(tmp_path / "lines", "one")
    assert limited(append, 1000, tmp_path / "lines", "x" * 2000) == 1000
