"""Judgements as tables for the report: who is preferred, which grades were given, how far the judges can be trusted."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import preferences
from analysis.judge_plan import conditions_of
from analysis.judgements import slug, table
from analysis.names import language_name
from analysis.stores import Stored
from analysis.tables import Cell, Table
from analysis.wording import interval, points

if TYPE_CHECKING:
    import pandas as pd

JUDGED = ["Free answers of two models to the same item, without their names. A machine is asked in both orders, and an "
          "answer wins only if it wins in both; anything else is a tie. Judgements without a verdict are counted, not "
          "guessed."]


def judge_tables(runs: list[Stored], folder: Path, seed_axis: str = "seed") -> list[Table]:
    """Tables named "judge-...", or none where nothing was judged. Judgements of runs that are not in the study count
    for the judges, not for the conditions."""
    if not folder.is_dir():
        return []
    found = table(folder)
    if not len(found):
        return []
    conditions = conditions_of([run for run in runs if run.done and run.is_evaluation], seed_axis)
    owner = {run: label for label, members in conditions.items() for run in members}
    merged = preferences.outcomes(found)
    made = []
    for key, rows in merged.groupby([*preferences.RATER, "task"], sort=True):
        made.append(_preferred(key, rows, owner))
    for key, rows in found[found["kind"] == "rubric"].groupby([*preferences.RATER, "task"], sort=True):
        made.append(_graded(key, rows, owner))
    return [*(one for one in made if one is not None), trust(found)]


def _preferred(key: tuple, rows: pd.DataFrame, owner: dict[str, str]) -> Table | None:
    judge, prompt, prompt_language, images, task = key
    columns: dict[str, Any] = {}
    for language, own in rows.groupby("language"):
        found = preferences.strengths(own, owner)
        if found is not None:
            columns[str(language)] = found
    if not columns:
        return None
    labels = sorted({name for names, _, _ in columns.values() for name in names})
    lines = [[Cell(label), *(cell for found in columns.values() for cell in _cells(found, label))] for label in labels]
    counts = ", ".join(f"{language_name(code)}: {found[2]:,} pairs" for code, found in columns.items())
    who = _name(judge, prompt, prompt_language, images)
    return Table(f"judge-{slug(who)}-{slug(task)}",
                 f"{task.replace('_', ' ')}, judged by {who}: share of points (win 1, tie 1/2) expected against the "
                 "average of the other models, and Bradley-Terry strength in "
                 f"logits (Davidson's ties; mean 0), with 95 % intervals over items and runs. {counts}",
                 ["condition", *["share (%)", "strength"] * len(columns)], lines,
                 [("", 1), *((language_name(code), 2) for code in columns)])


def _cells(found: tuple, label: str) -> list[Cell]:
    """Share and strength of a condition; the best is marked, and those that 95 % of the draws do not put below it."""
    names, fitted, _ = found
    if label not in names:
        return [Cell("–"), Cell("–")]
    i, best = names.index(label), int(fitted.share.argmax())
    below = float((fitted.draws[:, i] < fitted.draws[:, best]).mean())
    mark = "best" if i == best else "equal" if below < 0.95 else ""
    return [Cell(points(fitted.share[i]), interval(fitted.share_low[i], fitted.share_high[i]), mark),
            Cell(_signed(fitted.strength[i]), f"[{_signed(fitted.low[i])}, {_signed(fitted.high[i])}]")]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _graded(key: tuple, rows: pd.DataFrame, owner: dict[str, str]) -> Table | None:
    judge, prompt, prompt_language, images, task = key
    columns = {str(language): preferences.grades(own, owner) for language, own in rows.groupby("language")}
    labels = sorted({label for column in columns.values() for label in column})
    if not labels:
        return None
    lines = [[Cell(label), *(Cell(f"{column[label][0]:.2f}", f"±{column[label][1]:.2f}") if label in column
                             else Cell("–") for column in columns.values())] for label in labels]
    who = _name(judge, prompt, prompt_language, images)
    return Table(f"judge-{slug(who)}-{slug(task)}", f"{task.replace('_', ' ')}, graded 1 to 5 by {who}: mean ± "
                 "half of the 95 % interval over items", ["condition", *map(language_name, columns)], lines)


def trust(found: pd.DataFrame) -> Table:
    """One row per judge: what it judged, how steady it is when the order is swapped, how it agrees with people."""
    value, pairs, raters = preferences.alpha(found)
    agreed = (f" Krippendorff's alpha over {raters} raters on {pairs:,} pairs: {value:.2f}." if raters > 1 and pairs
              else "")
    judges = preferences.raters(found)
    half = sum(one.half for one in judges)
    lacking = f" Judged in one order only, and without an outcome: {half:,} pairs." if half else ""
    rows = [[Cell(_name(one.judge, one.prompt, one.prompt_language, one.images)), Cell(f"{one.judgements:,}"),
             Cell(f"{one.unreadable + one.failed:,}"), _share(one.consistency), _share(one.first),
             Cell("–") if one.kappa != one.kappa else Cell(f"{one.kappa:.2f}", f"n={one.shared}"),
             Cell(f"{(one.tokens_in + one.tokens_out) / 1e6:.2f}"), Cell(f"{one.cost:.2f}")]
            for one in judges]
    return Table("judge-trust", "The judges. Steady: the same outcome when the two answers change places. First: how "
                 "often the answer shown first wins a decided judgement (50 % without bias). Kappa: Cohen's, with what "
                 f"most people say.{agreed}{lacking}",
                 ["judge", "judgements", "no verdict", "steady (%)", "first (%)", "kappa", "million tokens", "cost"],
                 rows)


def _share(value: float) -> Cell:
    return Cell("–") if value != value else Cell(f"{100 * value:.1f}")


def _name(judge: str, prompt: str, language: str, images: bool) -> str:
    if judge == preferences.HUMAN:
        return "people"
    return f"{judge} ({prompt}, {language}{'' if images else ', without images'})"
