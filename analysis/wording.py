"""The answers in plain words, as the numbers have them. Scores are shares; words speak of percentage points.

Every sentence is built from the fields of an Answer: there is none that could be right for one study only."""
from __future__ import annotations

import math
from typing import Any

from analysis.answers import MOST_SEEDS, Answer, Answers
from analysis.study import Study


def percent(share: float) -> str:
    """A ratio as people write it: 20 %, 2.5 %, with a space that does not break."""
    return f"{share * 100:.3g}\u00a0%"


def points(value: float, sign: bool = False) -> str:
    text = f"{value * 100:+.1f}" if sign else f"{value * 100:.1f}"
    return text.replace("-", "−")


def interval(low: float, high: float, sign: bool = False) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "[unknown]"
    return f"[{points(low, sign)}, {points(high, sign)}]"


def study_question(study: Study) -> str:
    return (f"How much {study.target} image-text data, on which backbone, with how much text-only data, does a good "
            "multimodal LLM need?")


def question(study: Study, answers: Answers, one: Answer) -> str:
    if one.key == "ratio":
        claim = one.details.get("claim", study.questions.claim)
        return f"Is {percent(claim)} {study.target} image-text data enough?"
    if one.key == "backbone":
        if len(study.questions.backbone) != 2:
            return f"Is a plain backbone as good as a {study.target}-adapted one?"
        plain, adapted = study.questions.backbone
        return f"Is {plain} as good a backbone as {study.target}-adapted {adapted}?"
    return f"Does text-only {study.target} data help?"


def sentence(study: Study, answers: Answers, one: Answer) -> str:
    """What the numbers say, without the verdict's word."""
    if one.contrast is None:
        rest = f" {smallest(study, answers)}" if one.key == "ratio" and answers.curve is not None else ""
        return f"The data cannot say: {one.reason}.{rest}"
    return {"ratio": _ratio, "backbone": _backbone, "text_only": _text_only}[one.key](study, answers, one)


def _ratio(study: Study, answers: Answers, one: Answer) -> str:
    margin, claim, best = study.questions.margin, one.details["claim"], one.details["best"]
    side = "below" if one.effect >= 0 else "above"
    text = (f"At {percent(claim)} {study.target} the score is {points(abs(one.effect))} points {side} that at "
            f"{percent(best)}, the best other ratio {interval(one.low, one.high)}; up to {points(margin)} points would "
            "count as enough.")
    return f"{text} {smallest(study, answers)}"


def smallest(study: Study, answers: Answers) -> str:
    """The estimate of the smallest ratio that is enough, and the smallest one that was run and shown to be."""
    curve = answers.curve
    shown = _shown(study, answers)
    ran = (f"{percent(shown)} is the smallest ratio shown to be enough among those that were run" if shown is not None
           else "no ratio that was run is shown to be enough")
    if not all(map(math.isfinite, curve.interval)) or answers.estimates.spread == "none":
        return f"{ran.capitalize()}."
    low, high = curve.interval
    between = percent(low) if high - low < 5e-4 else f"{percent(low)} to {percent(high)}"
    fall = (" The curve falls again after its best ratio, so the estimate holds up to there only."
            if curve.falls_p <= 0.05 else "")
    below = max((level for level in curve.levels if level < curve.smallest), default=None)
    above = min((level for level in curve.levels if level >= curve.smallest), default=None)
    straight = ("By the fitted curve" if None in (below, above) or above - curve.smallest < 5e-4 else
                f"If the curve is straight between {percent(below)} and {percent(above)}, where nothing was run,")
    return f"{straight} {percent(curve.smallest)} would be enough (95 % interval {between}); {ran}.{fall}"


def _shown(study: Study, answers: Answers) -> float | None:
    """The smallest ratio shown to be enough at the level that the verdict needed: from the highest ratio downwards, up
    to the first that is not shown, so that several ratios need no further correction; of the claimed one the verdict
    itself."""
    one, found = answers.ratio, None
    needed = one.needed if math.isfinite(one.needed) else study.questions.level()
    for level, p in reversed(list(zip(answers.curve.levels, answers.curve.enough_p, strict=True))):
        if p > needed or (level == one.details.get("claim") and one.verdict != "yes"):
            break
        found = float(level)
    return found


