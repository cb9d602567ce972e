"""The code that jobs run: a copy of the checkout as it is at submission, under runs/<study>/code/<hash>/.

Tracked files with their uncommitted changes, and new Python and YAML files that git does not ignore; outside a
checkout, the installed packages. The name is a hash of the content: an unchanged checkout is copied once, and editing
or switching branches afterwards changes nothing for jobs that are queued or running."""
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import uuid
from pathlib import Path

from core.errors import UserError

CODE = Path(__file__).resolve().parent.parent
ROOMS = ("core", "experiments", "slurm", "data_tools", "analysis")
LARGEST = 4 << 20        # bytes of a file that is still code


def take(study: Path, code: Path = CODE) -> Path:
    """Copy the code below `study`/code unless this very content is there; returns the copy's path.

    Code that runs from such a copy (an ending job that submits the next) hands on that copy."""
    if code.parent == (study / "code").resolve():
        return code
    files = _files(code)
    total = hashlib.sha256()
    for name in files:
        path = code / name
        total.update(f"{name}\0{path.stat().st_mode & 0o111}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    target = study / "code" / total.hexdigest()[:12]
    if target.is_dir():
        return target
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        for name in files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(code / name, temporary / name)
        os.rename(temporary, target)
    except OSError as error:
        if not target.is_dir():  # not merely a second submitter that was quicker
            raise UserError(f"the code could not be copied to {target}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _files(code: Path) -> list[str]:
    """Names relative to `code`, sorted."""
    tracked = _git(code, "ls-files", "-z")
    if tracked is None:
        found = [p for room in ROOMS for p in (code / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        return sorted(str(p.relative_to(code)) for p in [*found, code / "begira.py"] if p.exists())
    new = _git(code, "ls-files", "-z", "--others", "--exclude-standard", "*.py", "*.yaml", "*.yml") or []
    names = {name for name in [*tracked, *new] if (code / name).is_file() and not (code / name).is_symlink()}
    return sorted(name for name in names if (code / name).stat().st_size <= LARGEST)


def _git(code: Path, *arguments: str) -> list[str] | None:
    """Names that git lists, or None where `code` is no checkout."""
    if not (code / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(code), *arguments], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [name for name in done.stdout.decode("utf-8", "surrogateescape").split("\0") if name]
