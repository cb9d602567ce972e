"""What a backend is: the little that the command line needs of a place where runs are executed.

`slurm.local` (this machine) and `slurm.cluster` (Slurm) implement it and behave alike. Which runs need what is decided
before, by `experiments.reconcile`; how they are grouped, placed and started is decided here.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from experiments.checks import Finding
from experiments.expand import Study
from experiments.reconcile import Action
from experiments.state import Observation
from experiments.store import Stored


@dataclass
class Plan:
    """What `submit` will do. `lines` is what `plan` prints, and `submit` prints the same before it acts."""

    study: Study
    actions: list[Action]
    lines: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)   # a grave one refuses the submission
    details: dict[str, Any] = field(default_factory=dict)   # for --json: arrays, node-hours, disk, ...

    @property
    def starts(self) -> list[Action]:
        return [action for action in self.actions if action.starts]


class Backend(Protocol):
    """Every method may be called at any moment by several processes; none of them keeps state outside files."""

    name: str

    def observe(self, study: str, runs: Sequence[Stored]) -> Mapping[str, Observation]:
        """{run id: what is known of its newest job}; a run that is missing in it is ABSENT."""

    def plan(self, study: Study, actions: Sequence[Action]) -> Plan:
        """Group and place the actions, check what can be checked before the first job. Changes nothing."""

    def submit(self, plan: Plan) -> int:
        """Make it so and return the exit code of the command: 0 well, 1 runs failed, 75 stopped and can go on."""

    def cancel(self, study: str, runs: Sequence[Stored], save: bool) -> list[str]:
        """End the live jobs of these runs, with `save` after they saved; returns the ids that had one."""
