"""Files that nobody sees half of, not even after a node's death: on the disk before they have their name."""
import os

import pytest

from core import files


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
