"""What judgements come to: outcomes of pairs, how steady and how agreed they are, and which condition is preferred.

A pair that was judged in both orders is won only by an answer that won both; else it is a tie (the conservative rule of
Zheng et al. 2023, "Judging LLM-as-a-Judge"). Humans see one order. A pair with an unreadable or failed judgement, or
one that a machine judged in one order only, has no outcome; it is counted beside the others. Tables of it are in
analysis.judge_tables."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis.agreement import cohen_kappa, krippendorff_alpha
from analysis.bradley_terry import Fitted, Games, fit

if TYPE_CHECKING:
    import pandas as pd

HUMAN = "human"
RATER = ["judge", "prompt", "prompt_language", "images"]
UNIT = ["task", "subset", "language", "item", "a", "b"]
READ = ("ok", "same")


def outcomes(judgements: pd.DataFrame) -> pd.DataFrame:
    """One row per pair and rater: RATER, voter, UNIT, concept, outcome (1: a is better, 0, -1; NaN: none), orders (how
    many were judged), steady (both orders say the same; None where only one was read, or none was asked)."""
    frame = judgements[judgements["kind"] == "pair"].copy()
    straight = frame["left"] <= frame["right"]
    frame["a"] = frame["left"].where(straight, frame["right"])
    frame["b"] = frame["right"].where(straight, frame["left"])
    value = frame["verdict"].map({"left": 1.0, "right": -1.0, "tie": 0.0, "bad": 0.0})
    frame["value"] = value.where(straight, -value).where(frame["status"].isin(READ))
    frame["asked"] = frame["status"] != "same"
    groups = frame.groupby([*RATER, "voter", *UNIT], sort=True)
    found = groups.agg(concept=("concept", "first"), orders=("value", "size"), read=("value", "count"),
                       low=("value", "min"), high=("value", "max"), asked=("asked", "any")).reset_index()
    # a judge that was killed, or a batch that came back in part, leaves pairs in one order: that decides nothing
    complete = (found["read"] == found["orders"]) & ((found["orders"] == 2) | (found["judge"] == HUMAN))
    found["outcome"] = found["low"].where(found["low"] == found["high"], 0.0).where(complete)
    both = complete & (found["orders"] == 2) & found["asked"]
    found["steady"] = (found["low"] == found["high"]).astype(object).where(both, None)
    return found.drop(columns=["low", "high", "read"])


@dataclass
class Rater:
    """One judge with one prompt, or all humans together. half: pairs that a machine judged in one order only;
    consistency: share of pairs with the same outcome in both orders; first: share of decided judgements won by the
    answer that was shown first. kappa: with the humans' majority, over `shared` pairs. NaN: not known."""

    judge: str
    prompt: str
    prompt_language: str
    images: bool
    pairs: int
    judgements: int
    unreadable: int
    failed: int
    half: int
    consistency: float
    first: float
    kappa: float
    shared: int
    tokens_in: int
    tokens_out: int
    cost: float


def raters(judgements: pd.DataFrame) -> list[Rater]:
    """Every judge with every prompt, in order of name."""
    merged = outcomes(judgements)
    human = majority(merged[merged["judge"] == HUMAN])
    found = []
    for key, rows in judgements.groupby(RATER, sort=True):
        own = merged[(merged[RATER] == list(key)).all(axis=1)]
        decided = rows[(rows["status"] == "ok") & rows["verdict"].isin(["left", "right"])]
        both = own["steady"].dropna()
        kappa, shared = (float("nan"), 0) if key[0] == HUMAN else _kappa(majority(own), human)
        found.append(Rater(*key, pairs=len(own), judgements=int((rows["status"] != "same").sum()),
                           unreadable=int((rows["status"] == "unreadable").sum()),
                           failed=int((rows["status"] == "error").sum()),
                           half=0 if key[0] == HUMAN else int((own["orders"] == 1).sum()),
                           consistency=float(both.astype(float).mean()) if len(both) else float("nan"),
                           first=float((decided["verdict"] == "left").mean()) if len(decided) else float("nan"),
                           kappa=kappa, shared=shared, tokens_in=int(rows["tokens_in"].sum()),
                           tokens_out=int(rows["tokens_out"].sum()), cost=float(rows["cost"].sum())))
    return found


