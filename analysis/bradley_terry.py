"""Strengths from pairwise comparisons with ties, and their intervals: the Bradley-Terry model as Davidson extended it.

Davidson, "On extending the Bradley-Terry model to accommodate ties in paired comparison experiments", JASA 65 (1970):
with strengths exp(s_i) and a tie parameter exp(t), i beats j with chance exp(s_i) / D, and they tie with chance
exp(t + (s_i + s_j) / 2) / D, where D is the sum of the three terms. Comparisons come as counts; who compared is the
caller's."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RIDGE = 0.1    # keeps who won always finite: a normal prior of variance 10 on each strength


@dataclass
class Games:
    """One row per comparison: players a and b, outcome 1 (a won), 0 (tie), -1 (b won), and two labels of what may be
    resampled: the cluster of the item and the runs that played (all integers, (n,))."""

    players: int
    a: np.ndarray
    b: np.ndarray
    outcome: np.ndarray
    cluster: np.ndarray
    run_a: np.ndarray
    run_b: np.ndarray


@dataclass
class Fitted:
    """strength (players,) in logits with mean 0; tie: Davidson's parameter in logits; share (players,): the expected
    share of points (win 1, tie 1/2) against the other players, each as often. low, high: 95 % bootstrap intervals of
    strength; share_low, share_high: of share."""

    strength: np.ndarray
    tie: float
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    share_low: np.ndarray
    share_high: np.ndarray
    draws: np.ndarray                # (draws, players) shares, for comparing players


def fit(games: Games, draws: int = 1000, seed: int = 0) -> Fitted:
    """Maximum likelihood, with percentile intervals from `draws` bootstrap samples.

    Clusters of items are resampled, and with them, independently, the runs within each player that has several (both
    are random: Owen, "The pigeonhole bootstrap", 2007)."""
    index, sides = _cells(games)
    cells = games.players**2
    ones = np.ones(len(games.a))
    counts = np.bincount(index, ones, 3 * cells).reshape(3, games.players, games.players)
    best = _maximum(counts, np.zeros(games.players + 1))
    rng = np.random.default_rng(seed)
    sampled = np.empty((draws, games.players + 1))
    for draw in range(draws):
        weights = _weights(games, sides, rng)
        counts = np.bincount(index, weights, 3 * cells).reshape(3, games.players, games.players)
        sampled[draw] = _maximum(counts, best)
    shares = np.array([expected_share(row[:-1], row[-1]) for row in sampled])
    low, high = np.percentile(sampled[:, :-1], [2.5, 97.5], axis=0) if draws else (best[:-1], best[:-1])
    share_low, share_high = np.percentile(shares, [2.5, 97.5], axis=0) if draws else (best[:-1], best[:-1])
    return Fitted(best[:-1], float(best[-1]), expected_share(best[:-1], best[-1]), low, high, share_low, share_high,
                  shares)


def _cells(games: Games) -> tuple[np.ndarray, list[np.ndarray]]:
    """Index of each comparison into (tie or not, winner or a, loser or b); the runs of each player with several."""
    first = np.where(games.outcome >= 0, games.a, games.b)
    second = np.where(games.outcome >= 0, games.b, games.a)
    kind = np.where(games.outcome == 0, 1, 0)
    index = (kind * games.players + first) * games.players + second
    owners = dict(zip(games.run_a.tolist(), games.a.tolist(), strict=True)) | dict(
        zip(games.run_b.tolist(), games.b.tolist(), strict=True))
    sides = [np.array([run for run, owner in owners.items() if owner == player]) for player in range(games.players)]
    return index, [runs for runs in sides if len(runs) > 1]


def _weights(games: Games, several: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    clusters = int(games.cluster.max()) + 1
    weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters))[games.cluster].astype(float)
    if several:
        per_run = np.ones(int(max(games.run_a.max(), games.run_b.max())) + 1)
        for runs in several:
            per_run[runs] = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)))
        weights *= per_run[games.run_a] * per_run[games.run_b]
    return weights


def _maximum(counts: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Strengths (mean 0) and tie parameter by Newton's method with step halving; the log-likelihood is concave.

    counts (3, players, players): wins of row over column, ties, and nothing."""
    wins, ties = counts[0], counts[1] + counts[1].T
    games = wins + wins.T + ties
    won = wins.sum(1) + ties.sum(1) / 2
    tied = ties.sum() / 2
    x = start.copy()

    def value(x: np.ndarray) -> float:
        s, t = x[:-1], x[-1]
        upper = np.triu(games, 1)
        total = np.logaddexp(np.logaddexp(s[:, None], s[None, :]), t + (s[:, None] + s[None, :]) / 2)
        return float(won @ s + tied * t - (upper * total).sum() - RIDGE / 2 * (x @ x))

    current = value(x)
    for _ in range(50):
        gradient, hessian = _derivatives(x, games, won, tied)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while (reached := value(x + scale * step)) < current - 1e-12 and scale > 1e-6:
            scale /= 2
        x, gain, current = x + scale * step, reached - current, reached
        if abs(scale * step).max() < 1e-8 or gain < 1e-12:
            break
    x[:-1] -= x[:-1].mean()
    return x


def _derivatives(x: np.ndarray, games: np.ndarray, won: np.ndarray, tied: float) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and negative Hessian of the penalised log-likelihood, (players + 1,) and its square."""
    beat, tie = chances(x[:-1], x[-1])
    np.fill_diagonal(tie, 0)
    np.fill_diagonal(beat, 0)
    points = beat + tie / 2                      # expected points of row against column
    gradient = np.append(won - (games * points).sum(1), tied - (games * tie).sum() / 2) - RIDGE * x
    spread = games * (beat + tie / 4 - points**2)
    hessian = np.zeros((len(x), len(x)))
    hessian[:-1, :-1] = games * (tie / 4 - points * points.T)
    hessian[range(len(x) - 1), range(len(x) - 1)] = spread.sum(1)
    cross = (games * (tie / 2 - points * tie)).sum(1)
    hessian[:-1, -1] = hessian[-1, :-1] = cross
    hessian[-1, -1] = (games * tie * (1 - tie)).sum() / 2
    return gradient, hessian + RIDGE * np.eye(len(x))


def chances(strength: np.ndarray, tie: float) -> tuple[np.ndarray, np.ndarray]:
    """(players, players): chance that row beats column, and that they tie."""
    half = (strength[:, None] - strength[None, :]) / 2
    logits = np.stack([half, np.full_like(half, tie), -half])
    logits -= logits.max(axis=0)
    terms = np.exp(logits)
    terms /= terms.sum(axis=0)
    return terms[0], terms[1]


def expected_share(strength: np.ndarray, tie: float) -> np.ndarray:
    """Share of points (win 1, tie 1/2) that each player would have against all others, each as often."""
    beat, tied = chances(strength, tie)
    points = beat + tied / 2
    np.fill_diagonal(points, 0)
    return points.sum(1) / max(len(strength) - 1, 1)
