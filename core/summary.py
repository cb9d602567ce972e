"""From raw answers to judged items and metrics: which option won, whether it was right, how near a free answer came.

Pure functions over rows (see core.examiner.describe). Every item counts in every denominator; one that failed counts as
wrong; one whose JSON cannot be read is of no task that is known, and an error of task "". Only an open question, which
has no reference by design, is neither right nor wrong: its verdicts are None, what compares with references leaves it
out, and `unscored` counts it. A metric is {"benchmark", "subset", "language", "metric", "slice", "value", "n"}, n being
the items it is a mean over.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core import score

Row = dict[str, Any]
LESS_ALIKE = {"no cognates": 50.0, "unlike": 20.0}  # items whose two names are less alike than this chrF
SLICES: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True, "A": lambda row: row["set"] == "A", "B": lambda row: row["set"] == "B",
    **{name: lambda row, limit=limit: row["likeness"] is not None and row["likeness"] < limit
       for name, limit in LESS_ALIKE.items()}}

_WRONG: Row = {"correct": False, "correct_uncalibrated": False, "exact": False, "chrf": 0.0, "score": 0.0}
_OPEN: Row = dict.fromkeys(_WRONG)


def judge(rows: Sequence[Row], blank: Mapping[tuple[str, str], float], identifier: score.LanguageIdentifier | None
          ) -> list[Row]:
    """The rows with verdicts. blank: log-probability on a blank image by (prompt, option), empty if not measured."""
    return [_judged({**row, "predicted": -1, "language_detected": "", **(_OPEN if _is_open(row) else _WRONG)}, blank,
                    identifier) for row in rows]


def _is_open(row: Row) -> bool:
    return row.get("open", False)     # what an earlier version asked does not say


def _judged(row: Row, blank: Mapping[tuple[str, str], float], identifier: score.LanguageIdentifier | None) -> Row:
    if row["status"] != "ok":
        return row
    if row["kind"] == "choice":
        row["scores_blank"] = [blank[row["prompt"], option] for option in row["options"]] if blank else []
        row["predicted"] = score.choose(row["scores"], row["scores_blank"] or None)
        row["correct_uncalibrated"] = score.choose(row["scores"]) == row["answer"]
        row["correct"] = row["predicted"] == row["answer"]
        row["prediction"] = row["options"][row["predicted"]]
        row["score"] = float(row["correct"])
        return row
    if identifier is not None:
        row["language_detected"] = identifier.identify(row["prediction"])
    if _is_open(row):
        return row
    if row["kind"] == "yes_no":
        said = score.yes_no(row["prediction"], row["options"][:1], row["options"][1:2])
        row["predicted"] = {True: 0, False: 1, None: -1}[said]
        row["exact"] = row["predicted"] == row["answer"]
        row["score"] = float(row["exact"])
    else:
        row["exact"] = score.exact_match(row["prediction"], row["references"])
        row["chrf"] = score.chrf(row["prediction"], row["references"])
        row["score"] = score.vqa_accuracy(row["prediction"], row["references"], row["language"], row["accepted"]) \
            if row["kind"] == "vqa" else float(row["exact"])
    row["correct"] = row["correct_uncalibrated"] = row["score"] >= 0.5
    return row


def texts_by_language(rows: Sequence[Row]) -> dict[str, list[str]]:
    """What the items themselves say in each language: options and references."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        found.setdefault(row["language"], {}).update(dict.fromkeys([*row["options"], *row["references"]]))
    return {language: list(texts) for language, texts in found.items()}


