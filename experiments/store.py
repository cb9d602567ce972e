"""Run directories: where they are, how one is created, what one holds. Files are the database; nothing else is kept.

    runs/<study>/study.yaml  journal.jsonl  shared.json  code/<hash>.diff
    runs/<study>/<stage>/<run id>/config.yaml  spec.json  env.json  attempts/  request.json  ...

Reading never writes. Attempts are opened and closed by `experiments.attempts`.
"""
from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import Runtime
from core.errors import UserError
from core.files import append_line, read_json, write_json, write_text
from experiments.attempts import list_attempts
from experiments.expand import Desired, Study
from experiments.state import Attempt

SHARED = "shared.json"


@dataclass(frozen=True)
class Roots:
    """The three folders that everything lies in, absolute."""

    runs: Path
    data: Path
    models: Path


def roots() -> Roots:
    """From BEGIRA_RUNS, BEGIRA_DATA and BEGIRA_MODELS, else ./runs, ./data and ./models."""
    def folder(name: str) -> Path:
        return Path(os.environ.get(f"BEGIRA_{name.upper()}") or name).absolute()

    return Roots(folder("runs"), folder("data"), folder("models"))


@dataclass
class Stored:
    """What a run directory tells, read at one moment."""

    path: Path
    spec: dict[str, Any]
    attempts: list[Attempt] = field(default_factory=list)
    heartbeat: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    @property
    def id(self) -> str:
        return self.spec["id"]

    @property
    def name(self) -> str:
        return self.spec["name"]


def study_path(study: str) -> Path:
    return roots().runs / study


def run_path(run: Desired) -> Path:
    return study_path(run.study) / run.stage / run.id


def read_run(path: Path) -> Stored | None:
    """The run in that directory, or None where there is none (yet)."""
    spec = read_json(path / "spec.json")
    if spec is None:
        return None
    return Stored(path, spec, list_attempts(path), read_json(path / "heartbeat.json", {}),
                  read_json(path / "request.json", {}), (path / "DONE").exists())


def read_study(study: str) -> dict[str, Stored]:
    """{run id: run} of every run directory of the study."""
    result = {}
    for path in run_paths(study):
        stored = read_run(path)
        if stored is not None:
            result[stored.id] = stored
    return result


def read_runs(runs: Iterable[Desired]) -> dict[str, Stored]:
    """{run id: run} of those of these runs that have a directory, or that another study has done (see `share`)."""
    result = {}
    for run in runs:
        stored = read_run(run_path(run))
        if stored is None and (elsewhere := done_elsewhere(run)):
            stored = read_run(elsewhere)
        if stored is not None:
            result[run.id] = stored
    return result


def done_elsewhere(run: Desired) -> Path | None:
    """The same run, DONE in another study: equal ids are equal results."""
    folder = roots().runs
    for other in sorted(folder.iterdir()) if folder.is_dir() else []:
        path = other / run.stage / run.id
        if other.name != run.study and not path.is_symlink() and (path / "DONE").exists():
            return path
    return None


