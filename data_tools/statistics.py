"""What `begira data show` measures in the texts of a subset: lengths, languages, what is missing. Plain data.

Lengths are characters of a whole sample in one language, as the index holds them; languages are recognised in a fair
sample of texts (those whose id hashes are smallest). Laying it out for people is `data_tools.page`'s business.
"""
from __future__ import annotations

from collections import Counter

import numpy as np

from core.shards import Corrupt, Subset
from data_tools.shards import texts

EDGES = (0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120)     # characters; the last class has no upper end
RECOGNISED = 150                                                  # texts per subset and language
WORDS = 4                                                         # fewer are not told apart


def histogram(subset: Subset) -> dict[str, list[int]]:
    """Samples per class of length (from EDGES[i] on, below EDGES[i + 1]), by language that is there."""
    return {language: np.histogram(found, [*EDGES, np.iinfo(np.int32).max])[0].tolist()
            for language, chars in subset.chars.items() if len(found := chars[chars >= 0])}


def without_text(subset: Subset) -> dict[str, int]:
    """Samples with an image whose text in a language is absent or empty, by language."""
    images = subset.images.astype(bool)
    return {language: int((images & (chars <= 0)).sum()) for language, chars in subset.chars.items()}


def languages_found(subset: Subset) -> dict[str, dict[str, float]]:
    """By declared language: shares of its texts by the language that was recognised, the most frequent first.

    Method: py3langid (Lui and Baldwin 2012) with its own model; short texts are left out, so a subset of single words
    gives nothing."""
    result = {}
    order = np.argsort(subset.id_hash)
    for language in subset.languages:
        counts: Counter = Counter()
        for i in order[subset.chars[language][order] >= 0][:4 * RECOGNISED]:
            if text := _text(subset, int(i), language):
                counts[_recognised(text)] += 1
            if sum(counts.values()) == RECOGNISED:
                break
        if counts:
            result[language] = {code: round(n / sum(counts.values()), 3) for code, n in counts.most_common()}
    return result


def _text(subset: Subset, i: int, language: str) -> str:
    """All texts of a sample in a language; "" if they are few words, or the sample is damaged."""
    try:
        found = " ".join(texts(subset.record(i), language) or ()).replace("<image>", " ")
    except Corrupt:
        return ""
    return found if len(found.split()) >= WORDS else ""


def _recognised(text: str) -> str:
    import py3langid

    return str(py3langid.classify(text)[0])
