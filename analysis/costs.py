"""What a study took, as tables: process-hours per stage, what they went into, and what each answer rests on."""
from __future__ import annotations

from typing import Any

import numpy as np

from analysis.study import Study
from analysis.tables import Cell, Table
from analysis.wording import points
from core.run import SPENT


def cost_tables(study: Study, answers: Any) -> list[Table]:
    """Process-hours per stage, and per conclusion: the evaluations that its contrast reads, with their trainings."""
    costs = study.collected.costs
    rows = []
    for stage, group in [*costs.groupby("stage", sort=True), ("all", costs)]:
        hours = group["process_hours"].sum()
        rows.append([Cell(str(stage)), Cell(str(len(group))), Cell(_hours(hours)), Cell(_hours(hours / len(group))),
                     Cell(f"{100 * group['lost_hours'].sum() / hours:.1f} %" if hours else "–"),
                     Cell(f"{group['redone_steps'].sum():.0f}")])
    by_stage = Table("cost", "What it took. A process is one rank: a GPU on a cluster, a worker process elsewhere",
                     ["stage", "runs", "process-hours", "per run", "lost to failures", "steps redone"], rows)
    hours = costs.set_index("run")["process_hours"]
    trained = dict(zip(study.collected.scores["run"], study.collected.scores["trained"], strict=True))
    lines = []
    for one in answers.all():
        if one.contrast is None:
            continue
        used = np.flatnonzero(np.abs(one.weights) > 1e-12)
        runs = [run for run, condition in zip(answers.estimates.runs, answers.estimates.condition_of, strict=True)
                if condition in used]
        every = {*runs, *(trained[run] for run in runs if trained.get(run))}
        lines.append([Cell({"ratio": "the claimed ratio", "backbone": "backbones", "text_only": "text-only"}[one.key]),
                      Cell(str(len(runs))), Cell(_hours(hours.reindex(list(every)).sum()))])
    by_answer = Table("cost-answers", "What each answer rests on: evaluations in its contrast, and the process-hours "
                      "of these and their finetuning", ["answer", "evaluations", "process-hours"], lines)
    return [by_stage, *_goodput(costs), by_answer]


def _goodput(costs: Any) -> list[Table]:
    """What the hours of each stage that trains step by step went into, in percent."""
    rows = []
    for stage, group in costs.dropna(subset=[f"spent_{name}" for name in SPENT]).groupby("stage", sort=True):
        hours = group["process_hours"].sum()
        kept, *parts = (group[f"spent_{name}"].sum() for name in SPENT)
        if hours:
            shares = (kept - sum(parts), *parts, max(hours - kept, 0.0))
            rows.append([Cell(str(stage)), *(Cell(points(share / hours)) for share in shares)])
    caption = ("What the process-hours of training went into (%); the wait for data is the first rank's. Around it: "
               "starting, loading, leaving, and what attempts did in vain")
    heads = ["stage", "work", "waiting for data", "checkpoints", "validation", "around it"]
    return [Table("goodput", caption, heads, rows)] if rows else []


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"
