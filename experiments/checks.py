"""What can be known to go wrong before the first job: missing data sets, subsets, model folders; indivisible batches.

Looks at file names and manifests only; loads no weights. A finding is one line: what, where, and what to do.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.config_mixture import is_stream
from core.files import read_json
from experiments.expand import Desired
from experiments.store import roots, site_config


@dataclass
class Finding:
    """Something to mend. `grave` ones refuse a submission; the others are only said."""

    what: str
    remedy: str
    grave: bool = True
    runs: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.what} ({len(self.runs)} run{'s' * (len(self.runs) != 1)}): {self.remedy}"


def check_runs(runs: Iterable[Desired]) -> list[Finding]:
    """Findings over all runs, each once with the runs that it concerns."""
    found: dict[str, Finding] = {}
    for run in runs:
        config = site_config(run)
        named = {finding.what: finding for finding in _findings(run, config)}  # several sources may lack one thing
        for what, finding in named.items():
            found.setdefault(what, finding).runs.append(run.id)
    return list(found.values())


def _findings(run: Desired, config: Mapping[str, Any]) -> Iterator[Finding]:
    runtime = run.runtime
    root = Path(config["runtime"]["data_root"])
    yield from _data(config, root)
    yield from _languages(config, root)
    module = run.function.partition(":")[0]
    if not _exists(module):
        yield Finding(f"stage {run.stage}: no module {module}", "correct `function` in the grid")
    model = config.get("model")
    parts = [model.get("vision"), model.get("backbone")] if isinstance(model, Mapping) else [model]
    for name in [*parts, config.get("initial")]:
        if isinstance(name, str) and name and not name.startswith("parent:"):
            yield from _model(name, Path(config["runtime"]["models_root"]))
    train = config.get("train") or {}
    if train.get("lora_rank") and not _exists("peft"):
        yield Finding("train.lora_rank needs peft, which is not installed here",
                      "pip install 'begira[lora]', or set train.lora_rank=0", grave=False)  # jobs may have another
    batch = train.get("global_batch")
    if batch and batch % run.world_size:
        yield Finding(f"stage {run.stage}: global batch {batch} is not divisible by {runtime['nodes']} x "
                      f"{runtime['ranks_per_node']} ranks", "change runtime.nodes or runtime.ranks_per_node")


def _exists(module: str) -> bool:
    """Whether the module can be found; only its package is imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _data(value: Any, root: Path) -> Iterator[Finding]:
    """Every data set, and subset of one, that is named anywhere in the configuration; streamed shards are not looked
    for."""
    if isinstance(value, Mapping):
        if isinstance(value.get("data"), str) and not is_stream(value["data"]):
            yield from _subset(value["data"], value.get("subset", ""), root)
        for item in value.values():
            yield from _data(item, root)
    elif isinstance(value, list):
        for item in value:
            yield from _data(item, root)


def _subset(name: str, subset: str, root: Path) -> Iterator[Finding]:
    if not name:
        return
    manifest = read_json(root / name / "manifest.json")
    if manifest is None:
        yield Finding(f"no data set {name} in {root}", f"`begira data build` makes it, or copy it to {root / name}")
    elif subset and subset not in manifest.get("subsets", {}):
        yield Finding(f"data set {name} has no subset {subset}",
                      f"it has {', '.join(sorted(manifest.get('subsets', {})))}")


def _languages(config: Mapping[str, Any], root: Path) -> Iterator[Finding]:
    """Languages that are asked for and that none of the data sets has: of the image-text mixture, or of the tasks."""
    mixture, tasks = config.get("mixture") or {}, config.get("tasks") or ()
    target = mixture.get("target_language") if mixture.get("target_ratio") else None
    asked = [(target, mixture.get("sources") or ())] if target else []
    asked += [(language, tasks) for language in config.get("languages") or ()]
    for language, entries in asked:
        sets = sorted({entry.get("data") or "" for entry in entries})
        found = [read_json(root / name / "manifest.json") for name in sets if name and not is_stream(name)]
        spoken = sorted({code for manifest in found for code in (manifest or {}).get("languages", ())})
        if sets and len(found) == len(sets) and all(found) and language not in spoken:
            yield Finding(f"data set {', '.join(sets)} has no {language}",
                          f"it has {', '.join(spoken)}: correct the language, or build the data for {language}")


def _model(name: str, root: Path) -> Iterator[Finding]:
    folder = root / name
    if not (folder / "config.json").is_file():
        yield Finding(f"no model {name} in {root}",
                      f"download it to {folder}" if roots().models == root else "set BEGIRA_MODELS")
    elif not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        yield Finding(f"model {name} in {root} has no weights", f"download it again to {folder}")