def metrics(rows: Sequence[Row], identifier: score.LanguageIdentifier | None = None) -> list[dict[str, Any]]:
    """All metrics per subset, task, language and slice, of judged rows.

    Choice: `accuracy` (summed log-probability minus that on a blank image), the same without a look at the blank image
    as it is, per token and per character (`accuracy_sum`, `accuracy_token`, `accuracy_character`), and
    `accuracy_blank`, the blank image alone: what can be had without seeing. Free answers: `exact`, `chrf` (mean over
    items), `chrf_corpus`, `language` (share in the asked language, or in words that several languages share) and
    `language_reference`, the same measured on the right answers: what the identifier can reach. VQA: `vqa_accuracy`
    as well; yes or no: `accuracy` and `balanced_accuracy`. All: `errors`, and `unscored` where there are open
    questions: `exact` and `chrf` are means over the others then, and absent where there is no other."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["subset"], row["task"], row["language"]), []).append(row)
    found = []
    for (subset, task, language), group in sorted(groups.items()):
        for name, belongs in SLICES.items():
            part = [row for row in group if belongs(row)]
            if not part or (name != "all" and len(part) == len(group)):
                continue
            closed = [row for row in part if not _is_open(row)]
            if part[0]["kind"] == "choice":
                measured = [(closed, _choice(closed))]
            else:
                measured = [(closed, _matched(closed, name)), (part, _spoken(part, language, identifier, name))]
            for counted, values in [*measured, (part, _unmeasured(part, closed))]:
                found += [{"benchmark": task, "subset": subset, "language": language, "metric": metric, "slice": name,
                           "value": value, "n": len(counted)} for metric, value in values.items()]
    return found


def _choice(rows: list[Row]) -> dict[str, float]:
    values = {"accuracy": _share(rows, lambda row: row["correct"])}
    for normalisation in score.NORMALISATIONS:
        values[f"accuracy_{normalisation}"] = _share(rows, lambda row, by=normalisation: row["answer"] == score.choose(
            row["scores"], None, row["tokens"], [len(option) for option in row["options"]], by))
    if any(row["scores_blank"] for row in rows):
        values["accuracy_blank"] = _share(rows, lambda row: row["answer"] == score.choose(row["scores_blank"]))
    return values


def _unmeasured(rows: list[Row], closed: list[Row]) -> dict[str, float]:
    """How many items failed, and how many are open."""
    unscored = {"unscored": float(len(rows) - len(closed))} if len(closed) < len(rows) else {}
    return {**unscored, "errors": float(sum(row["status"] != "ok" for row in rows))}


def _matched(rows: list[Row], part: str) -> dict[str, float]:
    """How free answers compare with the right ones; nothing where all questions are open."""
    if not rows:
        return {}
    answered = [row for row in rows if row["references"]]
    if rows[0]["kind"] == "yes_no":
        said = [row["predicted"] if row["status"] == "ok" and row["predicted"] >= 0 else None for row in rows]
        values = {"accuracy": _share(rows, lambda row: row["exact"]),
                  "balanced_accuracy": score.balanced_accuracy([row["answer"] for row in rows], said)}
    else:
        values = {"exact": _share(rows, lambda row: row["exact"]), "chrf": sum(row["chrf"] for row in rows) / len(rows)}
        if rows[0]["kind"] == "vqa":
            values["vqa_accuracy"] = sum(row["score"] for row in rows) / len(rows)
    if answered and part == "all":
        values["chrf_corpus"] = score.corpus_chrf([row["prediction"] for row in answered],
                                                  [row["references"] for row in answered])
    return values


def _spoken(rows: list[Row], language: str, identifier: score.LanguageIdentifier | None, part: str) -> dict[str, float]:
    """Which language the answers are in, whatever they say."""
    if identifier is None:
        return {}
    values = {"language": _share(rows, lambda row: row["language_detected"] in (language, "both"))}
    answered = [row["references"][0] for row in rows if row["references"]]
    if part == "all" and answered:
        hits = sum(identifier.identify(one, one, language) in (language, "both") for one in answered)
        values["language_reference"] = hits / len(answered)
    return values


def _share(rows: list[Row], right: Callable[[Row], bool]) -> float:
    return sum(row["status"] == "ok" and right(row) for row in rows) / len(rows)
