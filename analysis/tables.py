"""Tables of a study as plain cells: what HTML and LaTeX both print. Values are shares; printing makes them percent."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.amount import amount
from analysis.estimates import Contrast, Estimates
from analysis.series import backbone_names, text_names
from analysis.study import Study, balanced
from analysis.wording import interval, percent, points

TITLES = {"choice": "answered correctly", "yes_no": "answered correctly", "generate": "exact match",
          "vqa": "VQA accuracy"}
EQUAL = 0.05  # a score is marked as not worse than the best while a one-sided test at this level cannot tell them apart


@dataclass
class Cell:
    """text is what is printed; note follows it smaller (a half-width, an interval); mark: "", "best" or "equal"."""

    text: str
    note: str = ""
    mark: str = ""


@dataclass
class Table:
    """heads: (label, number of columns below it); columns: labels of all columns, the first of which names the rows."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    heads: list[tuple[str, int]] = field(default_factory=list)
    labels: int = 1                  # leading columns that are labels


def benchmark_tables(study: Study) -> list[Table]:
    """One table per benchmark and measure: every condition, both languages, best and not worse than best marked; first
    the score that decides, where not all items do."""
    q = study.questions
    wanted = [(q.benchmark, q.measure, True)] * bool(study.which())
    for measure in ("score", "chrf"):
        tasks = set(study.items(measure).described["task"])
        wanted += [(task, measure, False) for task in sorted(tasks, key=lambda name: (name != q.benchmark, name))]
    return [table for one in wanted if (table := _benchmark(study, *one)) is not None]


def _benchmark(study: Study, task: str, measure: str, decides: bool) -> Table | None:
    """A row per condition, a column per ratio and language; of the items that decide, or of all."""
    q = study.questions
    axis, levels = q.ratio_axis, study.levels(q.ratio_axis)
    languages = [(q.target_language, study.target), (q.base_language, study.base)]
    items = {} if decides else {"group": "", "less_alike": 0}
    found = [(study.estimates(code, task, measure=measure, **items), name) for code, name in languages]
    found = [(estimates, name) for estimates, name in found if estimates is not None]
    if not found or axis not in study.axes:
        return None
    others = [name for name in study.axes if name != axis]
    rows: dict[tuple, list[Cell]] = {}
    for place, (estimates, _) in enumerate(found):
        for key, ratio, cell in _marked(estimates, axis, others):
            row = rows.setdefault(key, [Cell("–") for _ in range(len(levels) * len(found))])
            if ratio in levels:
                row[place * len(levels) + levels.index(ratio)] = cell
    names = {q.backbone_axis: backbone_names(study), q.text_axis: text_names(study)}
    order = {name: list(known) for name, known in names.items()}
    rows = dict(sorted(rows.items(), key=lambda row: [_place(order.get(name, []), level)
                                                      for name, level in zip(others, row[0], strict=True)]))
    lines = [[*(Cell(names.get(name, {}).get(level, level)) for name, level in zip(others, key, strict=True)), *cells]
             for key, cells in rows.items()]
    kind = study.items(measure).described.groupby("task")["kind"].first()[task]
    title = "chrF (0 to 100)" if measure == "chrf" else f"{TITLES.get(kind, 'score')} (%)"
    which = f"what decides ({study.which()})" if decides else "all concepts of both sets"
    return Table(f"{task}{'-decides' * decides}-{measure}", f"{task.replace('_', ' ')}: {title}, {which}, "
                 f"held-out subsets {', '.join(study.subsets(study.items(measure)))}",
                 [*(name.replace("_", " ") for name in others), *[percent(level) for level in levels] * len(found)],
                 lines,
                 [("", len(others)), *((f"{name} score at {study.target} ratio", len(levels)) for _, name in found)],
                 len(others))


def _place(order: list[str], level: str) -> tuple[int, str]:
    return order.index(level) if level in order else len(order), level


