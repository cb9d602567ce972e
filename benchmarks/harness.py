"""What every benchmark shares: two ways of doing one thing, timed in turn in one process, and one line that says so.

A benchmark is a module of this folder with `rows() -> list[Row]`; `python -m benchmarks` runs them all, each in a
process of its own, and `python -m benchmarks reader` just that one.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` is what the gate speaks of; `at_least` says on which side of the gate it must lie."""

    name: str
    ours: float
    other: float
    unit: str
    ratio: float
    gate: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.ratio >= self.gate if self.at_least else self.ratio <= self.gate

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        return (f"{self.name:44} {self.ours:12,.4g} {self.other:12,.4g} {self.unit:10} {self.ratio:8.2f}  "
                f"{sign} {self.gate:<6g} {'met' if self.met else 'MISSED'}")

    def json(self) -> str:
        return json.dumps({**asdict(self), "met": self.met})


HEADER = f"{'benchmark':44} {'ours':>12} {'other':>12} {'unit':10} {'ratio':>8}  {'gate':9} verdict"


def interleaved(ours: Callable[[], object], other: Callable[[], object], repeats: int = 4) -> tuple[float, float]:
    """Least CPU seconds of this process for each of the two, run in turn (A B A B ...) after one warm-up each."""
    ours(), other()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, taken in zip((ours, other), times, strict=True):
            begin = time.process_time()
            call()
            taken.append(time.process_time() - begin)
    return min(times[0]), min(times[1])
