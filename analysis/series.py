"""Curves over the ratio as plain numbers: what a figure draws and a table prints, from the same estimates."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.estimates import Estimates
from analysis.study import Study, balanced


@dataclass
class Line:
    """One curve. x: realised ratios; mean, low, high: scores with 95 % intervals over items and runs, all (R,)."""

    label: str
    role: int                        # position among its like: picks colour, marker and line style
    levels: list[float]
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def line(study: Study, estimates: Estimates | None, label: str, role: int, fixed: dict[str, Any]) -> Line | None:
    """The curve over the ratio with some axes held at a level and the others averaged in balance."""
    if estimates is None:
        return None
    axis = study.questions.ratio_axis
    keep = np.ones(len(estimates.conditions), bool)
    for name, level in fixed.items():
        keep &= (estimates.conditions[name].astype(str) == str(level)).to_numpy()
    levels = [level for level in study.levels(axis)
              if (keep & (estimates.conditions[axis] == level).to_numpy()).any()]
    weights = balanced(estimates.conditions, axis, levels, keep) if levels else None
    if weights is None:
        return None
    contrasts = estimates.contrasts(weights)
    bounds = np.array([c.interval() for c in contrasts])
    return Line(label, role, levels, np.array([study.realised(level) for level in levels]),
                np.array([c.effect for c in contrasts]), bounds[:, 0], bounds[:, 1])


def lines(study: Study, estimates: Estimates | None, axis: str, levels: list[Any], names: dict[Any, str],
          fixed: dict[str, Any] | None = None) -> list[Line]:
    """One curve per level of `axis`; a single curve over everything where the study lacks the axis."""
    if estimates is None or axis not in estimates.conditions:
        one = line(study, estimates, "all runs", 0, fixed or {})
        return [one] if one else []
    made = [line(study, estimates, names.get(level, str(level)), role, {**(fixed or {}), axis: level})
            for role, level in enumerate(levels)]
    return [one for one in made if one is not None]


def text_names(study: Study) -> dict[str, str]:
    """What people read for the levels of the text-only axis."""
    words = {"none": "no text-only data", "control": f"{study.base} text-only", "target": f"{study.target} text-only"}
    return {level: words[role] for role, level in study.questions.text_only.items() if role in words}


def backbone_names(study: Study) -> dict[str, str]:
    named = dict(zip(study.questions.backbone, ("", f" ({study.target}-adapted)"), strict=False))
    return {level: f"{level}{note}" for level, note in named.items()}
