"""Agreement and strengths against published values and known orders."""
from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from analysis import preferences
from analysis.agreement import cohen_kappa, krippendorff_alpha
from analysis.bradley_terry import Games, chances, expected_share, fit
from analysis.judge_tables import trust

# Krippendorff 2011, four observers and twelve units; a point is a missing value
KRIPPENDORFF = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .",
                "1 2 3 3 2 4 4 1 2 5 1 ."]


def test_kappa_of_known_tables():
    def rated(both_yes, yes_no, no_yes, both_no):
        return ("y" * (both_yes + yes_no) + "n" * (no_yes + both_no),
                "y" * both_yes + "n" * yes_no + "y" * no_yes + "n" * both_no)

    assert cohen_kappa(*rated(20, 5, 10, 15)) == pytest.approx(0.4)
    assert cohen_kappa(*rated(45, 15, 25, 15)) == pytest.approx(0.1304, abs=1e-4)
    assert cohen_kappa("ynyn", "ynyn") == 1 and math.isnan(cohen_kappa("yy", "yy")) and math.isnan(cohen_kappa("", ""))
    with pytest.raises(ValueError, match="beside"):
        cohen_kappa("yy", "y")


def test_alpha_of_the_published_example():
    triples = [(unit, rater, int(value)) for rater, row in enumerate(KRIPPENDORFF)
               for unit, value in enumerate(row.split()) if value != "."]
    assert krippendorff_alpha(triples) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(triples, "interval") == pytest.approx(0.849, abs=5e-4)
    assert math.isnan(krippendorff_alpha([("u", 1, "a")]))


def games(strength, tie, n, seed):
    rng = np.random.default_rng(seed)
    players = len(strength)
    beat, tied = chances(np.asarray(strength), tie)
    a = rng.integers(0, players, n)
    b = (a + rng.integers(1, players, n)) % players
    draw = rng.random(n)
    outcome = np.where(draw < beat[a, b], 1, np.where(draw < beat[a, b] + tied[a, b], 0, -1))
    return Games(players, a, b, outcome, np.arange(n) // 3, a, b)


def test_a_known_order_is_recovered_with_its_intervals():
    true = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    inside = []
    for seed in range(20):
        fitted = fit(games(true, -0.3, 900, seed), draws=150, seed=seed)
        assert (np.diff(fitted.strength) > 0).all() and abs(fitted.tie + 0.3) < 0.4
        inside += ((fitted.low <= true) & (true <= fitted.high)).tolist()
    assert 0.88 <= np.mean(inside) <= 1.0
    assert expected_share(true, -0.3).mean() == pytest.approx(0.5)


def test_only_the_order_given_is_recovered():
    """Negative control: with equal strengths no order shows, and who always wins stays finite."""
    equal = fit(games(np.zeros(5), 0.0, 900, 1), draws=200)
    assert ((equal.low < 0) & (equal.high > 0)).all()
    a, b = np.zeros(40, int), np.ones(40, int)
    one = fit(Games(2, a, b, np.ones(40, int), np.arange(40), a, b), draws=20)
    assert np.isfinite(one.strength).all() and one.share[0] > 0.98


def test_runs_of_a_condition_widen_the_interval():
    """Two seeds of one player that differ much: the interval must know that a third might differ too."""
    rng = np.random.default_rng(0)
    n = 800
    run_b = rng.integers(1, 3, n)     # player 1 has runs 1 and 2, of which one loses and one wins
    outcome = np.where(rng.random(n) < np.where(run_b == 1, 0.9, 0.3), 1, -1)
    zero, one = np.zeros(n, int), np.ones(n, int)
    with_runs = fit(Games(2, zero, one, outcome, np.arange(n), zero, run_b), draws=200)
    without = fit(Games(2, zero, one, outcome, np.arange(n), zero, one), draws=200)
    assert np.diff([with_runs.share_low[0], with_runs.share_high[0]]) > 3 * np.diff(
        [without.share_low[0], without.share_high[0]])


def judgement(judge, left, right, verdict, voter="", status="ok", item="i1"):
    return {"judge": judge, "voter": voter, "kind": "pair", "prompt": "pair-1", "prompt_language": "en", "images": True,
            "subset": "s", "task": "t", "language": "eu", "item": item, "concept": item, "left": left, "right": right,
            "status": status, "verdict": verdict, "tokens_in": 1, "tokens_out": 1, "cost": 0.0, "id": ""}


def test_a_pair_is_won_only_in_both_orders():
    rows = [judgement("m", "a", "b", "left", item="won"), judgement("m", "b", "a", "right", item="won"),
            judgement("m", "a", "b", "left", item="unsteady"), judgement("m", "b", "a", "left", item="unsteady"),
            judgement("m", "a", "b", "bad", item="bad"), judgement("m", "b", "a", "tie", item="bad"),
            judgement("m", "a", "b", "left", item="half"), judgement("m", "b", "a", "", status="error", item="half"),
            judgement("human", "b", "a", "left", "Ane", item="won")]
    merged = preferences.outcomes(pd.DataFrame(rows)).set_index(["judge", "item"])
    assert merged["outcome"].to_dict() == pytest.approx(
        {("human", "won"): -1, ("m", "won"): 1, ("m", "unsteady"): 0, ("m", "bad"): 0, ("m", "half"): math.nan},
        nan_ok=True)
    assert merged["steady"].to_dict() == {("human", "won"): None, ("m", "won"): True, ("m", "unsteady"): False,
                                          ("m", "bad"): True, ("m", "half"): None}


def test_one_order_alone_wins_nothing():
    """A judge that was killed between the two orders; people see one order and are taken at their word."""
    rows = [judgement("m", "a", "b", "left"), judgement("human", "a", "b", "left", "Ane")]
    merged = preferences.outcomes(pd.DataFrame(rows)).set_index("judge")
    assert math.isnan(merged.loc["m", "outcome"]) and merged.loc["human", "outcome"] == 1.0
    people, machine = preferences.raters(pd.DataFrame(rows))
    assert (people.half, machine.half) == (0, 1) and machine.shared == 0
    assert "in one order only, and without an outcome: 1 pairs" in trust(pd.DataFrame(rows)).caption
    whole = pd.DataFrame([*rows, judgement("m", "b", "a", "right")])
    assert preferences.raters(whole)[1].half == 0 and "one order only" not in trust(whole).caption
    assert preferences.outcomes(whole).set_index("judge").loc["m", "outcome"] == 1.0


def test_agreement_with_people_is_with_most_of_them():
    rows = []
    for number, verdict in enumerate(("left", "right", "left", "tie")):
        item, other = f"i{number}", {"left": "right", "right": "left", "tie": "tie"}[verdict]
        rows += [judgement("m", "a", "b", verdict, item=item), judgement("m", "b", "a", other, item=item)]
        rows += [judgement("human", "a", "b", verdict, voter, item=item) for voter in ("Ane", "Jon")]
        rows += [judgement("human", "a", "b", "left", "Miren", item=item)]
    found = pd.DataFrame(rows)
    people, machine = preferences.raters(found)
    assert machine.kappa == 1.0 and machine.shared == 4 and math.isnan(people.kappa)
    value, pairs, raters = preferences.alpha(found)
    assert 0.3 < value < 1 and (pairs, raters) == (4, 4)