def majority(merged: pd.DataFrame) -> dict[tuple, float]:
    """{unit: outcome} of what most raters say; where no outcome leads, a tie."""
    votes: dict[tuple, list[float]] = {}
    for row in merged.dropna(subset=["outcome"])[[*UNIT, "outcome"]].itertuples(index=False):
        votes.setdefault(tuple(row)[:-1], []).append(row.outcome)
    return {unit: _most(values) for unit, values in votes.items()}


def _most(values: list[float]) -> float:
    counts = sorted(((values.count(value), value) for value in set(values)), reverse=True)
    return counts[0][1] if len(counts) == 1 or counts[0][0] > counts[1][0] else 0.0


def _kappa(one: dict[tuple, float], two: dict[tuple, float]) -> tuple[float, int]:
    shared = sorted(one.keys() & two.keys())
    return cohen_kappa([one[unit] for unit in shared], [two[unit] for unit in shared]), len(shared)


def alpha(judgements: pd.DataFrame) -> tuple[float, int, int]:
    """Krippendorff's alpha (nominal: better, worse, tie) of all judges and voters, the number of pairs with at least
    two of them, and of raters."""
    merged = outcomes(judgements).dropna(subset=["outcome"])
    merged = merged[merged.duplicated(UNIT, keep=False)]
    triples = [(tuple(row[:len(UNIT)]), tuple(row[len(UNIT):-1]), row[-1])
               for row in merged[[*UNIT, *RATER, "voter", "outcome"]].itertuples(index=False, name=None)]
    return (krippendorff_alpha(triples), merged.drop_duplicates(UNIT).shape[0],
            merged.drop_duplicates([*RATER, "voter"]).shape[0])


def strengths(merged: pd.DataFrame, owner: dict[str, str], draws: int = 1000) -> tuple[list[str], Fitted, int] | None:
    """(conditions, Bradley-Terry strengths, pairs) from outcomes; owner: {run id: condition}. None without pairs.

    Items of one concept are resampled together, and runs within conditions."""
    rows = merged.dropna(subset=["outcome"])
    rows = rows[rows["a"].isin(owner) & rows["b"].isin(owner)]
    if not len(rows):
        return None
    names = sorted({owner[run] for run in {*rows["a"], *rows["b"]}})
    runs = {run: number for number, run in enumerate(sorted({*rows["a"], *rows["b"]}))}
    player = {name: number for number, name in enumerate(names)}
    clusters = np.unique(rows["concept"].astype(str), return_inverse=True)[1]
    games = Games(len(names), *(rows[side].map(owner).map(player).to_numpy() for side in ("a", "b")),
                  rows["outcome"].to_numpy(), clusters, *(rows[side].map(runs).to_numpy() for side in ("a", "b")))
    return names, fit(games, draws), len(rows)


def grades(judgements: pd.DataFrame, owner: dict[str, str], draws: int = 1000) -> dict[str, tuple[float, float, int]]:
    """{condition: (mean grade 1 to 5, half of its 95 % interval over concepts, answers)} of rubric judgements."""
    rows = judgements[(judgements["kind"] == "rubric") & (judgements["status"] == "ok")]
    rows = rows[rows["left"].isin(owner)]
    found = {}
    rng = np.random.default_rng(0)
    for name, own in rows.groupby(rows["left"].map(owner)):
        codes, clusters = np.unique(own["concept"].astype(str), return_inverse=True)
        sums, counts = np.bincount(clusters, own["grade"]), np.bincount(clusters)
        weights = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=draws)
        low, high = np.percentile((weights @ sums) / (weights @ counts), [2.5, 97.5])
        found[str(name)] = float(own["grade"].mean()), float(high - low) / 2, len(own)
    return found
