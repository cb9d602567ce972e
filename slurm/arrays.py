"""Which runs go into which array, behind what, and what has to wait for room. Pure: plain data in, plain data out.

One array per stage and resource class. A run starts when its unfinished parents are done: an array whose elements each
continue the element of the same number of another array is linked to it as a whole (aftercorr); runs that share their
parents are an array behind just these (afterok). Arrays are split at the site's MaxArraySize and at the room that is
left under its limits on queued jobs; the runs beyond come when there is room."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experiments.expand import Desired
from slurm.resources import Request


@dataclass(frozen=True)
class Reference:
    """A job to wait for: an element of an array of this plan (`array` >= 0) or a job that exists (`job`)."""

    run: str
    array: int = -1
    index: int = -1
    job: str = ""


@dataclass
class Array:
    stage: str
    request: Request
    runs: list[Desired] = field(default_factory=list)
    after: list[Reference] = field(default_factory=list)      # every element waits for all of these
    element_wise: int = -1                                    # the array whose element i is the parent of ours

    def waits(self, arrays: Sequence[Array], index: int) -> list[Reference]:
        """What element `index` waits for."""
        if self.element_wise >= 0:
            return [Reference(arrays[self.element_wise].runs[index].id, self.element_wise, index)]
        return self.after


@dataclass
class Layout:
    arrays: list[Array] = field(default_factory=list)
    waiting: list[Desired] = field(default_factory=list)      # no room now

    @property
    def jobs(self) -> int:
        return sum(len(array.runs) for array in self.arrays)


def arrange(runs: Sequence[Desired], requests: Mapping[str, Request], done: set[str], live: Mapping[str, str],
            max_array: int, room: int | None) -> Layout:
    """Arrays for `runs` (parents before children). `done`: ids of finished runs; `live`: {id: job} of those queued.

    A run with an unfinished parent that is neither live nor placed here waits, as does what exceeds `room` elements."""
    layout = Layout()
    chosen: dict[tuple[int, str, Request], list[Desired]] = {}
    left, known, depth = room, set(live) | done, {}
    for run in runs:
        ready = all(parent in known for _, parent in run.parents.values())
        if not ready or left == 0:
            layout.waiting.append(run)
            continue
        left = None if left is None else left - 1
        known.add(run.id)
        depth[run.id] = 1 + max((depth.get(parent, 0) for _, parent in run.parents.values()), default=0)
        chosen.setdefault((depth[run.id], run.stage, requests[run.id]), []).append(run)
    placed: dict[str, Reference] = {}
    for (_, stage, wanted), members in sorted(chosen.items(), key=lambda entry: entry[0][0]):  # parents' arrays first
        for after, group in _by_parents(members, placed, done, live).items():
            for run in group:
                number = _array_for(layout.arrays, stage, wanted, after, len(group), max_array)
                layout.arrays[number].runs.append(run)
                placed[run.id] = Reference(run.id, number, len(layout.arrays[number].runs) - 1)
    return layout


def _by_parents(members: Sequence[Desired], placed: Mapping[str, Reference], done: set[str],
                live: Mapping[str, str]) -> dict[tuple[Reference, ...], list[Desired]]:
    """Runs that wait for the same jobs, in order of appearance."""
    groups: dict[tuple[Reference, ...], list[Desired]] = {}
    for run in members:
        parents = dict.fromkeys(parent for _, parent in run.parents.values() if parent not in done)
        after = tuple(placed.get(parent) or Reference(parent, job=live[parent]) for parent in parents)
        groups.setdefault(after, []).append(run)
    return groups


def _array_for(arrays: list[Array], stage: str, wanted: Request, after: tuple[Reference, ...], together: int,
               max_array: int) -> int:
    """Number of the array that takes the next of `together` runs behind `after`; a new one where none can."""
    continues = len(after) == 1 and together == 1 and after[0].array >= 0
    for number, array in enumerate(arrays):
        if (array.stage, array.request) != (stage, wanted) or len(array.runs) >= max_array:
            continue
        if continues and array.element_wise == after[0].array and len(array.runs) == after[0].index:
            return number
        if array.element_wise < 0 and tuple(array.after) == after:
            return number
    if continues and after[0].index == 0:
        arrays.append(Array(stage, wanted, element_wise=after[0].array))
    else:
        arrays.append(Array(stage, wanted, after=list(after)))
    return len(arrays) - 1
