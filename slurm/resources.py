"""What a run asks of a site: nodes, ranks, cores, memory, minutes, partition; and how a global batch is laid on GPUs.

Pure. The global batch and the data order are the run's and stay: a site only decides how many ranks share a batch, how
many packs a rank takes at a time (micro-batch), and how often it accumulates. What the states take is what the card of
a training says (core.card).
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from core.card import Counts, state_bytes
from core.errors import UserError
from slurm.profile import Partition, Profile

USABLE = 0.85                # share of a GPU's memory that we plan with
ACTIVATION_BYTES = 34        # per token, hidden unit and layer (Korthikanti et al. 2022, eq. 2, without attention maps)
HEAD_BYTES = 8               # per weight of a trained head: its gradient, made in one piece (core.loss)
CHECKPOINTED_BYTES = 2       # the same with gradient checkpointing: the layer's input alone


@dataclass(frozen=True)
class Shape:
    """The size of a model, as far as memory depends on it."""

    parameters: float
    trained: float
    hidden: int
    layers: int
    vocabulary: int = 0


@dataclass(frozen=True)
class Layout:
    """How a global batch lies on a site: nodes x ranks x micro-batch x accumulation = global batch."""

    nodes: int
    ranks_per_node: int
    micro_batch: int
    accumulation: int
    zero_stage: int

    def overlay(self) -> dict[str, int]:
        """What is laid over the run's `runtime`."""
        return {"nodes": self.nodes, "ranks_per_node": self.ranks_per_node, "micro_batch": self.micro_batch,
                "zero_stage": self.zero_stage}


@dataclass(frozen=True)
class Request:
    """The resource class of a job. Jobs of one stage and one request are one array."""

    partition: str
    qos: str
    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    gpus_per_node: int
    memory_gb: float             # per node; 0: whole nodes, all of it
    minutes: int
    signal_seconds: int = 60     # before the limit
    whole_nodes: bool = False

    @property
    def hours(self) -> float:
        return self.minutes / 60

    def describe(self) -> str:
        gpus = f", {self.gpus_per_node} GPUs" if self.gpus_per_node else ""
        where = "/".join(word for word in (self.partition, self.qos) if word) or "default partition"
        return (f"{self.nodes} node{'s' * (self.nodes != 1)} x {self.ranks_per_node} ranks, {self.cpus_per_rank} cores"
                f"{gpus}, {self.memory_gb:g} GB, {self.minutes} min, {where}")


