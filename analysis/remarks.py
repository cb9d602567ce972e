"""What the sections of a report say beside the three answers: each function gives the sentences of one section, none
where the study has nothing to say there. Scores are shares; words speak of percentage points."""
from __future__ import annotations

import math

from analysis.amount import amount
from analysis.estimates import Contrast, Estimates
from analysis.study import Study, balanced
from analysis.wording import interval, number, percent, points


def transfer(study: Study) -> list[str]:
    """What concepts without any target-language text gain at the highest ratio, in a sentence."""
    q = study.questions
    ends = [_ends(study, study.estimates(q.target_language, group=group)) for group in ("A", "B")]
    if any(one is None for one in ends):
        return []
    seen, unseen = ends
    low, high = unseen.interval()
    share = f", {percent(unseen.effect / seen.effect)} of that," if low > 0 and seen.interval()[0] > 0 else ""
    return [f"From the lowest to the highest ratio the score changes by {points(seen.effect, True)} points "
            f"{interval(*seen.interval(), True)} on concepts that were named in {study.target} in training, and by "
            f"{points(unseen.effect, True)} {interval(low, high, True)}{share} on concepts that never were."
            f"{_measurable(unseen)}"]


def loss(study: Study) -> list[str]:
    """What the base language loses over the whole range of ratios, in a sentence."""
    found = _ends(study, study.estimates(study.questions.base_language))
    if found is None:
        return []
    return [f"From the lowest to the highest {study.target} ratio the {study.base} score changes by "
            f"{points(found.effect, True)} points {interval(*found.interval(), True)}.{_measurable(found)}"]


def floor(study: Study, guess: float | None) -> list[str]:
    """What the reference backbone scores without any target-language image-text data, beside what guessing gives: of
    all concepts, and of those whose names are less and less alike. Empty for a study without ratio 0 or options."""
    q, found = study.questions, []
    none = study.levels(study.questions.ratio_axis)[:1]
    for limit in study.limits() if guess is not None and none == [0] else ():
        estimates = study.estimates(q.target_language, less_alike=limit)
        weights = None if estimates is None else \
            balanced(estimates.conditions, q.ratio_axis, none, study.plain(estimates.conditions))
        if weights is not None:
            score = estimates.contrast(weights[0])
            low, high = score.interval()
            against = "more than guessing" if low > guess else "less than guessing" if high < guess else \
                "within noise of guessing" if math.isfinite(low) else "with an unknown spread of runs"
            of = f"of those below {limit:g} chrF" if limit else f"of all concepts{f' of set {q.set}' * bool(q.set)}"
            found.append(f"{points(score.effect)} {interval(low, high)} {of}, {against}")
    who = f" {q.backbone[0]}" if q.backbone else ""
    return [f"Without any {study.target} image-text data, where guessing gives {points(guess)}, the score of{who} is "
            f"{'; '.join(found)}."] if found else []


def share_or_amount(study: Study) -> list[str]:
    """What twice the amount and twice the share do, each with the other held, in a sentence."""
    found = amount(study)
    if found is None:
        return []
    parts = [f"{points(one.effect, True)} points {interval(*one.interval(), True)}"
             for one in (found.by_amount, found.by_share)]
    return [f"Twice as many {study.target} samples at the same share: {parts[0]}. Twice the share with as many "
            f"{study.target} samples, that is with half of all data: {parts[1]}. Per doubling, from a straight line "
            "over the rows below."]


def completeness(study: Study) -> list[str]:
    """Whether runs are missing, and how many items failed, in plain words."""
    scores, missing, others = study.collected.scores, len(study.collected.missing), study.collected.left_out
    dropped, lacking = study.uncommon()
    failed = int(scores.loc[(scores["metric"] == "errors") & (scores["slice"] == "all"), "value"].sum())
    return [f"{missing} runs are not done." if missing else "Nothing: every run of the grid is done.",
            f"{number(failed)} items failed; each counts as wrong." if failed else "No evaluation item failed.",
            *([f"{number(dropped)} items of {study.questions.benchmark} were left out, since not every run was asked "
               f"them; these were not: {_some(lacking)}."] if dropped else []),
            *([f"{number(len(others))} evaluations were left out, since the grid wants others in their place (other "
               f"settings, other data): {_some([run.id for run in others])}."]
              if others else [])]


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def _measurable(contrast: Contrast) -> str:
    low, high = contrast.interval()
    return " With an interval that holds 0, this may be no change at all." if low <= 0 <= high else ""


def _ends(study: Study, estimates: Estimates | None) -> Contrast | None:
    """The highest ratio against the lowest."""
    axis = study.questions.ratio_axis
    levels = study.levels(axis)
    if estimates is None or len(levels) < 2:
        return None
    weights = balanced(estimates.conditions, axis, [levels[0], levels[-1]])
    return None if weights is None else estimates.contrast(weights[1] - weights[0])
