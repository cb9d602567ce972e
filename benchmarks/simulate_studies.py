"""Simulated studies with known truth: do intervals cover, are wrong answers rare, does `begira next` save runs?

    python -m benchmarks.simulate_studies [--studies 1000] [--followed 400] [--write docs/statistics.md]

Each study is a full grid (5 ratios x 2 backbones x 3 text-only levels) whose answers are drawn item by item: items
differ in difficulty and in what they gain from the ratio, runs of one seed share something, and every run has its own
deviation. Nothing of the analysis is replaced; only the reading of files is skipped."""
from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from core.files import write_text

BEGIN, END = "<!-- begin simulate_studies -->", "<!-- end simulate_studies -->"

RATIOS = (0.0, 0.05, 0.2, 0.5, 1.0)
BACKBONES = ("llama", "latxa")
TEXTS = ("none", "english", "target")
MARGIN = 0.03
CURVES = {  # name: (score per ratio); the gap at 0.2 decides the first question
    "steep": (.27, .34, .45, .52, .60), "at the margin": (.27, .36, .55 - MARGIN - 1e-9, .545, .55),
    "saturated": (.27, .42, .545, .55, .55), "close": (.27, .40, .535, .55, .55)}


@dataclass
class World:
    """What is true of one simulated study, and its random effects (drawn once; more seeds may be added later)."""

    curve: str = "steep"
    adapted: float = 0.0
    text: float = 0.0
    concepts: int = 330
    styles: int = 2
    run: float = 0.012               # standard deviation between runs
    shared: float = 0.006            # standard deviation shared by runs of one seed
    item: float = 0.12               # small enough that chances stay between 0 and 1
    slope: float = 0.05              # items differ in what they gain at each ratio
    seed: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        concept = self.rng.normal(0, self.item * .8, self.concepts)
        own = self.rng.normal(0, self.item * .6, self.concepts * self.styles)
        self.difficulty = np.repeat(concept, self.styles) + own
        self.gain = self.rng.normal(0, self.slope, (len(RATIOS), len(self.difficulty)))
        self.of_seed: dict[int, float] = {}

    def chance(self, point: dict) -> float:
        return (CURVES[self.curve][RATIOS.index(point["target_ratio"])] + self.adapted * (point["backbone"] == "latxa")
                + self.text * (point["text_only"] == "target"))

    def draw(self, point: dict) -> np.ndarray:
        """Answers (items,) of one run."""
        shared = self.of_seed.setdefault(point["seed"], self.rng.normal(0, self.shared))
        chance = (self.chance(point) + self.difficulty + self.gain[RATIOS.index(point["target_ratio"])] + shared
                  + self.rng.normal(0, self.run))
        return (self.rng.random(len(chance)) < chance).astype(np.float32)

    def expected(self, point: dict) -> float:
        """Mean score over all items and runs that could have been drawn: chances below 0 and above 1 are cut there."""
        from scipy.special import ndtri

        spread = np.sqrt(self.item**2 + self.slope**2 + self.shared**2 + self.run**2)
        return float(np.clip(self.chance(point) + spread * ndtri((np.arange(4000) + .5) / 4000), 0, 1).mean())


def grid(seeds) -> list[dict]:
    return [dict(zip(("target_ratio", "backbone", "text_only", "seed"), point, strict=True))
            for point in itertools.product(RATIOS, BACKBONES, TEXTS, seeds)]


class Simulated:
    """A study that grows: runs are drawn when they are asked for."""

    def __init__(self, world: World, looks: int = 4):
        from analysis.questions import Questions

        self.world, self.points, self.rows = world, [], []
        self.questions = Questions(margin=MARGIN, looks=looks, target_language="eu", backbone=list(BACKBONES),
                                   text_only={"none": "none", "control": "english", "target": "target"})

    def run(self, points: list[dict]) -> None:
        self.points += points
        self.rows += [self.world.draw(point) for point in points]

    def study(self):
        import pandas as pd

        from analysis.collect import Collected
        from analysis.items import Items
        from analysis.study import Study

        ids = [str(number) for number in range(len(self.points))]
        runs = pd.DataFrame(self.points, index=ids)
        n = len(self.world.difficulty)
        described = pd.DataFrame({"item": range(n), "task": "naming", "language": "eu", "subset": "eval", "set": "A",
                                  "concept": np.repeat(np.arange(self.world.concepts), self.world.styles)})
        empty = pd.DataFrame()
        collected = Collected([], empty, empty, empty, list(runs.columns))
        items = {"score": Items(ids, described, np.array(self.rows))}
        return Study(collected, self.questions, ["target_ratio", "backbone", "text_only"], runs, items)

    def answers(self):
        from analysis.answers import answer

        study = self.study()
        return study, answer(study, resample=False)


