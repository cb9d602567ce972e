"""The three questions, answered "yes", "no" or "not decided" with effect, interval and what would decide it.

Each question has two hypotheses to refute, one for "yes" and one for "no"; at most one of them is true. Holm's
procedure over the questions at `Questions.level` therefore keeps the probability of any wrong answer, in the whole
study and over all declared looks at the data, below `alpha`.

    ratio      yes: the claimed ratio is less than the margin below every other; no: it is more than the margin below
    backbone   yes: the backbones differ by less than the margin, both ways (two one-sided tests); no: by more
    text_only  yes: text in the target language helps more than as many steps of text in English; no: by less than the
               margin, if at all"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.estimates import Contrast, Estimates
from analysis.questions import Questions
from analysis.ratio import Curve, curve
from analysis.resampling import sign_flip_p
from analysis.study import Study, balanced

POWER = 0.8
MOST_SEEDS = 50


@dataclass
class Answer:
    """effect, low, high: the contrast and its 95 % interval. inside: (low, high) bounds between which lies "yes"; for
    text_only "yes" lies above the first. weights (C,): the contrast over conditions, for `analysis.further`."""

    key: str
    verdict: str = "not decided"
    effect: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    inside: tuple[float, float] = (float("nan"), float("nan"))
    p: float = float("nan")
    needed: float = float("nan")            # what p had to be at most
    leaning: str = ""                       # what the smaller p speaks for
    further_seeds: int | None = None        # per condition of the contrast; None: seeds cannot decide it
    reason: str = ""                        # why it is not decided, where the data are not the reason
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    contrast: Contrast | None = None
    seeds: float = 0.0                      # runs per condition so far
    bootstrap: tuple[float, float] = (float("nan"), float("nan"))
    permutation_p: float = float("nan")     # sign flips over items, against no effect
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answers:
    ratio: Answer
    backbone: Answer
    text_only: Answer
    curve: Curve | None
    estimates: Estimates | None

    def all(self) -> list[Answer]:
        return [self.ratio, self.backbone, self.text_only]


def answer(study: Study, seed: int = 0, resample: bool = True) -> Answers:
    """All three answers from the score that decides. `seed` of the resampling that accompanies them."""
    estimates = study.estimates(study.questions.target_language)
    if estimates is None:
        what = f"{study.questions.benchmark} in {study.target}"
        reason = f"no item of {what} was asked of every run" if study.uncommon()[0] else \
            f"no finished evaluation of {what}" + f" ({study.which()})" * bool(study.which())
        return Answers(*(Answer(key, reason=reason) for key in ("ratio", "backbone", "text_only")), None, None)
    ratio, fitted = _ratio(study, estimates)
    answers = Answers(ratio, _backbone(study, estimates), _text_only(study, estimates), fitted, estimates)
    _decide(answers, study.questions, estimates)
    if resample:
        _resample(answers, estimates, np.random.default_rng(seed))
    return answers


def _ratio(study: Study, estimates: Estimates) -> tuple[Answer, Curve | None]:
    q = study.questions
    levels = [level for level in study.levels(q.ratio_axis) if isinstance(level, (int, float))]
    weights = balanced(estimates.conditions, q.ratio_axis, levels)
    if len(levels) < 2 or weights is None:
        reason = f"fewer than two values of {q.ratio_axis} were run in the same combinations"
        return Answer("ratio", reason=reason), None
    position = np.array([study.realised(level) for level in levels])
    fitted = curve(estimates, weights, np.array(levels, float), position, q.margin)
    claim = int(np.argmin(np.abs(fitted.levels - q.claim)))
    if abs(fitted.levels[claim] - q.claim) > 0.05:
        return Answer("ratio", reason=f"no ratio near {q.claim:g} was run, which is what the study claims"), fitted
    best = fitted.best if fitted.best != claim else int(np.argmax(np.delete(fitted.mean, claim)))
    best += best >= claim and fitted.best == claim
    contrast = weights[best] - weights[claim]
    found = _filled("ratio", estimates, contrast, (-np.inf, q.margin), fitted.enough_p[claim], fitted.lacking_p[claim])
    found.details = {"claim": float(fitted.levels[claim]), "best": float(fitted.levels[best]), "curve": fitted}
    return found, fitted


def _backbone(study: Study, estimates: Estimates) -> Answer:
    q = study.questions
    if len(q.backbone) != 2:
        return Answer("backbone", reason=f"backbones in the study: {len(q.backbone)}; the question needs two")
    weights = balanced(estimates.conditions, q.backbone_axis, q.backbone, _above_zero(study, estimates))
    if weights is None:
        return Answer("backbone", reason=_apart(study, q.backbone_axis, q.backbone, "backbones"))
    w = weights[1] - weights[0]
    c = estimates.contrast(w)
    yes = max(c.p_below(q.margin), c.p_above(-q.margin))
    no = min(c.p_above(q.margin), c.p_below(-q.margin))
    found = _filled("backbone", estimates, w, (-q.margin, q.margin), yes, no)
    found.details = {"per_ratio": _per_ratio(study, estimates, q.backbone_axis, q.backbone)}
    return found


def _text_only(study: Study, estimates: Estimates) -> Answer:
    q = study.questions
    roles = q.text_only
    if "target" not in roles or not {"control", "none"} & set(roles):
        return Answer("text_only", reason=f"{q.text_axis} has no level for {study.target} and one to compare it with")
    against = "control" if "control" in roles else "none"
    keep = _above_zero(study, estimates)
    weights = balanced(estimates.conditions, q.text_axis, [roles[against], roles["target"]], keep)
    if weights is None:
        return Answer("text_only", reason=_apart(study, q.text_axis, [roles[against], roles["target"]],
                                                 "text-only levels"))
    w = weights[1] - weights[0]
    c = estimates.contrast(w)
    found = _filled("text_only", estimates, w, (0.0, q.margin), c.p_above(0.0), c.p_below(q.margin))
    found.details = {"against": against,
                     "per_ratio": _per_ratio(study, estimates, q.text_axis, [roles[against], roles["target"]])}
    if against == "control" and "none" in roles:
        plain = balanced(estimates.conditions, q.text_axis, [roles["none"], roles["target"]], keep)
        found.details["against_none"] = None if plain is None else estimates.contrast(plain[1] - plain[0])
    return found


def _apart(study: Study, axis: str, levels: list[str], what: str) -> str:
    """Why these levels cannot be compared: one that was never run (or is mistyped), or no combination in common."""
    run = {str(level) for level in study.levels(axis)}
    lacking = [level for level in levels if level not in run]
    return f"no run with {axis} {' or '.join(lacking)} is done" if lacking else \
        f"the {what} were not run in the same combinations"


def _above_zero(study: Study, estimates: Estimates) -> np.ndarray:
    """Conditions with some target-language data: without any, the score is chance and no treatment can show."""
    axis = study.questions.ratio_axis
    if axis not in estimates.conditions or study.levels(axis) == [0]:
        return np.ones(len(estimates.conditions), bool)
    return (estimates.conditions[axis].astype(float) > 0).to_numpy()


def _per_ratio(study: Study, estimates: Estimates, axis: str, pair: list[str]) -> list[dict[str, Any]]:
    rows = []
    for level in study.levels(study.questions.ratio_axis):
        keep = (estimates.conditions[study.questions.ratio_axis] == level).to_numpy()
        weights = balanced(estimates.conditions, axis, pair, keep)
        if weights is not None:
            rows.append({"ratio": level, "contrast": estimates.contrast(weights[1] - weights[0])})
    return rows


def _filled(key: str, estimates: Estimates, weights: np.ndarray, inside: tuple[float, float], yes: float,
            no: float) -> Answer:
    contrast = estimates.contrast(weights)
    low, high = contrast.interval()
    used = np.abs(weights) > 1e-12
    return Answer(key, effect=contrast.effect, low=low, high=high, inside=inside, p=min(yes, no),
                  leaning="yes" if yes <= no else "no", weights=weights, contrast=contrast,
                  seeds=float(estimates.count[used].mean()))


def _decide(answers: Answers, questions: Questions, estimates: Estimates) -> None:
    """Holm's step-down procedure: the smallest p first, against the level for all questions that are left."""
    asked = sorted((one for one in answers.all() if one.contrast is not None), key=lambda one: one.p)
    going = True
    for number, one in enumerate(asked):
        one.needed = questions.level(len(asked) - number)
        going = going and one.p <= one.needed
        if going:
            one.verdict = one.leaning
    open_ones = [one for one in asked if one.verdict == "not decided"]
    for one in open_ones:
        if estimates.spread == "none":
            one.further_seeds, one.reason = 1, "with one run per condition nothing is known about how runs differ"
        else:
            one.further_seeds = further_seeds(one, questions.level(len(open_ones)))


