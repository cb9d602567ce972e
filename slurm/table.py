"""What people see of a study on a terminal: the status table, the live view of a local study, plain lines elsewhere."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from core.errors import UserError
from slurm.progress import Row, counts, duration

_COLOURS = {"done": "green", "running": "cyan", "starting": "cyan", "failed": "red", "lost": "red", "blocked": "red",
            "stale": "yellow", "stopped": "yellow", "cancelled": "yellow"}
_EVERY = 30.0       # seconds between plain progress lines


def console() -> Console:
    """A console on standard output; wide where nobody looks, so that lines are not cut in a pipe."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(width=200, highlight=False)


def status_table(table: Sequence[Row]) -> Table:
    """One line a run: name, state, step, time to go, loss, tokens/s, attempts, why it waits or how it ended."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in (("id", "left"), ("run", "left"), ("state", "left"), ("step", "right"), ("to go", "right"),
                        ("loss", "right"), ("tokens/s", "right"), ("attempts", "right"), ("why", "left")):
        shown.add_column(title, justify=side, no_wrap=title in ("id", "state", "step"))
    for row in table:
        colour = _COLOURS.get(row.state, "")
        shown.add_row(row.id, row.name, Text(row.state, style=colour), _steps(row), duration(row.eta),
                      _number(row.loss), _whole(row.tokens_per_second), str(row.attempts or ""), _why(row))
    return shown


def summary(table: Sequence[Row]) -> str:
    """"11 runs: 8 done, 2 running, 1 failed"."""
    if not table:
        return "no runs"
    parts = ", ".join(f"{number} {state}" for state, number in counts(table).items())
    return f"{len(table)} run{'s' * (len(table) != 1)}: {parts}"


def watch(ask: Callable[[], Sequence[Row]], every: float) -> None:
    """The status table, refreshed every `every` seconds until Ctrl-C; without a terminal, one below the other."""
    if every <= 0:
        raise UserError(f"--every is {every:g}: give seconds above 0")
    while not sys.stdout.isatty():
        found = ask()
        console().print(Group(status_table(found), Text(summary(found))))
        sys.stdout.flush()
        time.sleep(every)
    with Live(console=console(), refresh_per_second=4, screen=True) as live:
        while True:
            found = ask()
            live.update(Group(status_table(found), Text(summary(found), style="bold")))
            time.sleep(every)


class View:
    """The live table of a study that runs here; without a terminal, plain lines with a progress line now and then."""

    def __init__(self, title: str):
        self.title, self.remark = title, ""
        self.console = console()
        self.live: Live | None = None
        self.last_line = time.time()

    def say(self, text: str) -> None:
        """Something happened."""
        self.console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False)

    def note(self, text: str) -> None:
        self.remark = text
        if not self.console.is_terminal:
            sys.stdout.write(f"{text}\n")

    def update(self, table: Sequence[Row]) -> None:
        if self.console.is_terminal:
            if self.live is None:
                self.live = Live(console=self.console, refresh_per_second=4, transient=True)
                self.live.start()
            self.live.update(self._picture(table))
        elif time.time() > self.last_line + _EVERY:
            self.last_line = time.time()
            self.console.print(f"{time.strftime('%H:%M:%S')} {summary(table)}; " + "; ".join(
                f"{row.name} {_steps(row)}" for row in table if row.state == "running"), markup=False)

    def close(self, table: Sequence[Row]) -> None:
        """The last word: the sum, and what did not end well."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        for row in table:
            if row.state in ("failed", "lost", "cancelled", "stopped") and row.attempts:
                self.console.print(f"{row.name} ({row.id}): {row.state}: {row.reason}", markup=False)
        self.console.print(f"{self.title}: {summary(table)}", markup=False)

    def _picture(self, table: Sequence[Row]) -> Group:
        active = [row for row in table if row.state in ("running", "starting", "stale")]
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("run", "phase", "step", "to go", "loss", "tokens/s"):
            shown.add_column(title, justify="left" if title in ("run", "phase") else "right", no_wrap=True)
        for row in active:
            shown.add_row(row.name, Text(row.reason or row.state, style=_COLOURS[row.state]), _steps(row),
                          duration(row.eta), _number(row.loss), _whole(row.tokens_per_second))
        parts = [shown, Text(f"{self.title}: {summary(table)}", style="bold")]
        if self.remark:
            parts.append(Text(self.remark, style="yellow"))
        return Group(*parts)


def _steps(row: Row) -> str:
    return f"{row.step}/{row.total}" if row.step is not None and row.total else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _why(row: Row) -> str:
    words = row.reason if row.cause in ("", "unknown") or not row.reason else f"{row.cause}: {row.reason}"
    return words if len(words) < 100 else words[:97] + "..."
