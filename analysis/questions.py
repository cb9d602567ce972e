"""What a study asks, declared before it is run: the section `analysis` of its grid, with defaults.

    analysis:
      benchmark: naming          # the score that decides; others are reported beside it
      subsets: [eval-emojione]   # default: every subset whose name does not hold "dev"
      set: A                     # concepts that may appear with target-language text; "" means all
      less_alike: 20             # concepts whose names in the two languages have less chrF in common; 0 means all
      margin: 0.03               # a difference of scores that would not matter
      claim: 0.2                 # the ratio that is claimed to be enough
      alpha: 0.05                # family-wise error over all questions and looks
      looks: 4                   # how often the data may be looked at: once, and after each `begira next`
      target_language: ${data.target}    # default: the one other language of the evaluations
      backbone: [llama, latxa]   # reference, adapted
      text_only: {none: none, control: english, target: target}

Nothing here reads a run. Levels that the study does not have leave their question unanswered, and the report says
so."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from core.errors import UserError


@dataclass
class Questions:
    benchmark: str = "naming"
    subsets: list[str] = field(default_factory=list)
    set: str = "A"
    less_alike: float = 0.0
    measure: str = "score"           # score (right or wrong, or a share of it) | chrf
    margin: float = 0.03
    claim: float = 0.2
    alpha: float = 0.05
    looks: int = 4
    base_language: str = "en"
    target_language: str = ""
    ratio_axis: str = "target_ratio"
    backbone_axis: str = "backbone"
    backbone: list[str] = field(default_factory=list)
    text_axis: str = "text_only"
    text_only: dict[str, str] = field(default_factory=dict)
    seed_axis: str = "seed"

    def level(self, hypotheses: int = 1) -> float:
        """One-sided level of a test at one look, where Holm's procedure has that many hypotheses left."""
        return nominal_level(self.alpha / hypotheses, self.looks)


_DEFAULTS = Questions()
_KINDS = {str: "a text", list: "a list in [ ]", dict: "names and levels in { }", float: "a number",
          int: "a whole number"}


@lru_cache(maxsize=64)
def nominal_level(alpha: float, looks: int) -> float:
    """Level at each of `looks` equally spaced looks that keeps the error over all of them at `alpha`, one-sided
    (Pocock 1977). Fewer looks, or a larger first one, leave the error below it."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri

    if looks == 1:
        return alpha
    grid = np.linspace(-8 * np.sqrt(looks), 8 * np.sqrt(looks), 801)
    step = grid[1] - grid[0]
    kernel = np.exp(-np.square(grid[:, None] - grid) / 2) / np.sqrt(2 * np.pi) * step

    def error(bound: float) -> float:
        density = np.exp(-np.square(grid) / 2) / np.sqrt(2 * np.pi)
        crossed = 0.0
        for look in range(1, looks + 1):
            beyond = np.clip((grid - bound * np.sqrt(look)) / step + 0.5, 0, 1)  # share of a cell past the bound
            crossed += float((density * beyond).sum() * step)
            density = kernel @ (density * (1 - beyond))
        return crossed - alpha

    return float(ndtr(-brentq(error, ndtri(1 - alpha), ndtri(1 - alpha / looks), xtol=1e-6)))


def declared(grid: Mapping[str, Any] | None) -> Questions:
    """The section `analysis` of a grid document over the defaults. Raises UserError for an unknown key or bad value."""
    section = dict((grid or {}).get("analysis") or {})
    known = {item.name: item for item in fields(Questions)}
    for key in section:
        if key not in known:
            raise UserError(f"analysis.{key}: unknown key, choose from {', '.join(known)}")
    questions = Questions(**section)
    for key in known:
        value, kind = getattr(questions, key), type(getattr(_DEFAULTS, key))
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise UserError(f"analysis.{key} is {value!r}: give {_KINDS[kind]}")
    for key in ("margin", "alpha"):
        _within(key, getattr(questions, key), 0 < getattr(questions, key) < 1, "a number between 0 and 1")
    _within("claim", questions.claim, 0 <= questions.claim <= 1, "a ratio from 0 to 1")
    _within("less_alike", questions.less_alike, 0 <= questions.less_alike <= 100, "a chrF from 0 (all names) to 100")
    _within("looks", questions.looks, questions.looks >= 1, "1 or more")
    _within("measure", questions.measure, questions.measure in ("score", "chrf"), "score or chrf")
    roles = ("none", "control", "target")
    _within("text_only", questions.text_only, set(questions.text_only) <= set(roles), f"levels for {', '.join(roles)}")
    return questions


def _within(key: str, value: Any, good: bool, wanted: str) -> None:
    if not good:
        raise UserError(f"analysis.{key} is {value}: give {wanted}")


def settled(questions: Questions, languages: Iterable[str], levels: Mapping[str, Iterable[Any]]) -> Questions:
    """The declaration with what it left open filled from the data: target language, backbones, roles of text-only.

    Raises UserError where the languages that were asked in leave no target, or more than one to choose from."""
    from dataclasses import replace

    backbones = questions.backbone or _ordered(levels.get(questions.backbone_axis, ()), ("llama", "base", "none"))
    text = questions.text_only or _roles(levels.get(questions.text_axis, ()))
    return replace(questions, target_language=_target(questions, sorted(languages)),
                   backbone=[str(name) for name in backbones], text_only={k: str(v) for k, v in text.items()})


def _target(questions: Questions, languages: list[str]) -> str:
    declared, asked = questions.target_language, ", ".join(languages)
    others = [language for language in languages if language != questions.base_language]
    if declared and declared not in languages:
        raise UserError(f"analysis.target_language is {declared}, but the evaluations asked in {asked}: add it to "
                        "their `languages`, or declare another")
    if not declared and len(others) != 1:
        raise UserError(f"the evaluations asked in {asked}, which leaves {'several' if others else 'no'} languages "
                        f"beside the base language {questions.base_language}: set analysis.target_language"
                        f"{'' if others else ' and evaluate in it'}")
    return declared or others[0]


def _ordered(levels: Iterable[Any], first: tuple[str, ...]) -> list[Any]:
    return sorted(levels, key=lambda level: (level not in first, str(level)))


def _roles(levels: Iterable[Any]) -> dict[str, Any]:
    """Which text-only level plays which role, by the names that the mixture uses."""
    words = {"none": ("none", "no"), "control": ("english", "base", "en", "control"), "target": ("target",)}
    levels = list(levels)
    return {role: next(level for level in levels if str(level) in names)
            for role, names in words.items() if any(str(level) in names for level in levels)}
