"""Does training data hold evaluation items? Images by likeness, texts by shared word sequences. Reports and removes.

    find(train, evaluation)   a list of matches: which training sample, which item, how alike
    remove(...)               the training data set again, without the samples that match

Images: every view of an evaluation image (whole, mirrored, crops) is looked up among the fingerprints of the training
images, and every view of a training image among those of the evaluation images, so that a crop is found from either
side. Candidates are confirmed on the pixels. Texts: an evaluation text matches if enough of its word n-grams stand in
one training text; short ones only if they are the same. Answers that are no more than a few words prove nothing and are
left out. Method: n-gram overlap as in the GPT-3 paper's appendix C; perceptual hashing for images.
"""
from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.shards import Corrupt, DataSet, Subset
from data_tools import fingerprints
from data_tools.dataset import Sample, building
from data_tools.pictures import sniff
from data_tools.shards import id_hash, texts

_WORD = re.compile(r"\w+")


@dataclass
class Options:
    """Thresholds. `distance`: bits; `likeness`: correlation of the pixels that confirms a candidate, 0 to 1."""

    distance: int = 12           # 7 where one side holds more than `many` images: the bands' reach
    many: int = 100_000
    likeness: float = 0.93
    gram: int = 4                # words in a row that make a candidate if two such stand in both texts
    share: float = 0.75          # of an evaluation text's words that one training text must hold, in order
    least_words: int = 8         # shorter texts must be the same, and hold at least 5 words
    images: bool = True
    text: bool = True
    both_sides: bool = True      # also crops of training images; slow for millions of them


Match = dict[str, Any]


def find(train: Path | str, evaluation: Iterable[Path | str], options: Options | None = None) -> list[Match]:
    """Matches {"kind", "train", "train_subset", "item", "item_data", "score"}, in order of the training samples.

    `kind` is image or text. Evaluation subsets of `train` itself are compared too. Raises UserError if one is no data
    set or there is nothing to compare."""
    options = options or Options()
    data = DataSet(train)
    items = [subset for path in dict.fromkeys([str(train), *map(str, evaluation)])
             for subset in _subsets(DataSet(path), evaluation=True)]
    samples = _subsets(data, evaluation=False)
    if not items or not samples:
        raise UserError(f"{train}: {'no evaluation items' if not items else 'no training samples'} to compare")
    matches = [*(_images(samples, items, options) if options.images else ()),
               *(_texts(samples, items, options) if options.text else ())]
    return sorted(matches, key=lambda m: (m["train_subset"], m["train"], m["item"], m["kind"]))


def remove(train: Path | str, out: Path | str, matches: Sequence[Match]) -> dict[str, Any]:
    """Write `out` as `train` without the matching training samples; returns the manifest, with `removed` per subset."""
    bad, data, removed = {m["train"] for m in matches}, DataSet(train), Counter()
    out = Path(out)

    def kept(subset: Subset) -> Iterator[Sample]:
        for i in range(len(subset)):
            record, image = subset.read(i)
            if subset.kind != "evaluation" and record["id"] in bad:
                removed[subset.subset] += 1
                continue
            yield Sample(record, image, (sniff(image) or "png") if image else "png")

    with building(out, out.name, data.languages) as made:
        for name, entry in data.manifest["subsets"].items():
            made.subset(name, entry["kind"], kept(data.subset(name)))
        extra = {k: v for k, v in data.manifest.items() if k in ("concepts", "styles", "rows", "text", "translation")}
        return made.finish(data.manifest["sources"], **extra, removed=dict(removed))


def _subsets(data: DataSet, evaluation: bool) -> list[Subset]:
    return [data.subset(name) for name, entry in data.manifest["subsets"].items()
            if (entry["kind"] == "evaluation") == evaluation]


def _readable(subset: Subset) -> Iterator[tuple[int, dict[str, Any], bytes | None]]:
    for i in range(len(subset)):
        try:
            yield i, *subset.read(i)
        except Corrupt:
            continue


# ---- images

def _images(samples: Sequence[Subset], items: Sequence[Subset], options: Options) -> Iterator[Match]:
    stored = [_Pictures(subsets) for subsets in (samples, items)]
    if not all(len(s.places) for s in stored):
        return
    confirmed: dict[tuple[int, int], float] = {}
    distance = options.distance if max(len(s.places) for s in stored) <= options.many else fingerprints.REACH
    for one, other, swapped in ((stored[1], stored[0], True), (stored[0], stored[1], False)):
        index = fingerprints.Neighbours(other.marks)
        for number in range(len(one.places) if swapped or options.both_sides else 0):
            image = one.image(number)
            near: dict[int, list[fingerprints.Box]] = defaultdict(list)
            for box in fingerprints.views():
                for found in index.find(fingerprints.of_image(fingerprints.view(image, box)), distance):
                    near[found].append(box)
            for found, boxes in near.items():
                pair = (found, number) if swapped else (number, found)
                confirmed[pair] = max(aligned(image, other.image(found), boxes), confirmed.get(pair, 0.0))
    for (sample, item), score in confirmed.items():
        if score >= options.likeness:
            yield from _match("image", stored[0].ids(sample), stored[1].ids(item), score)