def _marked(estimates: Estimates, axis: str, others: list[str]) -> list[tuple[tuple, Any, Cell]]:
    """Cells of all conditions with their key (levels of the other axes) and ratio."""
    count = len(estimates.mean)
    unit = np.eye(count)
    best = int(np.argmax(estimates.mean))
    worse = [c.p_above(0.0) for c in estimates.contrasts(unit[best] - unit)]
    cells = []
    for number, mean in enumerate(estimates.contrasts(unit)):
        known = estimates.spread != "none"
        mark = "best" if number == best else "equal" if known and worse[number] > EQUAL else ""
        half = mean.interval()[1] - mean.effect
        condition = estimates.conditions.iloc[number]
        cells.append((tuple(str(condition[name]) for name in others), condition[axis],
                      Cell(points(mean.effect), f"±{points(half)}" if np.isfinite(half) else "", mark)))
    return cells


def transfer_table(study: Study) -> Table | None:
    """What concepts without any target-language training text gain, beside those with it."""
    q = study.questions
    seen, unseen = (study.estimates(q.target_language, group=group) for group in ("A", "B"))
    if seen is None or unseen is None:
        return None
    rows = _against_first(study, [seen, unseen])
    return Table("transfer", f"Transfer: {q.benchmark.replace('_', ' ')} in {study.target} on concepts that had "
                 f"{study.target} text in training (set A) and on concepts that never had (set B){_of(study, '')}; "
                 "change against the lowest ratio",
                 [f"{study.target} ratio", "set A", "change", "set B", "change"], rows)


def loss_table(study: Study) -> Table | None:
    """What the base language loses as the target language takes its place."""
    estimates = study.estimates(study.questions.base_language)
    if estimates is None:
        return None
    what = study.questions.benchmark.replace("_", " ")
    return Table("loss", f"What {study.base} loses: {what} in {study.base}{_of(study)}, and its change "
                 "against the lowest ratio", [f"{study.target} ratio", study.base, "change"],
                 _against_first(study, [estimates]))


def amount_table(study: Study) -> Table | None:
    """Equal shares of several amounts, and equal amounts at several shares; None where the study has no such arm."""
    found = amount(study)
    if found is None:
        return None
    q = study.questions
    rows = [[Cell(percent(share)), Cell(f"{own:,}"), Cell(f"{total:,}"), _mean(target), _mean(base)]
            for share, total, own, target, base in found.rows]
    return Table("amount", f"{q.benchmark.replace('_', ' ')} by share and amount of {study.target} image-text samples"
                 f"{_of(study)}",
                 [f"{study.target} share", f"{study.target} samples", "samples in all", study.target, study.base], rows)


def axes_table(study: Study) -> Table | None:
    """What the levels of a study's further axes do (human against machine translation, say), the others in balance."""
    q = study.questions
    found = [study.estimates(language) for language in (q.target_language, q.base_language)]
    if any(one is None for one in found):
        return None
    rows = []
    for axis in study.axes:
        levels = study.levels(axis)
        weights = [balanced(one.conditions, axis, levels) for one in found]
        if axis in (q.ratio_axis, q.backbone_axis, q.text_axis) or len(levels) < 2 or any(w is None for w in weights):
            continue
        for number, level in enumerate(levels):
            cells = [cell for one, w in zip(found, weights, strict=True) for cell in
                     (_mean(one.contrast(w[number])), _change(one.contrast(w[number] - w[0])) if number else Cell("–"))]
            rows.append([Cell(axis.replace("_", " ") if not number else ""), Cell(str(level)), *cells])
    return Table("axes", f"{q.benchmark.replace('_', ' ')} by what else was varied{_of(study)}; change against the "
                 "first level",
                 ["axis", "level", study.target, "change", study.base, "change"], rows, labels=2) \
        if rows else None


def cognate_table(study: Study) -> Table | None:
    """The deciding score without concepts whose names look alike in both languages, of the reference backbone without
    text-only data: at ratio 0 it has never read the target language, and such names are all that it can know."""
    q = study.questions
    limits = study.limits()
    found = [study.estimates(q.target_language, less_alike=limit) for limit in limits]
    sizes = [e.by_item.shape[1] for e in found if e is not None]
    if len(sizes) < len(found) or len(set(sizes)) < len(found):
        return None
    names = [f"chrF < {limit:g}" if limit else "all" for limit in limits]
    heads = [head for name, size in zip(names, sizes, strict=True) for head in (f"{name} ({size})", "change")]
    who = f"{q.backbone[0]}, " if q.backbone else ""
    return Table("cognates", f"{who}{q.benchmark.replace('_', ' ')} in {study.target}, of all concepts"
                 f"{f' of set {q.set}' * bool(q.set)} and of those whose names in {study.target} and {study.base} are "
                 "less alike (chrF; how many); change against the lowest ratio",
                 [f"{study.target} ratio", *heads], _against_first(study, found, plain=True))