def truths(world: World) -> dict[str, set[str]]:
    """The verdicts that would be right, by question."""
    gap = max(CURVES[world.curve]) - CURVES[world.curve][RATIOS.index(0.2)]
    text = ({"yes"} if world.text > 0 else set()) | ({"no"} if world.text < MARGIN else set())
    return {"ratio": {"yes" if gap < MARGIN else "no"}, "text_only": text,
            "backbone": {"yes" if abs(world.adapted) < MARGIN else "no"}}


def intervals(world: World, answers) -> dict[str, bool]:
    """Which 95 % intervals hold the truth. That of the ratios is between two fixed ones; a report prints the difference
    from the best other ratio, which the data choose."""
    estimates = answers.estimates
    expected = np.array([world.expected(row) for row in estimates.conditions.to_dict("records")])
    held = {}
    for key, weights in (("100 % minus 20 %", answers.curve.weights[-1] - answers.curve.weights[2]),
                         ("backbone", answers.backbone.weights), ("text_only", answers.text_only.weights),
                         ("one condition", np.eye(len(expected))[0]),
                         ("two conditions", np.eye(len(expected))[7] - np.eye(len(expected))[13])):
        low, high = estimates.contrast(weights).interval()
        held[key] = bool(low <= weights @ expected <= high)
    smallest = true_smallest(answers.curve.weights @ expected)
    low, high = answers.curve.interval
    held["smallest ratio"] = bool(low - 1e-9 <= smallest <= high + 1e-9)
    return held


def true_smallest(means: np.ndarray) -> float:
    from analysis.ratio import crossing

    return crossing(np.array(RATIOS), means, means[-1] - MARGIN)


def validity(studies: int, seeds: int = 3) -> dict:
    """Coverage and family-wise error over worlds that sit where wrong answers are likeliest: on the bounds."""
    worlds = itertools.product(CURVES, (0.0, MARGIN + 1e-9, -.015), (0.0, MARGIN, .01))
    held, wrong, decided, off = [], [], [], []
    for number, (curve, adapted, text) in zip(range(studies), itertools.cycle(worlds)):
        world = World(curve, adapted, text, seed=number)
        simulated = Simulated(world)
        simulated.run(grid(range(seeds)))
        _, answers = simulated.answers()
        right = truths(world)
        verdicts = {one.key: one.verdict for one in answers.all()}
        held.append(intervals(world, answers))
        wrong.append(any(v != "not decided" and v not in right[k] for k, v in verdicts.items()))
        decided.append(np.mean([v != "not decided" for v in verdicts.values()]))
        expected = np.array([world.expected(row) for row in answers.estimates.conditions.to_dict("records")])
        off.append((answers.curve.smallest - true_smallest(answers.curve.weights @ expected),
                    np.diff(answers.curve.interval)[0]))
    coverage = {key: float(np.mean([row[key] for row in held])) for key in held[0]}
    bias, width = np.array(off).T
    return {"studies": studies, "coverage": coverage, "wrong": float(np.mean(wrong)),
            "decided": float(np.mean(decided)), "bias": float(bias.mean()), "width": float(width.mean()),
            "median": float(np.median(bias)), "above": float((bias > 0).mean())}


def sequential(world: World, start: int, looks: int) -> tuple[int, dict[str, str]]:
    """Runs spent and verdicts when `begira next` is followed until all is decided or the declared looks are used up."""
    from analysis.further import further_points

    simulated, verdicts = Simulated(world, looks), {}
    points = grid(range(start))
    for look in range(looks):
        simulated.run(points)
        study, answers = simulated.answers()
        for one in answers.all():
            if one.verdict != "not decided":
                verdicts.setdefault(one.key, one.verdict)
            one.verdict = verdicts.get(one.key, one.verdict)
        points = further_points(study, answers)
        if not points or look == looks - 1:
            break
    return len(simulated.points), verdicts


