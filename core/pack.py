"""Laying the samples of a window into packs of equal cost and equal make-up. Pure: arrays in, pack numbers out.

`assign` deals every stream's samples round by round, longest to the pack that is lightest so far, so that every pack holds
as many samples (and images) of every stream as its neighbours, and then swaps samples between the heaviest and the
lightest packs. A window has a fixed number of packs, whatever is in it; the order of the samples inside a pack and of the
packs follows from the input alone. Not here: what a window is (core.mixture), what a pack becomes (core.stream).
"""
from __future__ import annotations

import numpy as np

SPREAD = 0.01            # swapping ends when the heaviest pack is within this share of the mean
SWAPS = 8                # swaps per pack at most


def assign(stream: np.ndarray, tokens: np.ndarray, images: np.ndarray, packs: int) -> np.ndarray:
    """Pack number in [0, packs) of every sample [n]. `stream` groups samples that should be spread evenly."""
    order = np.lexsort((np.arange(len(tokens)), -tokens, stream, images == 0))
    loads = np.zeros(packs, np.int64)
    result = np.zeros(len(tokens), np.int64)
    rounds, rest = _rounds(order, stream, packs)
    # what does not fill a round goes first, one sample to a pack in turn: images never differ by more than one there
    turn = np.argsort(_reversed_bits(packs), kind="stable")
    places = turn[np.arange(len(rest)) % packs]
    result[rest] = places
    np.add.at(loads, places, tokens[rest])
    rounds.sort(key=lambda members: int(tokens[members[-1]]) - int(tokens[members[0]]))  # widest first
    for members in rounds:
        places = np.argsort(loads, kind="stable")
        result[members] = places
        loads[places] += tokens[members]
    _swap(result, loads, stream, tokens, images)
    return result


def _rounds(order: np.ndarray, stream: np.ndarray, packs: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Per stream, longest first: whole rounds of `packs` samples, and an evenly spaced remainder."""
    rounds, rest = [], []
    breaks = np.flatnonzero(np.diff(stream[order])) + 1
    for members in np.split(order, breaks):
        extra = len(members) % packs
        spaced = np.zeros(len(members), bool)
        spaced[((np.arange(extra) + 0.5) * len(members) / max(extra, 1)).astype(int)] = True
        rest.append(members[spaced])
        rounds += list(members[~spaced].reshape(-1, packs))
    return rounds, np.concatenate(rest) if rest else order[:0]


def _reversed_bits(n: int) -> np.ndarray:
    """0 .. n-1 read backwards as binary fractions: any stretch of that order is spread over the whole."""
    bits = max(1, int(n - 1).bit_length())
    return sum(((np.arange(n) >> b) & 1) << (bits - 1 - b) for b in range(bits))


def _swap(result: np.ndarray, loads: np.ndarray, stream: np.ndarray, tokens: np.ndarray, images: np.ndarray) -> None:
    """Swap pairs between the heaviest and the lightest pack, in place, while that helps; first inside a stream."""
    packs, mean = len(loads), loads.mean()
    for same in (stream, images):
        for _ in range(SWAPS * packs):
            heavy, light = int(loads.argmax()), int(loads.argmin())
            if max(loads[heavy] - mean, mean - loads[light]) <= SPREAD * mean:
                return
            a, b = np.flatnonzero(result == heavy), np.flatnonzero(result == light)
            if not len(a) or not len(b):
                break
            gain = tokens[a][:, None] - tokens[b][None, :]
            gain = np.where(same[a][:, None] == same[b][None, :], gain, 0)
            left = np.abs(loads[heavy] - loads[light] - 2 * gain)
            best = int(left.argmin())
            if left.flat[best] >= loads[heavy] - loads[light]:
                break
            i, j = a[best // len(b)], b[best % len(b)]
            result[i], result[j] = light, heavy
            loads[heavy] -= gain.flat[best]
            loads[light] += gain.flat[best]
