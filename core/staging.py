"""Copies of shards on a node's own disk, so that thousands of small reads do not go to the shared file system.

    runtime: {stage_to: $TMPDIR}                       in a grid, or
    environment: {BEGIRA_STAGE_TO: $TMPDIR}            in a cluster's profile

A run copies the shards that its configuration names at its start, one process of a node each shard, as
`<folder>/begira-<user>/<sha256>.tar`; `core.shards` then opens the copy wherever a whole one lies there. Manifest,
index and what is counted once (token lengths) stay where they are. Whatever goes wrong, too little room for one, the
shard is read from the shared file system: staging can make a run faster, never make it fail. It changes no result, so
it enters no identity. Copies of other runs are used, not removed: point it to a folder that the site clears.
"""
from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config_mixture import is_stream
from core.errors import UserError
from core.files import read_json, replacing

STAGED = "BEGIRA_STAGED"         # this process and its children: the folder with copies
RESERVE = 256 << 20              # bytes of the local disk that are left free


@dataclass(frozen=True)
class Staged:
    """What came of it: shards that lie on the node, those that did not get there, bytes of the former, and why not."""

    folder: str
    local: int
    shared: int
    bytes: int
    reason: str = ""

    def __str__(self) -> str:
        left = f", {self.shared} stay on the shared file system ({self.reason})" if self.shared else ""
        return f"{self.local} shards ({self.bytes / 1e6:,.0f} MB) lie in {self.folder}{left}"


def stage(config: Mapping[str, Any], reserve: int = RESERVE) -> Staged | None:
    """Copy the shards that `config` names, if `runtime.stage_to` or BEGIRA_STAGE_TO asks for it, and let this process
    and its children read the copies. None if nothing is asked for. Never raises for a disk that cannot take them."""
    runtime = config.get("runtime") or {}
    asked = os.path.expandvars(str(runtime.get("stage_to") or os.environ.get("BEGIRA_STAGE_TO", "")))
    if not asked:
        return None
    wanted = shards_of(config, Path(str(runtime.get("data_root", "data"))))
    if "$" in asked:
        return Staged(asked, 0, len(wanted), 0, "the variable is not set")
    folder = Path(asked) / f"begira-{os.getuid()}"
    local, size, reasons = 0, 0, []
    for source, entry in wanted:
        reason = copy(source, entry, folder, reserve)
        local, size = (local, size) if reason else (local + 1, size + int(entry["bytes"]))
        reasons += [reason] if reason else []
    os.environ[STAGED] = str(folder)
    return Staged(str(folder), local, len(reasons), size, reasons[0] if reasons else "")


def copy(source: Path, entry: Mapping[str, Any], folder: Path, reserve: int = RESERVE) -> str:
    """Make the copy of one shard (`entry`: its "sha256" and "bytes") unless a whole one is there.

    Returns "" when it is there, else why not. Of several processes one copies, the others wait for it."""
    target = _place(folder, entry)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _whole(target, entry):
            return ""
        with _lock(target.with_suffix(".lock")):
            if _whole(target, entry):
                return ""
            if shutil.disk_usage(folder).free < int(entry["bytes"]) + reserve:
                return f"too little room in {folder}"
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
                if temporary.stat().st_size != int(entry["bytes"]):
                    raise UserError(f"{source.name} has {temporary.stat().st_size} bytes, its manifest says "
                                    f"{entry['bytes']}")
                os.chmod(temporary, 0o400)
            return ""
    except (OSError, UserError) as error:
        return " ".join(str(error).split())


def nearest(path: Path, entry: Mapping[str, Any]) -> Path:
    """The copy of a shard if this process may use one and it is whole, else `path`."""
    folder = os.environ.get(STAGED)
    target = _place(Path(folder), entry) if folder else path
    return target if folder and _whole(target, entry) else path


def shards_of(config: Mapping[str, Any], root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(path, manifest entry) of every shard of the data sets and subsets that are named anywhere in `config`."""
    found: dict[Path, dict[str, Any]] = {}
    for name, subset in _named(config):
        if is_stream(name):
            continue
        manifest = read_json(root / name / "manifest.json") or {}
        for key, one in manifest.get("subsets", {}).items():
            if key == subset or not subset:
                found.update({root / name / shard["file"]: shard for shard in one["shards"]})
    return list(found.items())


def _named(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        if isinstance(value.get("data"), str) and value["data"]:
            yield value["data"], str(value.get("subset") or "")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _named(item)


def _place(folder: Path, entry: Mapping[str, Any]) -> Path:
    return folder / f"{entry['sha256']}.tar"


def _whole(path: Path, entry: Mapping[str, Any]) -> bool:
    try:
        return path.stat().st_size == int(entry["bytes"])
    except OSError:
        return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held by one process of this node at a time; the kernel gives it up when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