def _against_first(study: Study, found: list[Estimates], plain: bool = False) -> list[list[Cell]]:
    """Rows per ratio: for each of the estimates the mean and its change against the lowest ratio. `plain`: of the
    reference backbone without text-only data, else of all conditions in balance."""
    axis = study.questions.ratio_axis
    levels = study.levels(axis)
    weights = [balanced(one.conditions, axis, levels, study.plain(one.conditions) if plain else None) for one in found]
    if any(w is None for w in weights):
        return []
    rows = []
    for number, level in enumerate(levels):
        row = [Cell(percent(level))]
        for estimates, w in zip(found, weights, strict=True):
            row += [_mean(estimates.contrast(w[number])),
                    _change(estimates.contrast(w[number] - w[0])) if number else Cell("–")]
        rows.append(row)
    return rows


def _of(study: Study, group: str | None = None) -> str:
    return f" ({study.which(group)})" if study.which(group) else ""


def _mean(contrast: Contrast) -> Cell:
    half = contrast.interval()[1] - contrast.effect
    return Cell(points(contrast.effect), f"±{points(half)}" if np.isfinite(half) else "")


def _change(contrast: Contrast) -> Cell:
    low, high = contrast.interval()
    return Cell(points(contrast.effect, True), interval(low, high, True) if np.isfinite(low) else "")


def missing_table(study: Study) -> Table | None:
    """Runs that the answers had to do without."""
    frame = study.collected.missing
    if not len(frame):
        return None
    columns = [name for name in frame.columns if name != "run" and frame[name].notna().any()]
    rows = [[Cell("–" if value is None or value != value else str(value)) for value in row]
            for row in frame[columns].itertuples(index=False)]
    return Table("missing", "Missing: runs that are not done, and points of the grid without a run",
                 [name.replace("_", " ") for name in columns], rows, labels=len(columns))


def other_table(study: Study) -> Table | None:
    """Controls per ratio, averaged over runs: the blank image, the choice as it is, the language of free answers."""
    q, scores = study.questions, study.collected.scores
    wanted = {"accuracy": "accuracy", "accuracy_sum": "not calibrated", "accuracy_blank": "blank image",
              "language": "in the asked language", "errors": "failed items"}
    held_out = ~scores["subset"].astype(str).str.contains("dev")
    frame = scores[(scores["slice"] == "all") & held_out & scores["metric"].isin(list(wanted))]
    frame = frame[(frame["benchmark"] == q.benchmark) | (frame["metric"] == "language")]
    if q.ratio_axis not in frame or set(frame["metric"]) <= {"accuracy"}:
        return None
    languages = [(q.target_language, study.target), (q.base_language, study.base)]
    means = frame.groupby([q.ratio_axis, "language", "metric"])["value"].mean()
    shown = [(code, metric) for code, _ in languages for metric in wanted
             if ((frame["language"] == code) & (frame["metric"] == metric)).any()]
    rows = [[Cell(percent(level)), *(_plain(means.get((level, code, metric)), metric) for code, metric in shown)]
            for level in study.levels(q.ratio_axis)]
    heads = [("", 1), *((name, sum(code == one for one, _ in shown)) for code, name in languages)]
    caption = (f"{q.benchmark.replace('_', ' ')} (%) of all concepts of both sets as scored, without calibration, "
               "and with a blank image instead of the real one (what can be had without seeing); share of free answers "
               "in the language asked for (%); items that failed, which count as wrong")
    return Table("others", caption, [f"{study.target} ratio", *(wanted[metric] for _, metric in shown)], rows, heads)


def _plain(value: Any, metric: str) -> Cell:
    if value is None or value != value:
        return Cell("–")
    return Cell(f"{value:.3g}" if metric == "errors" else points(value))