def further_seeds(found: Answer, level: float, power: float = POWER) -> int | None:
    """Seeds to add to every condition of the contrast so that an effect as large as the estimated one is decided with
    that power; None if no number up to MOST_SEEDS is enough (the items limit it, or the effect lies on a bound)."""
    from scipy.special import stdtrit

    c = found.contrast
    bounds = [bound for bound in found.inside if np.isfinite(bound)]
    nearest = max if found.key == "text_only" else min  # text_only: each bound decides from its own side
    distance = nearest(abs(c.effect - bound) for bound in bounds)
    conditions = int((np.abs(found.weights) > 1e-12).sum())
    for more in range(1, MOST_SEEDS + 1):
        error = np.sqrt(c.fixed + c.seeds * found.seeds / (found.seeds + more))
        df = max(c.df, 1.0) + conditions * more
        if distance >= (stdtrit(df, 1 - level) + stdtrit(df, power)) * error:
            return more
    return None


def _resample(answers: Answers, estimates: Estimates, rng: np.random.Generator) -> None:
    """A bootstrap interval and a permutation p beside each contrast: they share no formula with it."""
    asked = [one for one in answers.all() if one.contrast is not None]
    draws = estimates.draws(2000, rng) if asked and estimates.spread != "none" else None
    for one in asked:
        if draws is not None:
            one.bootstrap = tuple(float(v) for v in np.quantile(draws @ one.weights, [0.025, 0.975]))
        one.permutation_p = sign_flip_p(one.weights @ estimates.by_item, rng)
