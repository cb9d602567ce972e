"""How much target-language data is enough: the smallest ratio whose score is within a margin of the best.

Three views of one curve. A *test* per ratio that was run: not inferior to any other ratio by the margin (an
intersection of one-sided tests, so it needs no correction and no assumption about the curve's form). An *estimate*
between the ratios: where the monotone fit, interpolated linearly, comes within the margin of its top. And an
*interval* for that estimate: every ratio that the tests cannot rule out (Fieller's way of inverting them)."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.estimates import Contrast, Estimates

GRID = 25  # points per segment on which the tests are inverted


@dataclass
class Curve:
    """levels (R,): asked-for ratios, ascending; position (R,): the realised ones; weights (R, C) over conditions.

    fit (R,): monotone fit; gap: contrast of the best ratio with each; enough_p, lacking_p (R,): one-sided p of the
    hypotheses "worse than the best by the margin or more" and "worse by the margin or less"."""

    levels: np.ndarray
    position: np.ndarray
    weights: np.ndarray
    margin: float
    mean: np.ndarray
    fit: np.ndarray
    gap: list[Contrast]
    enough_p: np.ndarray
    lacking_p: np.ndarray
    smallest: float
    interval: tuple[float, float]
    falls_p: float

    @property
    def best(self) -> int:
        return int(np.argmax(self.mean))


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Non-decreasing weighted least-squares fit along the last axis, by the min-max formula (Barlow et al. 1972).

    `values` (..., R), `weights` (R,). R is small, so all R^2 block means are affordable and draws need no loop."""
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    r = len(weights)
    zero = np.zeros((*values.shape[:-1], 1))
    sums = np.concatenate([zero, np.cumsum(values * weights, -1)], -1)
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    fit = np.empty_like(values)
    for j in range(r):
        blocks = [[(sums[..., b + 1] - sums[..., a]) / (mass[b + 1] - mass[a]) for b in range(j, r)]
                  for a in range(j + 1)]
        lowest = [np.min(np.stack(means), 0) for means in blocks]
        fit[..., j] = np.max(np.stack(lowest), 0)
    return fit


def crossing(position: np.ndarray, fit: np.ndarray, wanted: float) -> float:
    """Smallest position where the interpolated non-decreasing `fit` (R,) reaches `wanted`."""
    reached = int(np.argmax(fit >= wanted - 1e-12))
    if reached == 0:
        return float(position[0])
    share = (wanted - fit[reached - 1]) / (fit[reached] - fit[reached - 1])
    return float(position[reached - 1] + share * (position[reached] - position[reached - 1]))


def curve(estimates: Estimates, weights: np.ndarray, levels: np.ndarray, position: np.ndarray, margin: float,
          level: float = 0.95) -> Curve:
    """The curve of `weights` (R, C): one weighted mean of conditions per ratio, ratios ascending.

    Where the score falls significantly after its best ratio, the monotone fit and the interval end at that ratio."""
    mean = weights @ estimates.mean
    r, best = len(levels), int(np.argmax(mean))
    falls = estimates.contrast(weights[best] - weights[-1])
    falls_p = min(1.0, falls.p_above(0.0) * (r - 1)) if best != r - 1 else 1.0
    top = best if falls_p <= 1 - level else r - 1
    variance = np.array([np.square(c.error) for c in estimates.contrasts(weights)])
    known = np.isfinite(variance).all() and (variance > 0).all()
    inverse = 1 / variance if known else np.ones(r)
    fit = np.concatenate([isotonic(mean[: top + 1], inverse[: top + 1]), mean[top + 1:]])
    pairs = estimates.contrasts((weights[:, None] - weights[None]).reshape(r * r, -1))
    gap = pairs[best * r:(best + 1) * r]
    enough = np.array([max((pairs[other * r + row].p_below(margin) for other in range(r) if other != row), default=1.0)
                       for row in range(r)])
    lacking = np.array([one.p_above(margin) for one in pairs[top * r:(top + 1) * r]])
    smallest = float(crossing(position[: top + 1], fit[: top + 1], mean[top] - margin))
    return Curve(levels, position, weights, margin, mean, fit, gap, enough, lacking, smallest,
                 _inverted(estimates, weights[: top + 1], position[: top + 1], margin, level), falls_p)


def _inverted(estimates: Estimates, weights: np.ndarray, position: np.ndarray, margin: float,
              level: float) -> tuple[float, float]:
    """Ratios that cannot be ruled out: from the last that is shown to lack to the first that is shown to be enough.

    Compared with the highest ratio alone, which a monotone curve makes the best: with all, as the tests per ratio do,
    the interval would cover too often."""
    share = np.arange((len(position) - 1) * GRID + 1) / GRID
    left = np.minimum(share.astype(int), len(position) - 2)
    part = share - left
    mixed = (1 - part)[:, None] * weights[left] + part[:, None] * weights[left + 1]
    places = position[left] + part * (position[left + 1] - position[left])
    bounds = np.array([c.interval(level) for c in estimates.contrasts(weights[-1] - mixed)]) - margin
    lacks, enough = bounds.T   # lacks > 0: ruled out, too little; enough < 0: ruled out, more than is needed
    first = int(np.argmax(lacks <= 0))
    last = len(enough) - 1 - int(np.argmax(enough[::-1] >= 0)) if (enough >= 0).any() else 0
    low = places[0] if first == 0 else _zero(places, lacks, first - 1)
    high = places[last] if last == len(places) - 1 or enough[last] < 0 else _zero(places, enough, last)
    return float(min(low, high)), float(high)


def _zero(places: np.ndarray, values: np.ndarray, left: int) -> float:
    """Where `values` crosses zero between two neighbours."""
    a, b = values[left], values[left + 1]
    if not (np.isfinite(a) and np.isfinite(b)) or a == b:
        return places[left]
    return places[left] + a / (a - b) * (places[left + 1] - places[left])
