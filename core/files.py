"""Writing files so that nobody ever sees half of one: a temporary name in the same folder, then rename.

What has its name is on the disk: a node that dies the moment after loses nothing, and what a new file makes superfluous
may be removed."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNSAID = ("inline_container", "iostream error", "PytorchStreamWriter failed")  # torch: it failed, and not why


@contextmanager
def naming_a_full_disk(path: Path | str) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded", also where torch keeps them to itself, into a UserError that names
    what was being written. Its cause is an OSError that has the number."""
    try:
        yield
    except Exception as error:
        full = _full(error, Path(path).parent)
        if full is None:
            raise
        raise UserError(f"no space left while writing {path} ({os.strerror(full.errno)}): free some or choose another "
                        "folder, then repeat the command; finished work is kept") from full


def _full(error: Exception, folder: Path) -> OSError | None:
    """What shows that `folder` takes no more, if that is why there was an error."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return error
    for number in _FULL:
        if os.strerror(number) in str(error):  # an exception of safetensors', or what a child process said
            return OSError(number, str(error))
    return _probe(folder) if any(words in str(error) for words in _UNSAID) else None


def _probe(folder: Path) -> OSError | None:
    """Why a file of a MiB cannot be written to `folder`; None if it can, or for another reason than its size."""
    path = folder / f".probe.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(path, "wb") as stream:
            stream.write(bytes(1 << 20))
        flush(path)
    except OSError as error:
        return error if error.errno in _FULL else None
    finally:
        path.unlink(missing_ok=True)
    return None


def flush(path: Path) -> None:
    """Have the bytes of a file, or the names in a folder, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do it to folders
            raise
    finally:
        os.close(descriptor)


def settle(temporary: Path, path: Path) -> None:
    """Rename a finished file or folder to `path`, all of it on the disk before and the new name after."""
    for inner in (*temporary.rglob("*"), temporary):
        flush(inner)
    os.replace(temporary, path)
    flush(path.parent)


@contextmanager
def replacing(path: Path | str, settled: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    settled: see `settle`; False for what is out of date in a second. Raises UserError, naming the file, when the disk
    or the quota is full."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with naming_a_full_disk(path):
            yield temporary
            settle(temporary, path) if settled else os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path | str) -> Iterator[Path]:
    """The same for a folder: a fresh one beside `path` takes its place when the block ends well, else it is removed."""
    path = Path(path)
    temporary, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{kind}") for kind in ("tmp", "old"))
    temporary.mkdir(parents=True)
    try:
        with naming_a_full_disk(path):
            yield temporary
            for inner in temporary.rglob("*"):  # which may take long: before `path` is gone for a moment
                flush(inner)
            if path.exists():
                os.replace(path, old)
            settle(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished in and below `folder`, in which nobody else may be writing: only
    JSON and YAML stay, which are small, and which others (a submission, a watcher) may be replacing now."""
    for path in [*folder.rglob(".*.tmp"), *folder.rglob(".*.old")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif ".json." not in path.name and ".yaml." not in path.name:
            path.unlink(missing_ok=True)


def write_text(path: Path | str, text: str, settled: bool = True) -> None:
    with replacing(path, settled) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any, settled: bool = True) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n", settled)


def read_json(path: Path | str, default: Any = None) -> Any:
    """The parsed file, or `default` where it does not exist. Raises UserError, naming the file, if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore it or remove it") from error


def append_line(path: Path | str, line: str) -> None:
    """One `write` call in append mode, so that lines of several processes do not mix; more where the system takes only
    a part. Raises UserError, naming the file, when the disk or the quota is full."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rest = (line.rstrip("\n") + "\n").encode()
    with naming_a_full_disk(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest):]
        finally:
            os.close(descriptor)


def sha256(path: Path | str) -> str:
    """Hex digest of the file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(stream)


def _digest(stream: Any) -> str:  # Python 3.10
    total = hashlib.sha256()
    while block := stream.read(1 << 20):
        total.update(block)
    return total.hexdigest()
