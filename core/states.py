"""The state of a training in one process: one file, `checkpoints/step_NNNNNN`, the newest of which counts.

For stages that hold everything in one dictionary (core.encoder, data_tools.translator). The file stays until the run
is done: one that is killed before its result is written need not begin anew. Not here: the checkpoints of many ranks
and their engine (core.checkpoint).
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.files import replacing
from core.run import Run


def save_state(run: Run, step: int, state: dict[str, Any]) -> None:
    """Write the state of `step` and, once it is on the disk, remove those before it.

    Raises Fenced if a newer attempt owns the run; UserError if the disk is full."""
    run.check_fence()
    older = _files(run)
    with replacing(run.path / "checkpoints" / f"step_{step:06d}") as temporary:
        torch.save(state, temporary)
    for path in older:
        if path.name != f"step_{step:06d}":
            path.unlink()


def newest_state(run: Run) -> dict[str, Any] | None:
    """What `save_state` wrote last, or None."""
    files = _files(run)
    return torch.load(files[-1], weights_only=True) if files else None


def _files(run: Run) -> list[Path]:
    found = [path for path in (run.path / "checkpoints").glob("step_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))
