"""Checkpoints from which a run goes on: written so that half of one is never taken for one, read at any world size.

    checkpoints/step_000400/  state.json  engine/...  [universal/...]

All ranks write into a hidden folder; then the first adds state.json, which lists every file and its size, renames the
folder and, when all of it is on the disk, removes the one before. The state of the data is the step and the fingerprint
of its plan; frozen parts are not stored, the model is always built from their sources first. At another world size than
it was written with, a ZeRO checkpoint is read through DeepSpeed's universal format. Not here: what a finished run
leaves behind (core.model).
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.distributed import World
from core.engine import Engine
from core.errors import UserError
from core.files import flush, naming_a_full_disk, read_json, settle, write_json
from core.run import Run

SCHEMA = 1
ENGINE, UNIVERSAL = "engine", "universal"


@dataclass
class State:
    """All that a run needs besides tensors. `extra` is what core.loop and its monitor have summed up so far."""

    step: int = 0                    # finished optimiser steps
    fingerprint: str = ""            # of the plan
    plan: dict[str, Any] = field(default_factory=dict)      # its description, to show what has changed
    world: int = 1
    stage: int = 0                   # ZeRO
    consumed: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)     # size of every file, relative to the folder
    schema: int = SCHEMA


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    state: State

    def needs_universal(self, world: int) -> bool:
        """ZeRO shards its state by rank, so that another number of ranks cannot read it as it is."""
        return self.state.stage > 0 and self.state.world != world


def folder_of(run: Run, step: int) -> Path:
    return run.path / "checkpoints" / f"step_{step:06d}"


def latest(run: Run) -> Checkpoint | None:
    """The newest complete checkpoint of a run, or None. A folder without state.json, or with a file that is missing or
    of another size, is passed over."""
    for folder in _folders(run):
        state = _read_state(folder)
        if state is not None:
            return Checkpoint(folder, state)
    return None


def save(run: Run, engine: Engine, world: World, state: State, keep: int) -> Path:
    """Write the checkpoint of `state.step`; keep the newest `keep` (at least one). Every rank calls it.

    Raises Fenced, before anything is written, if a newer attempt owns the run; UserError if the disk is full."""
    final = folder_of(run, state.step)
    if world.share(_read_state(final) is not None if world.first else None):
        return final
    hidden = final.with_name(f".{final.name}.tmp")
    if world.first:
        run.check_fence()
        shutil.rmtree(hidden, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)  # an incomplete one
        hidden.mkdir(parents=True)
    world.barrier()
    with naming_a_full_disk(final):
        engine.deepspeed.save_checkpoint(str(hidden), tag=ENGINE, save_latest=False, exclude_frozen_parameters=True)
        for path in _files(hidden):  # by every rank what it has written: another node's cache is not flushed from here
            if world.first or f"pp_rank_{world.rank}_" in path.name:
                flush(path)
    world.barrier()
    if world.first:
        state.world, state.stage = world.size, engine.stage
        state.files = {str(path.relative_to(hidden)): path.stat().st_size for path in _files(hidden)}
        write_json(hidden / "state.json", asdict(state))
        run.check_fence()
        settle(hidden, final)
        _prune(run, max(keep, 1))
    world.barrier()
    return final


def load(checkpoint: Checkpoint, engine: Engine, world: World) -> None:
    """Put weights, moments and counters of a checkpoint into an engine. Every rank calls it.

    The engine must have been made with `universal` as needs_universal says."""
    stage = checkpoint.state.stage
    if stage != engine.stage:
        raise UserError(f"{checkpoint.folder} was written with ZeRO stage {stage} and cannot go on with {engine.stage}:"
                        f" set runtime.zero_stage={stage}, or remove the run's checkpoints to start over")
    tag = UNIVERSAL if checkpoint.needs_universal(world.size) else ENGINE
    if tag == UNIVERSAL:
        world.alone(lambda: _convert(checkpoint.folder))
    settings = [{key: value for key, value in group.items() if key != "params"}
                for group in engine.optimizer.param_groups]
    engine.deepspeed.load_checkpoint(str(checkpoint.folder), tag=tag, load_module_strict=False)
    _mend(engine, settings, checkpoint.state.step)


def _mend(engine: Engine, settings: list[dict[str, Any]], step: int) -> None:
    """Undo what loading gets wrong: the universal format under ZeRO-3 gives every parameter group the settings of the
    first, and all moments one shared step counter; the number of micro-batches belongs to the old accumulation."""
    for group, values in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(values)
    for moments in engine.optimizer.state.values():
        if torch.is_tensor(moments.get("step")):
            moments["step"] = moments["step"].clone()
    engine.deepspeed.micro_steps = step * engine.accumulation


def _convert(folder: Path) -> None:
    """Write the universal form beside the sharded one, unless it is there. A child process: it forks workers itself."""
    target, hidden = folder / UNIVERSAL, folder / f".{UNIVERSAL}.tmp"
    if target.is_dir():
        return
    shutil.rmtree(hidden, ignore_errors=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--input_folder", str(folder / ENGINE),
               "--output_folder", str(hidden), "--inject_missing_state", "--num_extract_workers", "1",
               "--num_merge_workers", "1"]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    with naming_a_full_disk(target):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{folder} could not be converted for another world size:\n{done.stderr[-2000:]}")
        settle(hidden, target)


def _read_state(folder: Path) -> State | None:
    try:
        values = read_json(folder / "state.json")
    except UserError:
        return None
    if values is None or values.get("schema") != SCHEMA:
        return None
    for name, size in values["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return None
    return State(**values)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _prune(run: Run, keep: int) -> None:
    complete = [folder for folder in _folders(run) if _read_state(folder) is not None]
    for folder in _folders(run):
        if folder not in complete[:keep]:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in (run.path / "checkpoints").glob(".step_*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def _folders(run: Run) -> list[Path]:
    """Newest first, complete or not."""
    found = [path for path in (run.path / "checkpoints").glob("step_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)
