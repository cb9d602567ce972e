"""Laying the samples of a window into packs of equal cost. Pure: arrays in, pack numbers out.

`assign` cuts the window's order into stretches of equal tokens, so that the mixture's shares hold at every pack and
not only at every window; then it relieves the heaviest pack, again and again, by exchanging samples with others:
samples of one stream first, which leaves the shares as they are, and if that does not suffice (few long samples to a
pack) any. A window has a fixed number of packs, whatever is in it. `spread` divides packs among ranks. Not here: what
a window is (core.mixture), what becomes of a pack (core.stream).
"""
from __future__ import annotations

import numpy as np

SPREAD = (0.02, 0.04)    # exchanges end when the heaviest pack is this close to the mean: inside streams, then any
SWAPS = 8                # exchanges per pack at most


def assign(stream: np.ndarray, tokens: np.ndarray, images: np.ndarray, packs: int) -> np.ndarray:
    """Pack number in [0, packs) of every sample [n] of a window, given in the mixture's order.

    n may be 0: where images and not tokens fix the number of steps, a long sample can reach over a whole window."""
    if not len(tokens):
        return np.zeros(0, np.int64)
    running = np.cumsum(tokens)
    middle = running - tokens / 2
    result = np.minimum((middle * packs / max(int(running[-1]), 1)).astype(np.int64), packs - 1)
    _exchange(result, stream, tokens, images, packs, SPREAD[0], across=False)
    for slack in (0, 1):
        _exchange(result, stream, tokens, images, packs, SPREAD[1], across=True, slack=slack)
    return result


def spread(tokens: np.ndarray, images: np.ndarray, parts: int) -> list[list[int]]:
    """Divide packs [n], given their tokens and images, into `parts` groups of n / parts whose costs (share of tokens
    + share of images) are nearly equal: the packs of a step over the ranks. Indices of each group."""
    cost = tokens / max(tokens.mean(), 1) + (images / images.mean() if images.any() else 0)
    loads, groups = np.zeros(parts), np.empty(len(tokens), np.int64)
    for members in np.argsort(-cost, kind="stable").reshape(-1, parts):
        places = np.argsort(loads, kind="stable")
        groups[members] = places
        loads[places] += cost[members]
    return [np.flatnonzero(groups == part).tolist() for part in range(parts)]


def _exchange(result: np.ndarray, stream: np.ndarray, tokens: np.ndarray, images: np.ndarray, packs: int,
              spread: float, across: bool, slack: int = 0) -> None:
    """Relieve the heaviest pack, in place, until it is light enough or nothing helps: one of its samples goes to
    another pack, against a smaller one of that pack, or (`across` streams) against any smaller one or none.

    No exchange takes a pack's images further from the even share than `slack`."""
    n = len(tokens)
    loads, held = (np.bincount(result, a, packs).astype(np.int64) for a in (tokens, images))
    least, most = held.sum() // packs - slack, -(-held.sum() // packs) + slack
    place = np.concatenate([result, np.arange(packs)])             # behind the samples stands one nothing per pack
    size, pictures, kind = (np.concatenate([a, np.full(packs, v)]) for a, v in ((tokens, 0), (images, 0), (stream, -1)))
    for _ in range(SWAPS * packs):
        heavy = int(loads.argmax())
        if loads[heavy] <= (1 + spread) * loads.mean():
            break
        mine = np.flatnonzero(place[:n] == heavy)
        gain, moved = size[mine][:, None] - size, pictures[mine][:, None] - pictures
        after = np.maximum(loads[heavy] - gain, loads[place] + gain).astype(float)
        there, here = held[place] + moved, held[heavy] - moved
        uneven = (moved > 0) & ((there > most) | (here < least)) | (moved < 0) & ((there < least) | (here > most))
        after[uneven] = np.inf
        after[:, place == heavy] = np.inf
        if not across:
            after[stream[mine][:, None] != kind] = np.inf
        best = int(after.argmin())
        if after.flat[best] >= loads[heavy]:
            break
        i, j = int(mine[best // len(size)]), best % len(size)
        other, tokens_moved, images_moved = int(place[j]), int(size[i] - size[j]), int(pictures[i] - pictures[j])
        place[i] = other
        if j < n:
            place[j] = heavy
        for pack, sign in ((heavy, -1), (other, 1)):
            loads[pack] += sign * tokens_moved
            held[pack] += sign * images_moved
    result[:] = place[:n]
