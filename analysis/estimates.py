"""Means of conditions and contrasts between them, with runs and items as crossed random effects.

The score of run r (condition c, seed s) on item i is  mu_c + seed_s + run_cs + item_i + item_ci + noise_csi.  A
contrast sums to zero over conditions, so seed_s (what runs with one seed share) and item_i (how hard an item is)
cancel as far as the design is balanced. What is left is estimated by moments:

    items   from the spread over items of the condition means (item_ci, and noise)
    runs    from the spread of run means around condition + seed (run_cs, and noise)
    noise   is in both, and is subtracted once

The variance of a contrast is items + runs - noise, its degrees of freedom those of Satterthwaite (1946), though not
fewer than the smaller of those of its parts. The spread of
runs is taken to be the same in all conditions: with three seeds that is what gives it more than two degrees of freedom.
With one seed, the spread around additive effects of the axes stands in for it (interactions then count as noise, which
makes intervals too wide rather than too narrow); with no degree of freedom at all nothing is decided."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.resampling import bootstrap_means, by_cluster

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Contrast:
    """effect and its standard error; variance parts: `fixed` does not shrink with more seeds, `seeds` does as
    1/seeds."""

    effect: float
    error: float
    df: float
    fixed: float
    seeds: float

    def quantile(self, probability: float) -> float:
        from scipy.special import stdtrit

        return float(stdtrit(self.df, probability)) if self.df > 0 else float("nan")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval; infinite where the spread of runs is unknown."""
        half = self.quantile(0.5 + level / 2) * self.error
        return (self.effect - half, self.effect + half) if np.isfinite(half) else (-np.inf, np.inf)

    def p_above(self, bound: float) -> float:
        """One-sided p of the hypothesis that the effect is at most `bound`."""
        from scipy.special import stdtr

        if not self.df > 0 or not np.isfinite(self.error):
            return 1.0
        if self.error == 0:
            return float(self.effect <= bound)
        return float(stdtr(self.df, (bound - self.effect) / self.error))

    def p_below(self, bound: float) -> float:
        """One-sided p of the hypothesis that the effect is at least `bound`."""
        return Contrast(-self.effect, self.error, self.df, self.fixed, self.seeds).p_above(-bound)