class _Pictures:
    """The different images of some subsets: fingerprints, where they are, and which samples show them."""

    def __init__(self, subsets: Sequence[Subset]):
        self.subsets, self.places, self.marks = subsets, [], []
        self.shown: dict[bytes, list[tuple[str, str, str]]] = defaultdict(list)
        self.digests: list[bytes] = []
        self.recent: dict[int, Any] = {}
        import hashlib

        for number, subset in enumerate(subsets):
            for i, record, data in _readable(subset):
                if not data:
                    continue
                digest = hashlib.blake2b(data, digest_size=16).digest()
                if digest not in self.shown:
                    try:
                        self.marks.append(fingerprints.of_bytes(data))
                    except (OSError, ValueError):
                        continue
                    self.places.append((number, i))
                    self.digests.append(digest)
                self.shown[digest].append((record["id"], subset.subset, subset.dataset.name))

    def image(self, number: int) -> Any:
        """The decoded image, reduced to what comparing needs."""
        from PIL import Image

        if number not in self.recent:
            subset, i = self.places[number]
            image = Image.open(io.BytesIO(self.subsets[subset].read(i)[1])).convert("RGB")
            image.thumbnail((160, 160))
            if len(self.recent) > 2000:
                self.recent.clear()
            self.recent[number] = image
        return self.recent[number]

    def ids(self, number: int) -> list[tuple[str, str, str]]:
        return self.shown[self.digests[number]]


def aligned(image: Any, other: Any, boxes: Sequence[fingerprints.Box]) -> float:
    """Best correlation of a part of `image` with all of `other`: the likeliest box, moved until nothing is won."""
    score, box = max((correlation(fingerprints.view(image, box), other), box) for box in boxes)
    step = 0.05 if 0.5 < score < 0.98 and box[2] > 0 else 0.0
    while step > 0.01:
        moves = [(dx, dy, ds) for dx, dy, ds in (
            (step, 0, 0), (-step, 0, 0), (0, step, 0), (0, -step, 0), (0, 0, step), (0, 0, -step),
            (-step / 2, -step / 2, step), (step / 2, step / 2, -step))]
        around = [(box[0] + dx, box[1] + dy, min(1.0, box[2] + ds)) for dx, dy, ds in moves]
        found, place = max((correlation(fingerprints.view(image, b), other), b) for b in around)
        if found > score + 1e-4:
            score, box = found, place
        else:
            step /= 2
    return score


def correlation(one: Any, other: Any, side: int = 24) -> float:
    """Correlation of two images' colours, reduced to `side` pixels; 1 for the same, about 0 for unrelated ones."""
    arrays = [np.asarray(image.convert("RGB").resize((side, side), 1), dtype=np.float64).reshape(-1)
              for image in (one, other)]
    centred = [a - a.mean() for a in arrays]
    norms = [float(np.linalg.norm(a)) for a in centred]
    if min(norms) < 1e-6:
        return float(max(norms) < 1e-6 and abs(arrays[0].mean() - arrays[1].mean()) < 4)
    return float(centred[0] @ centred[1] / (norms[0] * norms[1]))


# ---- text

def _texts(samples: Sequence[Subset], items: Sequence[Subset], options: Options) -> Iterator[Match]:
    wanted: list[tuple[tuple[str, str, str], list[str]]] = []
    where: dict[int, list[int]] = defaultdict(list)
    exact: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
    for subset in items:
        for _, record, _ in _readable(subset):
            place = (record["id"], subset.subset, subset.dataset.name)
            for text in _questions(record, subset.languages):
                words = _words(text)
                if len(words) >= options.least_words:
                    for gram in set(_grams(words, options.gram)):
                        where[gram].append(len(wanted))
                    wanted.append((place, words))
                elif len(words) >= 5:
                    exact[id_hash(" ".join(words))].append(place)
    # an n-gram of very many items ("in this picture there is") says nothing about any one of them
    common = {gram for gram, numbers in where.items() if len(numbers) > max(20, len(wanted) // 50)}
    for subset in samples:
        for _, record, _ in _readable(subset):
            place = (record["id"], subset.subset, subset.dataset.name)
            for language in subset.languages:
                for text in texts(record, language) or ():
                    yield from _text_matches(_words(text), place, wanted, where, exact, common, options)


def _text_matches(words: list[str], place: tuple[str, str, str], wanted: list, where: dict, exact: dict,
                  common: set[int], options: Options) -> Iterator[Match]:
    for other in exact.get(id_hash(" ".join(words)), ()) if len(words) < options.least_words else ():
        yield from _match("text", [place], [other], 1.0)
    hits = Counter(number for gram in set(_grams(words, options.gram)) if gram in where and gram not in common
                   for number in where[gram])
    for number, count in hits.items():
        share = _held(wanted[number][1], words) if count >= 2 else 0.0
        if share >= options.share:
            yield from _match("text", [place], [wanted[number][0]], share)


def _held(wanted: list[str], words: list[str]) -> float:
    """Share of the wanted words that stand in `words` in the same order, in stretches of two at least."""
    blocks = SequenceMatcher(None, words, wanted, autojunk=False).get_matching_blocks()
    return sum(b.size for b in blocks if b.size >= 2) / len(wanted)


def _questions(record: dict[str, Any], languages: Iterable[str]) -> Iterator[str]:
    """The question of an item with what would give it away: its references, where they are sentences."""
    for language in languages:
        if language in record.get("prompt", {}):
            yield record["prompt"][language].replace("<image>", " ")
            yield from record.get("references", {}).get(language, ())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.replace("<image>", " ").casefold())


def _grams(words: Sequence[str], size: int) -> Iterator[int]:
    for i in range(len(words) - size + 1):
        yield id_hash(" ".join(words[i:i + size]))


def _match(kind: str, samples: Iterable[tuple[str, str, str]], items: Iterable[tuple[str, str, str]],
           score: float) -> Iterator[Match]:
    for sample, subset, _ in samples:
        for item, item_subset, data in items:
            yield {"kind": kind, "train": sample, "train_subset": subset, "item": item, "item_subset": item_subset,
                   "item_data": data, "score": round(score, 3)}
