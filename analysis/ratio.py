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


def crossing(position: np.ndarray, fit: np.ndarray, margin: float) -> np.ndarray:
    """Smallest position where the interpolated fit (..., R) reaches its top minus the margin, (...)."""
    wanted = fit[..., -1:] - margin
    reached = np.argmax(fit >= wanted - 1e-12, axis=-1)
    before = np.maximum(reached - 1, 0)
    low = np.take_along_axis(fit, before[..., None], -1)[..., 0]
    high = np.take_along_axis(fit, reached[..., None], -1)[..., 0]
    share = np.where(high > low, (wanted[..., 0] - low) / np.where(high > low, high - low, 1), 1.0)
    return np.where(reached == 0, position[0], position[before] + share * (position[reached] - position[before]))


def curve(estimates: Estimates, weights: np.ndarray, levels: np.ndarray, position: np.ndarray, margin: float,
          level: float = 0.95) -> Curve:
    """The curve of `weights` (R, C): one weighted mean of conditions per ratio, ratios ascending."""
    mean = weights @ estimates.mean
    r = len(levels)
    variance = np.array([np.square(c.error) for c in estimates.contrasts(weights)])
    known = np.isfinite(variance).all() and (variance > 0).all()
    fit = isotonic(mean, 1 / variance if known else np.ones(r))
    best = int(np.argmax(mean))
    gap = [estimates.contrast(weights[best] - row) for row in weights]
    enough = np.array([max((estimates.contrast(weights[other] - weights[row]).p_below(margin)
                            for other in range(r) if other != row), default=1.0) for row in range(r)])
    lacking = np.array([estimates.contrast(weights[-1] - row).p_above(margin) for row in weights])
    falls = estimates.contrast(weights[best] - weights[-1])
    return Curve(levels, position, weights, margin, mean, fit, gap, enough, lacking,
                 float(crossing(position, fit, margin)), _inverted(estimates, weights, position, margin, level),
                 min(1.0, falls.p_above(0.0) * (r - 1)) if best != r - 1 else 1.0)


def _inverted(estimates: Estimates, weights: np.ndarray, position: np.ndarray, margin: float,
              level: float) -> tuple[float, float]:
    """Ratios that cannot be ruled out: from the first that is not shown to lack to the last not shown to be enough.

    "Lacks" compares with the highest ratio alone, which a monotone curve makes the best; "enough" with all ratios."""
    r = len(position)
    share = np.concatenate([np.arange(r - 1)[:, None] + np.arange(GRID) / GRID, [[r - 1.0] * GRID]]).ravel()
    share = share[: (r - 1) * GRID + 1]
    left = np.minimum(share.astype(int), max(r - 2, 0))
    part = (share - left)[:, None]
    mixed = (1 - part) * weights[left] + part * weights[np.minimum(left + 1, r - 1)]
    places = position[left] + part[:, 0] * (position[np.minimum(left + 1, r - 1)] - position[left])
    alpha = (1 - level) / 2
    lacks = np.array([c.p_above(margin) <= alpha for c in estimates.contrasts(weights[-1] - mixed)])
    enough = np.ones(len(mixed), bool)
    for other in range(r):
        contrasts = estimates.contrasts(weights[other] - mixed)
        enough &= np.array([c.p_below(margin) <= alpha for c in contrasts])
    low = places[int(np.argmin(lacks))] if not lacks.all() else places[-1]
    open_places = places[~enough]
    high = open_places[-1] if len(open_places) else places[0]
    return float(min(low, high)), float(high)