def share(runs: Iterable[Desired]) -> list[Desired]:
    """Link runs that another study has done into this one's folder, so that nothing is computed twice; returns them.

    What they are called here, and where they stand on this study's axes, is in shared.json: a spec for each."""
    linked, specs = [], {}
    for run in runs:
        path = run_path(run)
        if path.is_symlink() and not path.exists():
            path.unlink()  # that study has been removed
        if not path.exists() and (elsewhere := done_elsewhere(run)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(os.path.relpath(elsewhere, path.parent))
            linked.append(run)
        if path.is_symlink():
            specs.setdefault(study_path(run.study), {})[run.id] = run.spec()
    for folder, found in specs.items():
        known = read_json(folder / SHARED, {})
        if {**known, **found} != known:
            write_json(folder / SHARED, {**known, **found})
    return linked


def run_paths(study: str) -> Iterator[Path]:
    folder = study_path(study)
    for stage in sorted(folder.iterdir()) if folder.is_dir() else []:
        if stage.is_dir():
            yield from sorted(path for path in stage.iterdir() if (path / "spec.json").exists())


def find_run(reference: str) -> Path:
    """The directory of a run given by path, by (the beginning of) its id, or by its name; UserError if not one."""
    if (Path(reference) / "spec.json").exists():
        return Path(reference).absolute()
    folder = roots().runs
    found = [path for path in sorted(folder.glob("*/*/*")) if (path / "spec.json").exists()]
    hits = [path for path in found if path.name.startswith(reference)] if len(reference) >= 3 else []
    hits = hits or [path for path in found if read_json(path / "spec.json").get("name") == reference]
    if not hits:
        raise UserError(f"no run '{reference}' in {folder}: `begira status GRID` lists ids and names")
    if len({path.name for path in hits}) > 1:
        shown = ", ".join("/".join(path.parts[-3:]) for path in hits[:4])
        raise UserError(f"'{reference}' is the beginning of {len(hits)} runs ({shown}): give more of it, or the path")
    return next((path for path in hits if (path / "DONE").exists()), hits[0]).resolve()


def desired_of(stored: Stored) -> Desired:
    """A run as its own directory describes it, without its configuration."""
    spec = stored.spec
    return Desired(spec["id"], spec["name"], spec["study"], spec["stage"], spec["function"], spec["axes"],
                   {role: (link["stage"], link["id"]) for role, link in spec["parents"].items()}, {})


def write_study(study: Study) -> None:
    """study.yaml: the merged grid, what the command line laid over it, and the labels of its axes."""
    grid = study.grid
    axes = {name: [value.label for value in axis.values] for name, axis in grid.axes.items()}
    body = {"name": grid.name, "grid": grid.source, "axes": axes, **grid.shared, "overrides": grid.settings,
            "document": grid.document}
    text = _yaml(body)
    path = study_path(grid.name) / "study.yaml"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def create(run: Desired, environment: Mapping[str, Any], runtime: Mapping[str, Any] | None = None) -> Path:
    """Write config.yaml, env.json and, last, spec.json of a run; `runtime` is laid over the grid's (a site's choice).

    A run that is DONE keeps what it ran with, but for its name and axes, which belong to the grid."""
    path = run_path(run)
    done = (path / "DONE").exists()
    if not done:
        (path / "logs").mkdir(parents=True, exist_ok=True)
        (path / "attempts").mkdir(exist_ok=True)
        text = _yaml(site_config(run, runtime))
        config = path / "config.yaml"
        if not config.exists() or config.read_text(encoding="utf-8") != text:
            write_text(config, text)
        write_json(path / "env.json", dict(environment))
    if not path.is_symlink() and read_json(path / "spec.json") != json.loads(json.dumps(run.spec())):
        write_json(path / "spec.json", run.spec())
    return path


def site_config(run: Desired, runtime: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The configuration with this site's runtime: absolute roots, and what its profile decides."""
    config = json.loads(json.dumps(run.config))
    here, own, default = roots(), config.get("runtime") or {}, Runtime()
    for key, folder in (("data_root", here.data), ("models_root", here.models)):
        given = own.get(key, getattr(default, key))
        explicit = given != getattr(default, key) and f"BEGIRA_{key[:-5].upper()}" not in os.environ
        own[key] = str(Path(given).absolute() if explicit else folder)
    config["runtime"] = {**own, **(runtime or {})}
    return config


def ask_for(path: Path, kind: str, **more: Any) -> None:
    """Write request.json: "cancel" (nothing starts it until a retry) or "retry" (its attempts so far do not count)."""
    newest = max((attempt.number for attempt in list_attempts(path)), default=0)
    write_json(path / "request.json", {"kind": kind, "after_attempt": newest, "time": time.time(), **more})


def journal(study: str, event: str, **more: Any) -> None:
    """One line of the study's journal: what was submitted, released, cancelled, by whom and when."""
    append_line(study_path(study) / "journal.jsonl", json.dumps({"time": time.time(), "event": event, **more}))


def read_journal(study: str) -> list[dict[str, Any]]:
    """All events; a line that a crash cut short is left out."""
    try:
        lines = (study_path(study) / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def _yaml(value: Any) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(json.loads(json.dumps(value))))
