"""Debian packages through apt, unpacked below the cache folder; no root, nothing installed.

No checksum of ours: releases differ, and apt verifies its archive's signatures itself. What came is recorded with
version and sha256. A machine without apt, or whose release lacks a package, gives None: the caller takes
another source.
"""
from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from core.errors import UserError
from core.files import sha256, write_json
from data_tools.fetch import cache_folder, call

RECORD = ".begira.json"
LISTS = Path("/var/lib/apt/lists")           # apt's own package lists


def find(names: Sequence[str], say: Callable[[str], None] = lambda _: None) -> dict[str, Path] | None:
    """Unpacked folders by package name, from the cache or through apt; None where apt or one of the packages is absent.

    A folder holds the package's files and `.begira.json` with its version and sha256."""
    folders = {name: cache_folder() / "apt" / name for name in names}
    if all((f / RECORD).exists() for f in folders.values()):
        return folders
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    say(f"fetching {', '.join(names)} through apt")
    with tempfile.TemporaryDirectory() as work:
        if not _download(names, Path(work)):
            return None
        for name in names:
            _unpack(next(Path(work).glob(f"{name}_*.deb")), folders[name])
    return folders


def _download(names: Sequence[str], work: Path) -> bool:
    if any(LISTS.glob("*_Packages*")):
        return call(["apt-get", "download", *names], work).returncode == 0
    # a fresh machine has no package lists and an ordinary user may not fetch them: keep lists of our own
    state = cache_folder() / "apt" / ".state"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    own = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}",
           "-o", "APT::Sandbox::User="]
    if call(["apt-get", *own, "update"], work).returncode:
        return False
    return call(["apt-get", *own, "download", *names], work).returncode == 0


def _unpack(deb: Path, folder: Path) -> None:
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        result = call(["dpkg-deb", "-x", str(deb.resolve()), str(partial)], deb.parent)
        if result.returncode:
            raise UserError(f"dpkg-deb cannot unpack {deb.name}: {result.stderr.strip()[:200]}")
        version = call(["dpkg-deb", "-f", str(deb.resolve()), "Version"], deb.parent).stdout.strip()
        write_json(partial / RECORD, {"version": version, "sha256": sha256(deb)})
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