@dataclass
class Estimates:
    """conditions: C rows of axis values (no seed). mean (C,). by_item (C, I): condition means per unit of resampling.

    runs_covariance (C, C) and noise_covariance (C, C) of the means; df_runs; spread: where the run spread comes from
    ("replicates", "interactions" or "none"). count (C,): runs per condition. run_means (N,), condition_of (N,)."""

    conditions: pd.DataFrame
    mean: np.ndarray
    by_item: np.ndarray
    runs_covariance: np.ndarray
    noise_covariance: np.ndarray
    df_runs: float
    spread: str
    count: np.ndarray
    runs: list[str]
    run_means: np.ndarray
    condition_of: np.ndarray

    def contrast(self, weights: np.ndarray) -> Contrast:
        """The effect sum(weights * mean). Weights (C,) that do not sum to zero give a mean rather than a contrast."""
        return self.contrasts(np.asarray(weights)[None])[0]

    def contrasts(self, weights: np.ndarray) -> list[Contrast]:
        """As `contrast`, for the rows of `weights` (K, C)."""
        weights = np.asarray(weights, np.float64)
        units = self.by_item.shape[1]
        items = (weights @ self.by_item).var(axis=1, ddof=1) / units if units > 1 else np.full(len(weights), np.nan)
        runs = np.einsum("kc,cd,kd->k", weights, self.runs_covariance, weights)
        noise = np.einsum("kc,cd,kd->k", weights, self.noise_covariance, weights)
        between = np.maximum(runs - noise, 0)
        variance = items + between
        parts = np.square(items) / max(units - 1, 1) + np.square(runs) / max(self.df_runs, 1e-9)
        least = min(self.df_runs, max(units - 1, 1))  # for a sum it lies above; the noise taken off must not undo that
        df = np.where(variance > 0, np.maximum(np.square(variance) / np.maximum(parts, 1e-300), least), np.inf)
        if self.spread == "none":
            df, variance = np.zeros(len(weights)), np.full(len(weights), np.nan)
        fixed = np.maximum(items - noise, 0)
        return [Contrast(*map(float, row)) for row in
                zip(weights @ self.mean, np.sqrt(variance), df, fixed, np.maximum(runs, noise), strict=True)]

    def draws(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Condition means (count, C) under resampled items and redrawn runs.

        Items are resampled (paired over conditions); three seeds are too few to resample, so the runs' part is drawn
        from a t distribution with its estimated spread and degrees of freedom."""
        means = bootstrap_means(self.by_item, count, rng)
        values, vectors = np.linalg.eigh(self.runs_covariance - self.noise_covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
        scale = np.sqrt(self.df_runs / rng.chisquare(self.df_runs, (count, 1))) if self.df_runs > 0 else 1.0
        return means + (rng.standard_normal((count, len(self.mean))) @ root.T) * scale


def estimate(score: np.ndarray, runs: pd.DataFrame, clusters: np.ndarray | None = None,
             seed: str = "seed") -> Estimates:
    """Estimates from `score` (N runs, items; no NaN) and the axis values of its rows (N, axes and the column
    `seed`)."""
    values = by_cluster(score, clusters)
    axes = [name for name in runs.columns if name != seed]
    codes, conditions = _codes(runs[axes]) if axes else (np.zeros(len(runs), int), runs[axes].iloc[:1])
    seeds = np.unique(runs[seed].astype(str), return_inverse=True)[1] if seed in runs else np.zeros(len(runs), int)
    m, n, c = values.mean(axis=1), len(values), len(conditions)
    x, z = np.eye(c)[codes], np.eye(seeds.max() + 1)[seeds]
    main = np.hstack([np.ones((n, 1)), *(_indicator(runs[name]) for name in axes)])
    between, shared, df, spread = _run_spread(m, x, z, main)
    mapping = _mapping(x, z, between, shared)
    by_item = mapping @ values
    noise = _noise(values, main if spread == "interactions" else x)
    mean = mapping @ m
    covariance = between * mapping @ mapping.T + shared * (mapping @ z) @ (mapping @ z).T
    return Estimates(conditions, mean, by_item, covariance, mapping @ mapping.T * noise, df, spread,
                     x.sum(axis=0), list(runs.index), m, codes)


def _mapping(x: np.ndarray, z: np.ndarray, between: float, shared: float) -> np.ndarray:
    """Condition means from run means, (C, N): generalised least squares under between * I + shared * z z'.

    The inverse of that covariance is applied by Woodbury's identity, so that 1,000 runs cost no N x N matrix."""
    right = x
    if between > 0 and shared > 0:
        right = x - z @ (z.T @ x / (between / shared + z.sum(axis=0))[:, None])
    return np.linalg.solve(x.T @ right, right.T)


def _codes(frame: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Number of the condition of every row, and the conditions sorted by their axis values.

    Axis values are compared as text, for a run that several points share has none for the axes they differ in."""
    keys = list(zip(*(frame[name].astype(str) for name in frame.columns), strict=True))
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    order = sorted(first, key=lambda key: tuple(_number_first(part) for part in key))
    place = {key: number for number, key in enumerate(order)}
    return (np.array([place[key] for key in keys]),
            frame.iloc[[first[key] for key in order]].reset_index(drop=True))


def _number_first(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def _run_spread(m: np.ndarray, x: np.ndarray, z: np.ndarray, main: np.ndarray) -> tuple[float, float, float, str]:
    """Variance between runs of one condition, variance shared by runs of one seed, degrees of freedom, and the
    source."""
    residual, df = _residual(m, np.hstack([x, z]))
    if df > 0:
        between = residual @ residual / df
        within, df_within = _residual(m, x)
        projected = z - x @ (x.T @ z / x.sum(axis=0)[:, None])
        shared = (within @ within - between * df_within) / max(np.square(projected).sum(), 1e-12)
        return float(between), float(max(shared, 0)), float(df), "replicates"
    residual, df = _residual(m, x)
    if df > 0:  # every seed is used once: nothing is shared that could be told from the run itself
        return float(residual @ residual / df), 0.0, float(df), "replicates"
    residual, df = _residual(m, main)
    if df > 0:
        return float(residual @ residual / df), 0.0, float(df), "interactions"
    return 0.0, 0.0, 0.0, "none"


def _residual(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, int]:
    solution, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    return y - x @ solution, len(y) - int(rank)


def _indicator(column: Any) -> np.ndarray:
    codes = np.unique(column.astype(str), return_inverse=True)[1]
    return np.eye(codes.max() + 1)[codes]


def _noise(values: np.ndarray, x: np.ndarray) -> float:
    """Variance of a run's mean that comes from noise per answer: from what, item by item, the design `x` leaves
    unexplained."""
    units = values.shape[1]
    residual, df = _residual(values, x)
    if df <= 0 or units < 2:
        return 0.0
    residual -= residual.mean(axis=1, keepdims=True)
    return float(np.square(residual).sum() / (df * (units - 1)) / units)
