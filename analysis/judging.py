"""What `begira judge` calls: each function does one thing that the verb can do and returns the line to print.

The work is done in judge_plan (what), judge (a server, a batch file), arena (people) and judgements (where it lies)."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from analysis import arena, judge
from analysis.judge import Intended, Judge, plan
from analysis.judge_plan import Answered, Scope, answered
from analysis.judgements import write_table
from analysis.questions import declared
from analysis.stores import read_stores, superseded
from core.chat import Chat
from core.errors import UserError
from experiments.expand import Study

__all__ = ["Judge", "answers", "ask", "plan", "read", "write_page", "write_requests"]


def answers(study_dirs: Iterable[Path], study: Study, tasks: list[str] | None, languages: list[str] | None,
            items: int, chosen: set[str] | None) -> Answered:
    """The free answers of the study's finished evaluations: of the `chosen` runs where some are, else of all that a
    report would take."""
    if items < 0:
        raise UserError(f"--items is {items}: give how many, or 0 for all")
    runs = read_stores(study_dirs)
    if chosen is None:
        chosen = {run.id for run in runs} - {run.id for run in superseded(runs, study.targets)}
    scope = Scope(tuple(tasks or ()), tuple(languages or ()), items)
    return answered([run for run in runs if run.id in chosen], scope, declared(study.grid.resolved()).seed_axis)


def ask(intended: Intended, folder: Path, endpoint: str, timeout: float, requests: int) -> str:
    """Ask the server for what is open, with a bar on standard error. Raises UserError without an address or a model."""
    from rich.console import Console
    from rich.progress import Progress

    if intended.calls and not (endpoint and intended.judge.model):
        raise UserError("no judge to ask: give --endpoint and --model, or write what is to be asked with --write")
    if intended.calls and not endpoint.startswith(("http://", "https://")):
        raise UserError(f"--endpoint {endpoint} is no address: give one such as http://localhost:8000/v1")
    console = Console(stderr=True)  # a file gets no bar, nor the empty line that would end it
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(intended.judge.model, total=len(intended.calls))
        judge.ask(intended, folder, Chat(endpoint, timeout), requests,
                  lambda done, total: bar.update(task, completed=done, total=total))
    return _standing(folder)


def write_page(found: Answered, folder: Path, page: Path, study: str, shown: int, per_item: int) -> str:
    return f"{arena.write(found, folder, page, study, shown, per_item)} pairs: {page}"


def write_requests(intended: Intended, folder: Path, path: Path) -> str:
    """Raises UserError if the file is not a .jsonl or the judge has no name."""
    if path.suffix != ".jsonl" or not intended.judge.model:
        raise UserError(f"--write {path}: a batch file ends in .jsonl and needs --model, a page ends in .html")
    return f"{judge.write_batch(intended, folder, path)} requests: {path}"


def read(folder: Path, path: Path) -> str:
    """Votes or results of a batch, by the name's end."""
    if not path.exists():
        raise UserError(f"{path} does not exist: give votes that an arena page saved, or the results of a batch")
    try:
        count = judge.read_batch(folder, path) if path.suffix == ".jsonl" else arena.read(folder, path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text: give votes that an arena page saved, or the results of a batch") from error
    return f"{count} judgements read from {path}; {_standing(folder)}"


def _standing(folder: Path) -> str:
    found = write_table(folder)
    lacking = int((~found["status"].isin(judge.READABLE)).sum())
    return f"{len(found)} judgements, {lacking} of them without a verdict: {folder / 'judgements.parquet'}"