def _backbone(study: Study, answers: Answers, one: Answer) -> str:
    plain, adapted = study.questions.backbone
    better = "better" if one.effect >= 0 else "worse"
    text = (f"{adapted} is {points(abs(one.effect))} points {better} in {study.target} than {plain} "
            f"{interval(one.low, one.high, True)}, averaged over all ratios above 0; differences of up to "
            f"{points(study.questions.margin)} points count as equal.")
    if one.verdict != "no" and (one.low > 0 or one.high < 0):
        text += " The difference is real (its interval excludes 0), " + (
            "but too small to matter." if one.verdict == "yes" else "but whether it is large enough to matter is open.")
    return text


def _text_only(study: Study, answers: Answers, one: Answer) -> str:
    control = one.details["against"] == "control"
    against = f"equally many steps on {study.base} text" if control else "no text-only data"
    size = points(abs(one.effect))
    change = "raises" if one.effect > 0 else "lowers"
    moved = f"leaves the {study.target} score where it is, to 0.1" if size == points(0.0) else \
        f"{change} the {study.target} score by {size}"
    text = f"Against {against}, {study.target} text {moved} points {interval(one.low, one.high, True)}."
    if one.verdict == "no":
        text += (" It does harm." if one.high < 0 else
                 f" A gain of {points(study.questions.margin)} points or more is ruled out.")
    if one.verdict == "yes" and one.high < study.questions.margin:
        text += f" The gain is real but less than {points(study.questions.margin)} points."
    plain = one.details.get("against_none")
    if plain is not None:
        text += f" Against no text-only data: {points(plain.effect, True)} {interval(*plain.interval(), True)}."
    return text


def outlook(one: Answer) -> str:
    """What would decide an open question; empty for a decided one."""
    if one.verdict != "not decided" or one.contrast is None:
        return ""
    if one.reason:
        return f"{one.reason.capitalize()}: a second seed would tell."
    alone = interval_alone(one)
    caution = (f"The interval alone would say {alone}; for several questions and looks together it is not clear "
               "enough. ") if alone else ""
    if one.further_seeds is None:
        return (f"{caution}Even {MOST_SEEDS} further seeds are not expected to decide it: the effect is too close to "
                "the bound for this many items.")
    seeds = "seed" if one.further_seeds == 1 else "seeds"
    return (f"{caution}About {one.further_seeds} further {seeds} per condition would decide it if the effect is as "
            "estimated.")


def interval_alone(one: Answer) -> str:
    """What the 95 % interval would say if it were the only one: "yes", "no" or nothing."""
    low, high = one.inside
    if one.key == "text_only":
        return "yes" if one.low > low else "no" if one.high < high else ""
    return "yes" if one.low > low and one.high < high else "no" if one.low > high or one.high < low else ""


def verdict(one: Answer) -> str:
    return {"yes": "Yes", "no": "No"}.get(one.verdict, "Not decided by this data")


def basis(study: Study, answers: Answers) -> str:
    """What the answers rest on, in one sentence."""
    q, estimates = study.questions, answers.estimates
    if estimates is None:
        return ""
    seeds = sorted(set(map(int, estimates.count)))
    of = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = {"replicates": "", "interactions": " With one run per condition, interactions between the axes stand in "
              "for the differences between runs.", "none": ""}[estimates.spread]
    group = f" ({study.which()})" if study.which() else ""
    return (f"{int(estimates.count.sum())} runs, {of} per condition, each scored on the same {study.asked()} items of "
            f"{q.benchmark}{group}. Intervals are 95 %, over items and runs. Verdicts keep the chance of any wrong one "
            f"in the study at {percent(q.alpha)}, over {q.looks} look{'s' if q.looks > 1 else ''} at the data.{spread}")


def realised(study: Study) -> str:
    """How far the realised ratios are from those asked for; empty where no training said."""
    scores, axis = study.collected.scores, study.questions.ratio_axis
    if "realised_ratio_sample" not in scores or axis not in scores:
        return ""
    off = (scores["realised_ratio_sample"] - scores[axis].astype(float)).abs().max()
    return f"Realised ratios differ from those asked for by at most {points(off)} points." if off == off else ""


def number(value: Any) -> str:
    """A count with thin spaces."""
    return f"{int(value):,}".replace(",", " ")
