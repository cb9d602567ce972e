"""From raw answers to judged items and metrics: which option won, whether it was right, how near a free answer came.

Pure functions over rows (see core.examiner.describe). Every item counts in every denominator; one that failed counts as
wrong. A metric is {"benchmark", "subset", "language", "metric", "slice", "value", "n"}.
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


def judge(rows: Sequence[Row], blank: Mapping[tuple[str, str], float], identifier: score.LanguageIdentifier | None
          ) -> list[Row]:
    """The rows with verdicts. blank: log-probability on a blank image by (prompt, option), empty if not measured."""
    return [_judged({**row, "predicted": -1, "correct": False, "correct_uncalibrated": False, "exact": False,
                     "chrf": 0.0, "score": 0.0, "language_detected": ""}, blank, identifier) for row in rows]


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
    as well; yes or no: `accuracy` and `balanced_accuracy`. All: `errors`."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["subset"], row["task"], row["language"]), []).append(row)
    found = []
    for (subset, task, language), group in sorted(groups.items()):
        for name, belongs in SLICES.items():
            part = [row for row in group if belongs(row)]
            if not part or (name != "all" and len(part) == len(group)):
                continue
            values = _choice(part) if part[0]["kind"] == "choice" else _free(part, language, identifier, name)
            found += [{"benchmark": task, "subset": subset, "language": language, "metric": metric, "slice": name,
                       "value": value, "n": len(part)} for metric, value in values.items()]
    return found


def _choice(rows: list[Row]) -> dict[str, float]:
    values = {"accuracy": _share(rows, lambda row: row["correct"])}
    for normalisation in score.NORMALISATIONS:
        values[f"accuracy_{normalisation}"] = _share(rows, lambda row, by=normalisation: row["answer"] == score.choose(
            row["scores"], None, row["tokens"], [len(option) for option in row["options"]], by))
    if any(row["scores_blank"] for row in rows):
        values["accuracy_blank"] = _share(rows, lambda row: row["answer"] == score.choose(row["scores_blank"]))
    return {**values, "errors": float(sum(row["status"] != "ok" for row in rows))}


def _free(rows: list[Row], language: str, identifier: score.LanguageIdentifier | None, part: str) -> dict[str, float]:
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
    if identifier is not None:
        values["language"] = _share(rows, lambda row: row["language_detected"] in (language, "both"))
        if part == "all" and answered:
            hits = sum(identifier.identify(row["references"][0], row["references"][0], language) in (language, "both")
                       for row in answered)
            values["language_reference"] = hits / len(answered)
    return {**values, "errors": float(sum(row["status"] != "ok" for row in rows))}


def _share(rows: list[Row], right: Callable[[Row], bool]) -> float:
    return sum(row["status"] == "ok" and right(row) for row in rows) / len(rows)
