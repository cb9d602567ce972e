"""The estimates, intervals and resampling behind the answers, against exact cases and known truths."""
from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from analysis.estimates import estimate
from analysis.questions import nominal_level
from analysis.ratio import crossing, isotonic
from analysis.resampling import bootstrap_means, by_cluster, sign_flip_p


def crossed(rng, conditions=4, seeds=3, items=200, run=.02, shared=.0, item=.3, interaction=.1, mean=None):
    """Scores (runs, items) of the model in analysis.estimates, and the runs' axis values."""
    mean = np.zeros(conditions) if mean is None else np.asarray(mean)
    rows = [(c, s) for c in range(conditions) for s in range(seeds)]
    of_seed, of_item = rng.normal(0, shared, seeds), rng.normal(0, item, items)
    of_cell = rng.normal(0, interaction, (conditions, items))
    score = np.array([mean[c] + of_seed[s] + rng.normal(0, run) + of_item + of_cell[c] + rng.normal(0, .4, items)
                      for c, s in rows])
    return score, pd.DataFrame(rows, columns=["condition", "seed"], index=[f"r{n}" for n in range(len(rows))])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_monotone_fit_is_scipys(values, data):
    weights = data.draw(st.lists(st.floats(.1, 9), min_size=len(values), max_size=len(values)))
    wanted = isotonic_regression(values, weights=weights).x
    assert isotonic(np.array(values), np.array(weights)) == pytest.approx(wanted, abs=1e-9)


def test_crossing_interpolates_between_ratios():
    x, fit = np.array([0, .2, 1.0]), np.array([.2, .4, .5])
    assert crossing(x, fit, .45) == pytest.approx(.6)
    assert crossing(x, fit, .1) == 0
    assert crossing(x, fit, .5) == pytest.approx(1.0)


def test_levels_over_looks_are_pococks():
    """Two-sided 10 %: the constants of Pocock (1977), table 1, as reprinted by Jennison and Turnbull (2000)."""
    from scipy.special import ndtri

    for looks, constant in ((1, 1.645), (2, 1.875), (3, 1.992), (4, 2.067), (5, 2.122)):
        assert -ndtri(nominal_level(.05, looks)) == pytest.approx(constant, abs=1.5e-3)


def test_a_balanced_design_gives_plain_means_and_paired_differences():
    score, runs = crossed(np.random.default_rng(0), seeds=4)
    found = estimate(score, runs)
    means = pd.Series(score.mean(axis=1)).groupby(runs["condition"].to_numpy()).mean()
    assert found.mean == pytest.approx(means.to_numpy())
    weights = np.array([1, -1, 0, 0])
    assert found.contrast(weights).effect == pytest.approx(means[0] - means[1])
    shuffled = np.random.default_rng(1).permutation(len(runs))
    again = estimate(score[shuffled], runs.iloc[shuffled])
    assert again.contrast(weights).interval() == pytest.approx(found.contrast(weights).interval())


def test_intervals_cover_and_the_run_part_is_needed():
    """300 draws each: 95 % intervals cover in 92 to 98 %; by resampling items alone (the control) they do not."""
    weights, held, items_only = np.array([1, -1, 0, 0]), [], []
    for number in range(300):
        score, runs = crossed(np.random.default_rng(number), run=.03, shared=.03, interaction=.05)
        found = estimate(score, runs)
        low, high = found.contrast(weights).interval()
        held.append(low <= 0 <= high)
        paired = weights @ found.by_item
        half = 1.96 * paired.std(ddof=1) / np.sqrt(len(paired))
        items_only.append(abs(paired.mean()) <= half)
    assert .92 <= np.mean(held) <= .98
    assert np.mean(items_only) < .9


def test_what_runs_of_one_seed_share_cancels_in_contrasts_only():
    """The shared part is in the interval of a mean and not in that of a contrast; without seeds it is in both."""
    score, runs = crossed(np.random.default_rng(3), conditions=6, seeds=4, run=.005, shared=.2, items=400)
    found = estimate(score, runs)
    blind = estimate(score, runs.assign(seed=np.arange(len(runs))))
    contrast = np.array([1, -1, 0, 0, 0, 0])
    assert found.contrast(contrast).error < .3 * blind.contrast(contrast).error
    assert found.contrast(np.eye(6)[0]).error > 2 * found.contrast(contrast).error


def test_one_seed_uses_interactions_and_one_run_decides_nothing():
    rng = np.random.default_rng(5)
    points = list(itertools.product((0, .2, 1), ("a", "b"), ("none", "target")))
    runs = pd.DataFrame(points, columns=["ratio", "backbone", "text"]).assign(seed=0)
    score = rng.random((len(runs), 50))
    found = estimate(score, runs)
    assert found.spread == "interactions" and found.df_runs == 12 - 5
    lone = estimate(score[:1], runs.iloc[:1])
    assert lone.spread == "none" and lone.contrast(np.ones(1)).interval() == (-np.inf, np.inf)
    assert lone.contrast(np.ones(1)).p_above(-9) == 1.0


def test_items_of_one_concept_are_one_unit():
    """Copying every item adds no information: clustered, the error stays; unclustered (the control), it shrinks."""
    score, runs = crossed(np.random.default_rng(7), items=60, run=.005, interaction=.6)
    copied, weights = np.repeat(score, 3, axis=1), np.array([1, -1, 0, 0])
    alone = estimate(score, runs).contrast(weights)
    clustered = estimate(copied, runs, np.repeat(np.arange(60), 3)).contrast(weights)
    assert (clustered.effect, clustered.error) == pytest.approx((alone.effect, alone.error))
    assert estimate(copied, runs).contrast(weights).error < .8 * alone.error
    sizes = np.random.default_rng(8).integers(1, 5, 60)
    uneven = np.repeat(score, sizes, axis=1)
    assert by_cluster(uneven, np.repeat(np.arange(60), sizes)).mean(axis=1) == pytest.approx(uneven.mean(axis=1))


def test_bootstrap_agrees_with_the_formula_and_is_paired():
    rng = np.random.default_rng(9)
    values = rng.normal(0, 1, 400) + rng.normal(0, .1, (2, 400))
    draws = bootstrap_means(values, 4000, rng)
    assert draws.std(axis=0) == pytest.approx(values.std(axis=1) / 20, rel=.06)
    assert (draws[:, 0] - draws[:, 1]).std() == pytest.approx((values[0] - values[1]).std() / 20, rel=.06)


def test_permutation_is_exact_for_few_and_uniform_without_effect():
    differences = np.array([.3, -.1, .2, .4])
    flips = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=4)]
    wanted = np.mean([value >= abs(differences.sum()) - 1e-12 for value in flips])
    assert sign_flip_p(differences, np.random.default_rng(0)) == wanted
    p = [sign_flip_p(np.random.default_rng(n).normal(0, 1, 40), np.random.default_rng(n), 400) for n in range(200)]
    assert .3 < np.mean(np.array(p) < .4) < .5
    assert sign_flip_p(np.random.default_rng(1).normal(1, 1, 40), np.random.default_rng(1), 400) < .01


def test_draws_have_the_spread_of_the_estimates():
    score, runs = crossed(np.random.default_rng(11), seeds=5, run=.03)
    found = estimate(score, runs)
    weights = np.array([1, -1, 0, 0])
    low, high = np.quantile(found.draws(4000, np.random.default_rng(0)) @ weights, [.025, .975])
    wanted = found.contrast(weights).interval()
    assert (high - low) == pytest.approx(wanted[1] - wanted[0], rel=.12)
