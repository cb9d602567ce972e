"""Share or amount: does the score follow the target language's share of the image-text data, or how much there is?

In most grids one is the other times a constant. Where they vary apart (grids/mini-amount.yaml) the means of the
conditions are fitted by least squares,

    score = a + b log2(amount) + c log2(share)

b is what twice the amount gives at an equal share, c what twice the share gives at an equal amount, with half of the
other data. Both are contrasts of the means, so their intervals are over items and runs like all others.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.estimates import Contrast, Estimates
from analysis.study import Study


@dataclass
class Amount:
    """rows: (share, samples in all, samples in the target language, score in the target and in the base language)."""

    rows: list[tuple[float, int, int, Contrast, Contrast]]
    by_amount: Contrast
    by_share: Contrast


def amount(study: Study) -> Amount | None:
    """None where share and amount do not vary apart. Conditions with another backbone than the reference, or with
    text-only data, are left out."""
    q = study.questions
    target, base = study.estimates(q.target_language), study.estimates(q.base_language)
    if target is None or base is None or len(target.mean) != len(base.mean):
        return None
    samples = _samples(study, target)
    keep = np.flatnonzero(study.plain(target.conditions) & (samples > 0).all(axis=1))
    total, own = samples[keep].T
    share = own / np.maximum(total, 1)
    fit = np.column_stack([np.ones(len(keep)), np.log2(own), np.log2(share)])
    if np.linalg.matrix_rank(fit, tol=0.1) < fit.shape[1]:
        return None
    weights = np.zeros((fit.shape[1], len(target.mean)))
    weights[:, keep] = np.linalg.pinv(fit)
    _, by_amount, by_share = target.contrasts(weights)
    unit = np.eye(len(target.mean))[keep]
    rows = list(zip(share.tolist(), total.astype(int).tolist(), own.astype(int).tolist(), target.contrasts(unit),
                    base.contrasts(unit), strict=True))
    return Amount(sorted(rows, key=lambda row: row[:3]), by_amount, by_share)


def _samples(study: Study, estimates: Estimates) -> np.ndarray:
    """(conditions, 2): image-text samples in all and in the target language, a mean over the condition's runs."""
    scores = study.collected.scores.drop_duplicates("run").set_index("run")
    columns = [name for name in scores.columns if name.startswith("samples_image_")]
    own = f"samples_image_{study.questions.target_language}"
    if own not in columns:
        return np.zeros((len(estimates.mean), 2))
    read = scores.loc[estimates.runs, columns].astype(float)
    pairs = np.column_stack([read.sum(axis=1), read[own]])
    return np.array([pairs[estimates.condition_of == number].mean(axis=0) for number in range(len(estimates.mean))])
