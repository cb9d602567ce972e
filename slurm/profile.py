"""What begira must know of a Slurm site: one YAML file in slurm/profiles (or a path), read into checked dataclasses.

    --cluster leonardo          slurm/profiles/leonardo.yaml
    --cluster my/site.yaml      a profile of one's own; `inherit: leonardo` lays it over another

`${NAME}` in a text takes the environment's variable of that name. Nothing of a profile enters a run's identity: a run
has the same id, the same global batch and the same data order on every site. Who computes with it: `resources`.
"""
from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from core.config import structured
from core.errors import UserError

FOLDER = Path(__file__).parent / "profiles"


@dataclass
class Node:
    """One compute node as jobs may use it."""

    gpus: int = 0
    cpus: int = 1
    memory_gb: float = 4.0
    gpu_memory_gb: float = 0.0


@dataclass
class Billing:
    """What an allocation costs per hour, in the site's `unit`.

    Whole nodes: `per_node` for each. Shared nodes: `per_slice` for each slice, where a slice is so many GPUs, cores or
    GB of memory, whichever needs most slices (the rule of LUMI's billing policy; the other sites' are cases of it).
    A zero leaves that measure out."""

    unit: str = "node-hours"
    per_node: float = 0.0
    per_slice: float = 0.0
    slice_gpus: float = 0.0
    slice_cores: float = 0.0
    slice_memory_gb: float = 0.0

    def __post_init__(self) -> None:
        if self.per_slice and not (self.slice_gpus or self.slice_cores or self.slice_memory_gb):
            raise UserError("billing.per_slice needs the size of a slice: slice_gpus, slice_cores or slice_memory_gb")

    def cost(self, nodes: int, gpus: int, cores: int, memory_gb: float, hours: float) -> float:
        """Units for `nodes` nodes that give `gpus`, `cores` and `memory_gb` in all, for `hours`."""
        if self.per_node or not self.per_slice:
            return (self.per_node or 1.0) * nodes * hours
        measures = ((gpus, self.slice_gpus), (cores, self.slice_cores), (memory_gb, self.slice_memory_gb))
        return self.per_slice * max(ceil(used / size) for used, size in measures if size) * hours


@dataclass
class Partition:
    """Where jobs go. A limit of 0 is none. The first one that a job fits into is taken."""

    partition: str = ""
    qos: str = ""
    max_minutes: int = 0
    max_nodes: int = 0
    min_nodes: int = 0
    max_jobs: int = 0                # array elements that one user may have queued and running here
    whole_nodes: bool = False        # nodes are not shared: a job gets all of each
    debug: bool = False              # only when asked for (--debug-queue is a profile's `debug: true`)
    billing: Billing = field(default_factory=Billing)


@dataclass
class Profile:
    name: str = ""
    description: str = ""
    node: Node = field(default_factory=Node)
    partitions: list[Partition] = field(default_factory=list)
    account: str = ""
    constraint: str = ""
    setup: list[str] = field(default_factory=list)            # shell lines before the job: modules, environments
    environment: dict[str, str] = field(default_factory=dict)
    interface: str = ""              # network interface of the ranks' first contact and of gloo
    offline: bool = True             # compute nodes see no internet
    python: str = ""                 # default: the interpreter that submits
    minutes: int = 1440              # walltime of a job unless its stage says runtime.time_minutes
    signal_seconds: int = 300        # before the limit, to save and requeue
    start_seconds: int = 120         # until a job listens to signals
    hang_seconds: int = 300          # without a step, on top of 3 x the median, for a file system that stutters
    memory_gb_per_rank: float = 0.0  # 0: the node's share
    gres: str = "gpus-per-node"      # how GPUs are asked for: gpus-per-node | gres | none
    max_array: int = 1001            # MaxArraySize: array indices stay below it
    max_jobs: int = 0                # array elements one user may have in all; 0: no limit
    throttle: int = 0                # elements of an array that run at once; 0: all
    fit: bool = True                 # choose nodes and micro-batch from the model's size; False: as the run says
    relay: bool = True               # jobs may call sbatch: an ending job submits what had no room before
    files: int = 0                   # quota of files, for the plan's warning; 0: none
    budget_command: str = ""         # how a person looks at what is left
    debug: bool = False              # use the debug partitions
    inherit: str = ""

    def __post_init__(self) -> None:
        if self.gres not in ("gpus-per-node", "gres", "none"):
            raise UserError(f"profile {self.name}: gres is '{self.gres}', choose gpus-per-node, gres or none")
        for key in ("max_jobs", "throttle"):
            if getattr(self, key) < 0:
                raise UserError(f"profile {self.name}: {key} is {getattr(self, key)}, it must not be negative")
        if self.max_array < 2:
            raise UserError(f"profile {self.name}: max_array is {self.max_array}, it must be at least 2")

    @property
    def usable(self) -> list[Partition]:
        """Partitions for this profile's kind of work; at least one (the site's default)."""
        return [p for p in self.partitions if p.debug == self.debug] or [Partition()]


def load(reference: str) -> Profile:
    """The profile of that name or file. Raises UserError naming file, key and remedy."""
    path = Path(reference) if reference.endswith((".yaml", ".yml")) else _find(reference)
    if not path.is_file():
        raise _unknown(reference)
    try:
        return structured(Profile, _document(path, ()))
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None


def _find(name: str, heir: Path | None = None) -> Path:
    """A profile by its name, beside the heir or among ours; an heir of the same name is not its own parent."""
    for path in (*((heir.parent / f"{name}.yaml",) if heir else ()), FOLDER / f"{name}.yaml"):
        if path.is_file() and not (heir and path.samefile(heir)):
            return path
    raise _unknown(name)


def _unknown(reference: str) -> UserError:
    known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
    return UserError(f"no cluster profile '{reference}': choose local, {known}, or give a YAML file")


def _document(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    if path in below:
        raise UserError(f"profiles inherit each other in a circle: {', '.join(p.name for p in below)}")
    try:
        loaded = OmegaConf.to_container(OmegaConf.create(_expanded(path.read_text(encoding="utf-8"))))
    except Exception as error:  # the YAML parser's own exceptions are many
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: a profile is a mapping of keys")
    _check_kinds(loaded, path)
    loaded.setdefault("name", path.stem)
    if parent := loaded.get("inherit"):
        base = _document(_find(f"{parent}", path), (*below, path))
        loaded = OmegaConf.to_container(OmegaConf.merge(base, loaded))
    return loaded


def _check_kinds(document: Mapping[str, Any], path: Path) -> None:
    """Lists are lists and mappings are mappings, before another profile is merged with them."""
    words = {list: "a list [...]", dict: "a mapping {name: value}"}
    for key, default in asdict(Profile()).items():
        if type(default) in words and not isinstance(document.get(key, default), type(default)):
            raise UserError(f"{path}: '{key}' is {document[key]!r:.60}, it must be {words[type(default)]}")


def _expanded(text: str) -> str:
    """`${NAME}` from the environment; an unset one becomes empty (an account that the site does not ask for)."""
    return re.sub(r"\$\{([A-Z][A-Z0-9_]*)\}", lambda match: os.environ.get(match[1], ""), text)
