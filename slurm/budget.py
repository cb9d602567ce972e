"""What a submission costs and leaves: jobs, node-hours by the site's rule, disk and files, what sharing saves. Pure.

These lines are what `begira plan` prints and `begira submit` submits; hours are walltime limits: an upper bound."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from core.errors import UserError
from experiments.checks import Finding
from experiments.reconcile import Action
from slurm.arrays import Array, Layout
from slurm.profile import Partition, Profile
from slurm.resources import cost
from slurm.sizes import shape

FILES_PER_RUN = 24       # records, logs, metrics, TensorBoard, products
FILES_PER_RANK = 3       # of a checkpoint: states, optimiser, randomness


@dataclass
class Bill:
    lines: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def bill(profile: Profile, layout: Layout, actions: Sequence[Action],
         runtimes: Mapping[str, Mapping[str, Any]], under_way: bool) -> Bill:
    """The plan in words and numbers; `under_way`: a job of the study lives. A cost above BEGIRA_BUDGET (in the site's
    unit) is a grave finding."""
    result = Bill()
    units, node_hours = 0.0, 0.0
    rows = []
    for number, array in enumerate(layout.arrays):
        price = len(array.runs) * cost(profile, array.request)
        units += price
        node_hours += len(array.runs) * array.request.nodes * array.request.hours * _share(profile, array)
        after = _after(array)
        result.lines.append(f"array {number}: {array.stage}, {len(array.runs)} job{'s' * (len(array.runs) != 1)}: "
                            f"{array.request.describe()}{after}")
        rows.append({"stage": array.stage, "runs": [run.id for run in array.runs], "after": after.strip(", "),
                     "request": asdict(array.request), "cost": price})
    unit = _unit(profile, layout)
    if layout.arrays:
        size, busy, files, unknown = disk(layout, runtimes)
        about = "at least" if unknown else "about"
        result.lines.append(f"{layout.jobs} jobs in {len(layout.arrays)} arrays on {profile.name}: at most "
                            f"{node_hours:.1f} node-hours" + (f" = {units:.1f} {unit}" if unit != "node-hours" else "")
                            + f"; {about} {_bytes(size)} and {files} files to keep, "
                            f"{_bytes(busy)} more while the largest array runs")
        result.details.update(disk_bytes=size, disk_bytes_while_running=busy, files=files)
        if profile.files and files > profile.files / 2:
            result.findings.append(Finding(f"about {files} files, the site allows {profile.files}",
                                           "lower runtime.keep_checkpoints or clean up first", grave=False))
    if layout.waiting:
        relays = profile.relay and (layout.arrays or under_way)
        result.lines.append(f"{len(layout.waiting)} jobs wait for room under the site's limits; " + (
            "ending jobs submit them" if relays else "call `begira submit` again when there is some"))
    kinds = Counter(str(action.kind) for action in actions)
    result.lines.append(", ".join(f"{count} to {kind}" if kind != "nothing" else f"{count} need nothing"
                                  for kind, count in sorted(kinds.items())) or "nothing to do")
    for action in actions:
        if action.waits_for_a_person:
            result.lines.append(f"{action.run.name}: {action.reason}")
    result.details.update(arrays=rows, cost=units, unit=unit, node_hours=node_hours,
                          waiting=[run.id for run in layout.waiting])
    _check_budget(result, units, unit, profile)
    return result


def disk(layout: Layout, runtimes: Mapping[str, Mapping[str, Any]]) -> tuple[float, float, int, int]:
    """Bytes that the runs leave, bytes that one array's runs take on top while they are all under way, files, and the
    number of runs whose model has no size yet.

    A checkpoint takes 14 bytes a trained parameter, the last one goes when the run is done, and while one is written
    the one before it is still there; products take 2; logs and records some 2 MB a run."""
    size, busy, files, unknown = 0.0, 0.0, 0, 0
    for array in layout.arrays:
        passing = 0.0
        for run in array.runs:
            runtime = {**run.runtime, **runtimes.get(run.id, {})}
            found, kept = shape(run), int(runtime.get("keep_checkpoints", 1))
            ranks = array.request.nodes * array.request.ranks_per_node
            stays = kept if kept > 1 else 0
            size += 2e6 + (found.trained * (14 * stays + 2) if found else 0.0)
            passing += found.trained * 14 * (kept + 1 - stays) if found else 0.0
            unknown += found is None and "train" in run.config
            files += FILES_PER_RUN + kept * FILES_PER_RANK * ranks + array.request.nodes
        busy = max(busy, passing)
    return size, busy, files, unknown


def _share(profile: Profile, array: Array) -> float:
    """The part of each node that a job takes."""
    if array.request.whole_nodes or not (profile.node.gpus and array.request.gpus_per_node):
        return 1.0
    return array.request.gpus_per_node / profile.node.gpus


def _after(array: Array) -> str:
    if array.element_wise >= 0:
        return f", each behind its own in array {array.element_wise}"
    names = [f"element {one.index} of array {one.array}" if one.array >= 0 else f"job {one.job}" for one in array.after]
    return f", behind {' and '.join(names)}" if names else ""


def _unit(profile: Profile, layout: Layout) -> str:
    used = {(array.request.partition, array.request.qos) for array in layout.arrays}
    rules = [p.billing.unit for p in profile.partitions if (p.partition, p.qos) in used]
    return rules[0] if rules else Partition().billing.unit


def _check_budget(result: Bill, units: float, unit: str, profile: Profile) -> None:
    text = os.environ.get("BEGIRA_BUDGET", "")
    if not text:
        return
    try:
        limit = float(text)
    except ValueError:
        raise UserError(f"BEGIRA_BUDGET is '{text}': give a number of {unit}") from None
    if units > limit:
        remedy = f"raise BEGIRA_BUDGET, lower runtime.time_minutes, or select fewer runs; `{profile.budget_command}` " \
                 "shows what is left" if profile.budget_command else "raise BEGIRA_BUDGET or lower runtime.time_minutes"
        result.findings.append(Finding(f"at most {units:.1f} {unit} exceed the budget of {limit:g}", remedy))


def _bytes(size: float) -> str:
    for name in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {name}"
        size /= 1000
    return f"{size:.1f} TB"
