"""Resampling of items that several runs share: paired bootstrap, sign-flip permutation, and the unit that is resampled.

All functions are vectorised over draws and take their generator as an argument. What the draws are of is decided by the
caller; the model of runs and items is in analysis.estimates."""
from __future__ import annotations

import numpy as np

CHUNK = 1 << 22  # weights held at once, in numbers


def by_cluster(score: np.ndarray, clusters: np.ndarray | None) -> np.ndarray:
    """Scores (rows, items) as pseudo-scores (rows, clusters) with the same row means.

    Items of one concept (in several art styles, say) are not independent, so the concept is the unit of resampling. The
    value of cluster g is the row's mean plus the cluster's influence on it, which makes the variance of their mean the
    linearised variance of a ratio mean (Cochran, Sampling Techniques, section 9)."""
    if clusters is None:
        return np.asarray(score, np.float64)
    codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)[1:]
    if len(sizes) == score.shape[1]:
        return np.asarray(score, np.float64)
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    sums = np.add.reduceat(score[:, order].astype(np.float64), starts, axis=1)
    mean = sums.sum(axis=1, keepdims=True) / score.shape[1]
    return mean + (sums - sizes * mean) * (len(sizes) / score.shape[1])


def bootstrap_means(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means of every row of `values` (rows, items) over resampled items, (draws, rows).

    All rows see the same resampled items, so differences between rows are paired (Koehn 2004 for systems that share a
    test set)."""
    rows, items = values.shape
    result = np.empty((draws, rows))
    step = max(1, CHUNK // items)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        weights = rng.multinomial(items, np.full(items, 1 / items), size=count)
        result[start:start + count] = weights @ values.T / items
    return result


def sign_flip_p(differences: np.ndarray, rng: np.random.Generator, draws: int = 4000) -> float:
    """Two-sided p that paired differences (n,) have mean zero, by flipping their signs at random.

    Exact over all 2^n flips where those are no more than `draws`; otherwise Monte Carlo with the usual +1
    correction."""
    differences = np.asarray(differences, np.float64)
    differences = differences[differences != 0]
    n = len(differences)
    if n == 0:
        return 1.0
    observed = abs(differences.sum()) * (1 - 1e-12)
    if 2**n <= draws:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ differences) >= observed).mean())
    hits, step = 0, max(1, CHUNK // n)
    for start in range(0, draws, step):
        signs = rng.integers(0, 2, (min(step, draws - start), n), np.int8) * 2 - 1
        hits += int((np.abs(signs @ differences) >= observed).sum())
    return (1 + hits) / (1 + draws)