def savings(studies: int, start: int = 2, looks: int = 4, run: float = 0.03) -> dict:
    """Runs of following `next` against equal seeding in one look, at the same share of decided questions."""
    worlds = list(itertools.product(("steep", "saturated", "close"), (0.0, .015, .05), (0.0, .015, .03)))

    def world(number: int) -> World:
        return World(*worlds[number % len(worlds)], concepts=900, run=run, seed=100_000 + number)

    followed = [sequential(world(number), start, looks) for number in range(studies)]
    power = float(np.mean([len(verdicts) / 3 for _, verdicts in followed]))
    equal = []
    for seeds in range(start, start + 14):
        shares = [len(sequential(world(number), seeds, 1)[1]) / 3 for number in range(studies)]
        equal.append((seeds, float(np.mean(shares))))
        if equal[-1][1] > power:
            break
    return {"studies": studies, "runs": float(np.mean([runs for runs, _ in followed])), "decided": power,
            "equal": [(seeds, seeds * len(grid([0])), share) for seeds, share in equal],
            "equal_runs": _runs_for(power, equal)}


def errors_over_looks(studies: int, start: int = 2, looks: int = 4) -> tuple[float, float]:
    """Share of studies with any wrong answer after all looks, with its standard error, at truths on the bounds."""
    worlds = list(itertools.product(("at the margin",), (MARGIN + 1e-9, -MARGIN - 1e-9), (0.0, -1e-9)))
    wrong = []
    for number in range(studies):
        world = World(*worlds[number % len(worlds)], run=.02, seed=200_000 + number)
        right = truths(world)
        wrong.append(any(verdict not in right[key] for key, verdict in sequential(world, start, looks)[1].items()))
    return float(np.mean(wrong)), float(np.std(wrong) / np.sqrt(studies))


def _runs_for(power: float, equal: list[tuple[int, float]]) -> float:
    """Runs at which equal seeding decides as much, interpolated; infinite if it never does within the range."""
    for (few, low), (many, high) in itertools.pairwise(equal):
        if low <= power <= high:
            return len(grid([0])) * (few + (many - few) * (power - low) / max(high - low, 1e-9))
    return float("inf") if power > equal[-1][1] else len(grid([0])) * equal[0][0]


def described(studies: int, followed: int) -> list[str]:
    """Everything that is measured, as lines."""
    began = time.process_time()
    found = validity(studies)
    each = (time.process_time() - began) / studies
    error = np.sqrt(found["wrong"] * (1 - found["wrong"]) / studies)
    lines = [f"{studies} studies of {len(grid(range(3)))} runs, {each:.2f} CPU-s each",
             *(f"  coverage of the 95 % interval, {key}: {share:.3f}" for key, share in found["coverage"].items()),
             f"  studies with any wrong answer at the first of four looks: {found['wrong']:.3f} +- {error:.3f}",
             f"  questions decided at the first look: {found['decided']:.2f}",
             f"  smallest ratio, estimate minus truth: median {found['median']:+.4f}, mean {found['bias']:+.4f}; above "
             f"it in {found['above']:.2f} of the studies; mean width of its interval {found['width']:.3f}"]
    if followed:
        wrong, error = errors_over_looks(followed)
        saved = savings(followed)
        share = saved["runs"] / saved["equal_runs"]
        lines += [f"{followed} studies with all truths on a bound, four looks: {wrong:.3f} +- {error:.3f} with any "
                  "wrong answer (limit 0.05)",
                  f"{followed} studies in which `next` is followed from 2 seeds: {saved['runs']:.0f} runs, "
                  f"{saved['decided']:.3f} of the questions decided",
                  *(f"  equal seeding, {seeds} seeds: {count} runs, {share:.3f} decided"
                    for seeds, count, share in saved["equal"]),
                  f"  runs of next / runs of equal seeding at the same power: {share:.2f}"]
    return lines


def write_into(path: Path, lines: list[str]) -> None:
    """Replace what stands between the two marks of the page."""
    before, rest = path.read_text().split(BEGIN)
    after = rest.split(END)[1]
    write_text(path, f"{before}{BEGIN}\n```\n" + "\n".join(lines) + f"\n```\n{END}{after}")


def main() -> None:
    options = arguments()
    lines = described(options.studies, options.followed)
    print("\n".join(lines))
    if options.write:
        write_into(options.write, lines)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--followed", type=int, default=400, help="studies in which `begira next` is followed")
    parser.add_argument("--write", type=Path, help="page whose numbers are replaced, e.g. docs/statistics.md")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
