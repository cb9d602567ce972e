"""What a run was made with, for env.json: the code's commit and its uncommitted changes, package versions, the machine.

The diff of a changed checkout is stored once per study under the hash of its text, not once per run."""
from __future__ import annotations

import getpass
import hashlib
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from core.files import write_text

PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "datasets", "webdataset", "numpy", "omegaconf",
            "submitit", "tokenizers", "pandas", "pyarrow", "sacrebleu", "begira")
CODE = Path(__file__).resolve().parent.parent


def capture(study: Path) -> dict[str, Any]:
    """The present surroundings; `study` is the folder that keeps the diff."""
    return {"git": _git(study), "packages": {name: found for name in PACKAGES if (found := _version(name))},
            "python": platform.python_version(), "executable": sys.executable, "host": socket.gethostname(),
            "platform": platform.platform(), "cores": os.cpu_count(), "user": _user(), "command": sys.argv[:1] + [
                word for word in sys.argv[1:] if len(word) < 200]}


def _git(study: Path) -> dict[str, Any]:
    """Commit, and the file that holds the uncommitted changes of tracked files; {} outside a checkout."""
    commit = _call("rev-parse", "HEAD")
    if commit is None:
        return {}
    difference = _call("diff", "HEAD") or ""
    if not difference:
        return {"commit": commit.strip(), "dirty": False}
    name = hashlib.sha256(difference.encode()).hexdigest()[:10] + ".diff"
    if not (study / "code" / name).exists():
        write_text(study / "code" / name, difference)
    return {"commit": commit.strip(), "dirty": True, "diff": f"code/{name}"}


def _call(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(CODE), *arguments], capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
