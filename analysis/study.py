"""A collected study as the questions see it: estimates of one score in one language, and balanced weights over
conditions.

Built once per report; answers, tables and figures take their numbers from here, so they cannot disagree."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.collect import Collected
from analysis.estimates import Estimates, estimate
from analysis.items import Items, load_items
from analysis.names import language_name
from analysis.questions import Questions, settled
from analysis.stores import Stored, place
from core.errors import UserError
from core.summary import LESS_ALIKE

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Study:
    collected: Collected
    questions: Questions
    axes: list[str]                                    # axes of the evaluations without the seed
    runs: pd.DataFrame                                 # index: run id; columns: axes and the seed
    loaded: dict[str, Items] = field(repr=False)       # by measure
    _estimates: dict[tuple, Estimates | None] = field(default_factory=dict, repr=False)

    @property
    def target(self) -> str:
        return language_name(self.questions.target_language)

    @property
    def base(self) -> str:
        return language_name(self.questions.base_language)

    def items(self, measure: str) -> Items:
        return self.loaded[measure]

    def select(self, items: Items, benchmark: str | None = None, language: str | None = None, group: str = "",
               subsets: list[str] | None = None, less_alike: float = 0.0) -> np.ndarray:
        """Mask of items (items,). `group` is the concept set; `subsets` default to all that are not for development;
        `less_alike`: if not 0, only items whose names in the two languages are less alike than this chrF."""
        frame = items.described
        mask = np.isin(frame["subset"], self.subsets(items) if subsets is None else subsets)
        for column, wanted in (("task", benchmark), ("language", language), ("set", group)):
            if wanted and column in frame:
                mask &= (frame[column] == wanted).to_numpy()
        if less_alike:  # false where it is not known
            mask &= frame["likeness"].to_numpy(float) < less_alike if "likeness" in frame else False
        return mask

    def subsets(self, items: Items) -> list[str]:
        """The declared subsets (with or without their data set's name), or all whose name does not hold "dev"."""
        wanted = self.questions.subsets
        return [name for name in sorted(set(items.described["subset"]))
                if (name in wanted or name.rpartition("/")[2] in wanted if wanted else "dev" not in name)]

    def estimates(self, language: str, benchmark: str | None = None, group: str | None = None,
                  measure: str | None = None, subsets: tuple[str, ...] | None = None,
                  less_alike: float | None = None) -> Estimates | None:
        """Estimates of a score over all conditions, by default the one that decides; None where nobody was asked."""
        q = self.questions
        key = (language, benchmark or q.benchmark, q.set if group is None else group, measure or q.measure, subsets,
               q.less_alike if less_alike is None else less_alike)
        if key not in self._estimates:
            items = self.items(key[3])
            mask = self.select(items, key[1], language, key[2], None if subsets is None else list(subsets), key[5])
            self._estimates[key] = self._estimate(items.only(mask))
        return self._estimates[key]

    def limits(self) -> list[float]:
        """0 for all concepts, then the limits of likeness that scores are shown below, the largest first."""
        return [0.0, *sorted({*LESS_ALIKE.values(), self.questions.less_alike} - {0}, reverse=True)]

    def asked(self) -> int:
        """How many items the deciding score counts: those that every run was asked."""
        return self._deciding().complete().score.shape[1]

    def uncommon(self) -> tuple[int, list[str]]:
        """Deciding items that some run was not asked, which no score counts, and the ids of the runs that lack any."""
        missing = np.isnan(self._deciding().score)
        rows = np.flatnonzero(missing.any(axis=1))
        return int(missing.any(axis=0).sum()), [self._deciding().runs[row] for row in rows]

    def _deciding(self) -> Items:
        q, items = self.questions, self.items(self.questions.measure)
        mask = self.select(items, q.benchmark, q.target_language, q.set, less_alike=q.less_alike)
        return items.only(mask).asked()

    def which(self, group: str | None = None) -> str:
        """The items that decide, in words; "" if they are all. `group`: of another concept set, "" for any."""
        q = self.questions
        group = q.set if group is None else group
        words = [f"concept set {group}"] * bool(group) + [f"names with less than {q.less_alike:g} chrF in common"] \
            * bool(q.less_alike)
        return "; ".join(words)

    def _estimate(self, items: Items) -> Estimates | None:
        items = items.asked().complete()
        if not items.runs or items.score.shape[1] < 2:
            return None
        return estimate(items.score, self.runs.loc[items.runs], items.clusters(), self.questions.seed_axis)

    def realised(self, level: Any) -> float:
        """Mean realised ratio of the runs with that level of the ratio axis."""
        scores, axis = self.collected.scores, self.questions.ratio_axis
        column = scores.get("realised_ratio_sample")
        if column is None:
            return float(level)
        value = column[scores[axis] == level].dropna().mean()
        return float(level) if np.isnan(value) else float(value)

    def plain(self, conditions: pd.DataFrame) -> np.ndarray:
        """Mask (conditions,): those with the reference backbone and without text-only data."""
        q = self.questions
        keep = np.ones(len(conditions), bool)
        for axis, level in ((q.backbone_axis, q.backbone[0] if q.backbone else None),
                            (q.text_axis, q.text_only.get("none"))):
            if axis in conditions and level is not None:
                keep &= (conditions[axis].astype(str) == str(level)).to_numpy()
        return keep

    def levels(self, axis: str) -> list[Any]:
        if axis not in self.runs:
            return []
        return sorted(self.runs[axis].dropna().unique().tolist(), key=lambda v: (isinstance(v, str), v))


def study_of(collected: Collected, questions: Questions) -> Study:
    """Raises UserError if no evaluation has finished, or if the declaration needs what no item has."""
    import pandas as pd

    done = [run for run in collected.runs if run.is_evaluation and run.done]
    _once_each(done)
    if not done:
        raise UserError("no evaluation of this study is done yet: `begira status GRID` shows how far it is")
    runs = pd.DataFrame([{axis: run.axes.get(axis) for axis in collected.axes} for run in done],
                        index=[run.id for run in done], columns=collected.axes)
    languages = sorted(set(collected.scores["language"].dropna())) if len(collected.scores) else []
    levels = {axis: runs[axis].dropna().unique().tolist() for axis in collected.axes}
    questions = settled(questions, languages, levels)
    axes = [axis for axis in collected.axes if axis != questions.seed_axis]
    loaded = load_items(done)
    tasks = sorted(set(loaded[questions.measure].described["task"]))
    if questions.benchmark not in tasks:
        raise UserError(f"analysis.benchmark is {questions.benchmark}, which no evaluation asked: choose "
                        f"{', '.join(tasks)}")
    likeness = loaded[questions.measure].described.get("likeness")
    if questions.less_alike and (likeness is None or likeness.isna().all()):
        raise UserError(f"analysis.less_alike is {questions.less_alike:g}, but no item says how alike its names in the "
                        "two languages are: leave the key out, or give the data's items a `likeness` in `meta`")
    return Study(collected, questions, axes, runs, loaded)


def _once_each(done: list[Stored]) -> None:
    """Two evaluations of one point would pass for replicates that they are not. Raises UserError."""
    seen: dict[Any, Stored] = {}
    for run in done:
        other = seen.setdefault(place(run), run)
        if other is not run:
            raise UserError(f"{other.path} and {run.path} are evaluations of one point of the grid ({run.name}) under "
                            "different settings or data: move away the one that the study is not about")


def balanced(conditions: pd.DataFrame, axis: str, levels: list[Any],
             keep: np.ndarray | None = None) -> np.ndarray | None:
    """Weights (levels, conditions): for each level the mean over those combinations of the other axes that all levels
    have. `keep` (conditions,) restricts the conditions. None if no combination is complete."""
    if axis not in conditions:
        return None
    keep = np.ones(len(conditions), bool) if keep is None else keep
    texts = {name: [str(value) for value in conditions[name].tolist()] for name in conditions.columns}
    others = [values for name, values in texts.items() if name != axis]
    rest = np.array(["|".join(row) for row in zip(*others, strict=True)] if others else [""] * len(conditions))
    of_level = [keep & np.array([text == str(level) for text in texts[axis]]) for level in levels]
    common = set.intersection(*(set(rest[mask]) for mask in of_level)) if levels else set()
    if not common:
        return None
    shared = np.isin(rest, list(common))
    return np.array([(mask & shared) / (mask & shared).sum() for mask in of_level])


def covered(conditions: pd.DataFrame, weights: np.ndarray, axis: str) -> str:
    """Levels of the axes beside `axis` in the conditions that `weights` (..., conditions) use, in words."""
    used = conditions[(np.abs(np.atleast_2d(weights)) > 1e-12).any(axis=0)]
    return "; ".join(f"{name.replace('_', ' ')} {', '.join(map(str, dict.fromkeys(used[name])))}"
                     for name in conditions.columns if name != axis)