def fit(profile: Profile, global_batch: int, shape: Shape, tokens: int, checkpointed: bool = True,
        max_nodes: int = 16) -> Layout:
    """The smallest number of GPUs whose memory holds the training states, then the largest micro-batch that fits.

    `tokens` is the length of a pack. Ranks divide the global batch, always. UserError if `max_nodes` do not suffice."""
    gpus, memory = max(profile.node.gpus, 1), profile.node.gpu_memory_gb * 1e9 * USABLE
    per_token = shape.hidden * shape.layers * (CHECKPOINTED_BYTES if checkpointed else ACTIVATION_BYTES)
    head = HEAD_BYTES * shape.vocabulary * shape.hidden if shape.trained == shape.parameters else 0
    per_pack = tokens * (per_token + ACTIVATION_BYTES * shape.hidden + 6 * shape.vocabulary / 8)
    for ranks in sorted({1, 2, 4, *(gpus * n for n in range(1, max_nodes + 1))}):
        if ranks > gpus * max_nodes or global_batch % ranks or (ranks > gpus and ranks % gpus):
            continue
        for stage in (0, 2, 3):
            left = memory - head - states(shape, ranks, stage)
            if left < per_pack or (stage and ranks == 1):
                continue
            share = global_batch // ranks
            micro = max(m for m in range(1, share + 1) if share % m == 0 and (m == 1 or m * per_pack <= left))
            nodes = ceil(ranks / gpus)
            return Layout(nodes, ranks // nodes, micro, share // micro, stage)
    raise UserError(f"profile {profile.name}: {shape.parameters / 1e9:.1f} B parameters with a global batch of "
                    f"{global_batch} do not fit {max_nodes} nodes: raise train.global_batch or choose another site")


def states(shape: Shape, ranks: int, zero_stage: int) -> float:
    """Bytes of weights, gradients and optimiser states on each rank, in bf16."""
    counts = {"model": Counts(int(shape.parameters), int(shape.trained))}
    return state_bytes(counts, "bfloat16", ranks)[zero_stage]


def request(profile: Profile, runtime: Mapping[str, Any], starved: int = 0, late: int = 0) -> Request:
    """What a run with this `runtime` asks for. Raises UserError where no partition takes it.

    `starved` former attempts ran out of host memory: each gives half as much again, up to the node's. `late` ones were
    ended by the limit before they had saved: each doubles the signal's margin, up to half of the walltime."""
    nodes, ranks = int(runtime.get("nodes", 1)), int(runtime.get("ranks_per_node", 1))
    node, minutes = profile.node, int(runtime.get("time_minutes") or profile.minutes)
    if ranks > max(node.gpus, node.cpus if not node.gpus else 0):
        raise UserError(f"profile {profile.name}: {ranks} ranks per node, but a node has {node.gpus or node.cpus} "
                        f"{'GPUs' if node.gpus else 'cores'}: change runtime.nodes and runtime.ranks_per_node")
    partition = _partition(profile, nodes, ranks, minutes)
    if partition.max_minutes:
        minutes = min(minutes, partition.max_minutes)
    _check_margin(profile, minutes)
    slots = node.gpus or node.cpus
    wanted = int(runtime.get("threads", 1)) + int(runtime.get("workers", 0))
    cpus = max(1, node.cpus // slots) if node.gpus else max(1, min(wanted, node.cpus // ranks))
    share = float(runtime.get("memory_gb") or profile.memory_gb_per_rank or node.memory_gb / slots)
    memory = min(share * 1.5**starved * ranks, node.memory_gb)
    margin = profile.signal_seconds
    margin = max(margin, min(margin * 2**late, minutes * 30))
    gpus = node.gpus if partition.whole_nodes else min(ranks, node.gpus)
    return Request(partition.partition, partition.qos, nodes, ranks, cpus, gpus if profile.gres != "none" else 0,
                   0.0 if partition.whole_nodes else round(memory, 2), minutes, margin, partition.whole_nodes)


def cost(profile: Profile, wanted: Request) -> float:
    """Units of the site's billing for one job of this kind that takes all its time."""
    rule = next((p for p in profile.partitions if (p.partition, p.qos) == (wanted.partition, wanted.qos)), Partition())
    cores = wanted.cpus_per_rank * wanted.ranks_per_node * wanted.nodes
    return rule.billing.cost(wanted.nodes, wanted.gpus_per_node * wanted.nodes, cores, wanted.memory_gb * wanted.nodes,
                             wanted.hours)


def _partition(profile: Profile, nodes: int, ranks: int, minutes: int) -> Partition:
    """The first that is large and long enough; whole nodes only for jobs that fill them, where there is a choice."""
    able = [p for p in profile.usable if (not p.max_nodes or nodes <= p.max_nodes) and nodes >= p.min_nodes]
    if not able:
        raise UserError(f"profile {profile.name}: no partition takes {nodes} nodes: change runtime.nodes")
    if ranks < profile.node.gpus:
        able = [p for p in able if not p.whole_nodes] or able
    return next((p for p in able if not p.max_minutes or minutes <= p.max_minutes), able[0])


def _check_margin(profile: Profile, minutes: int) -> None:
    """Slurm may signal up to 60 s early; a job must be up by then and must have trained something."""
    needed = profile.signal_seconds + profile.start_seconds + 60
    if minutes * 60 <= needed:
        raise UserError(f"profile {profile.name}: {minutes} min of walltime leave nothing after "
                        f"{profile.signal_seconds} s of signal margin, {profile.start_seconds} s of start and 60 s of "
                        "Slurm's own: ask for "
                        f"{ceil(needed / 60) + 5} min or lower signal_seconds")
