"""Quality gates on translations: one source text and its translation in, the reasons to reject it out. Pure.

`Gates.check` names every reason that applies: empty, encoding, copied, wrong language, length, truncated, repetition,
chatty, protected span, number, markup, option, round trip. Thresholds and word lists are in `quality.yaml`; how well
each gate does is measured by `benchmarks/quality_gates.py`. What happens to rejected rows is the caller's business.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

SPANS = re.compile(
    r"<image>|```.*?```|`[^`\n]+`|https?://[^\s<>\"]*[^\s<>\".,;:!?)\]]|[\w.+-]+@[\w-]+\.\w[\w.-]*\w|"
    r"\\\(.*?\\\)|\\\[.*?\\\]|\$\$.+?\$\$|\$(?=[^$\n]*[\\^_=])[^$\n]{1,200}\$|\\begin\{\w+\}.*?\\end\{\w+\}|"
    r"\{\{[^{}\n]+\}\}|\$\{\w+\}|\{[A-Za-z_]\w*\}|%\(\w+\)[sd]|%[sd]\b|%\d\$?[sd]?(?=\W|$)", re.DOTALL)
_OPTION = re.compile(r"(?:^|(?<=\s))\(?([A-H])[).:]\s+")
_NUMBER = re.compile(r"\d+")
_THOUSANDS = re.compile(r"(?<=\d)[.,\u00a0\u202f ](?=\d{3}(?!\d))")
_MARKUP = re.compile(r"&[a-zA-Z]{2,8};|&#\w{1,6};|</?[a-zA-Z][^<>\n]{0,80}>")
_BROKEN = re.compile("\ufffd|[ÃÂ][\u0080-\u00bf\u0152-\u0178\u2013-\u2122]|[\u0000-\u0008\u000e-\u001f]|â€")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_CLOSERS = "\"'”’»)]}*_` \n\t"
_FINAL = ".!?…。:;"


@lru_cache
def defaults() -> dict[str, Any]:
    """quality.yaml."""
    import yaml

    return yaml.safe_load(Path(__file__).with_name("quality.yaml").read_text(encoding="utf-8"))


def protected(text: str) -> list[str]:
    """Spans that a translation must repeat to the letter: placeholders, code, LaTeX, URLs, addresses."""
    return SPANS.findall(text)


def options(text: str) -> list[str]:
    """Letters of a multiple-choice list in the text, in order; [] if it has none ("A" and "B" at least)."""
    letters = _OPTION.findall(text)
    return letters if letters[:2] == ["A", "B"] else []


def numbers(text: str) -> Counter:
    """Digit groups with thousands joined, so that 1,024.5 and 1.024,5 are the same."""
    return Counter(_NUMBER.findall(_THOUSANDS.sub("", text)))


class Gates:
    """The gates for one pair of languages. `overrides` replace entries of quality.yaml."""

    def __init__(self, source: str, target: str, overrides: Mapping[str, Any] | None = None):
        self.source, self.target = source, target
        self.config = {**defaults(), **(overrides or {})}
        alternatives = "|".join(self.config["chatty"])
        self._chatty = re.compile(rf"\W*(?:{alternatives})[^\n:!]{{0,60}}[:!\n]", re.IGNORECASE)
        self._refusal = re.compile("|".join(self.config["refusals"]), re.IGNORECASE)
        self._note = re.compile(rf"\n\W*(?:{'|'.join(self.config['notes'])})", re.IGNORECASE)
        self._any_note = re.compile("|".join(self.config["notes"]), re.IGNORECASE)
        self._languages = None

    def check(self, source: str, translation: str, back: str | None = None) -> list[str]:
        """Reasons to reject; [] means it passes. `back` is a translation back into the source language, if there is."""
        if not _WORD.search(translation) and _WORD.search(source) and not set(protected(source)) & {source.strip()}:
            return ["empty"]
        plain_source, plain = SPANS.sub(" ", source), SPANS.sub(" ", translation)
        checks = {
            "encoding": lambda: bool(_BROKEN.search(translation)) and not _BROKEN.search(source),
            "copied": lambda: self._copied(plain_source, plain),
            "wrong language": lambda: self._wrong_language(plain_source, plain),
            "length": lambda: self._length(plain_source, plain),
            "truncated": lambda: self._truncated(source, translation),
            "repetition": lambda: _loop(plain) > max(_loop(plain_source), 1.0),
            "chatty": lambda: self._talks(source, translation),
            "protected span": lambda: Counter(protected(source)) != Counter(protected(translation)),
            "number": lambda: _numbers_differ(plain_source, plain),
            "markup": lambda: bool(Counter(_MARKUP.findall(plain)) - Counter(_MARKUP.findall(plain_source))),
            "option": lambda: _options_differ(source, translation),
            "round trip": lambda: back is not None and chrf(back, source) < self.config["round_trip"],
        }
        return [reason for reason, applies in checks.items() if applies()]

    def _copied(self, source: str, translation: str) -> bool:
        words = [w.casefold() for w in _WORD.findall(translation) if len(w) >= 3]
        known = {w.casefold() for w in _WORD.findall(source)}
        if len(words) >= 3 and source.split() == translation.split():
            return True
        return (len(words) >= self.config["copied_words"]
                and sum(w in known for w in words) > self.config["copied"] * len(words))

    def _wrong_language(self, source: str, translation: str) -> bool:
        known = {w.casefold() for w in _WORD.findall(source)}
        words = [w for w in _WORD.findall(translation) if w.casefold() not in known]
        if len(words) < self.config["language_words"]:
            return False
        chances = dict(self._identifier().rank(" ".join(words)))
        return float(chances.get(self.target, 1.0)) <= 1.0 - self.config["language_confidence"]

    def _identifier(self) -> Any:
        if self._languages is None:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier

            identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
            known = [lang for lang in dict.fromkeys((self.source, self.target, *self.config["neighbours"]))
                     if lang in identifier.nb_classes]
            if self.target in known:
                identifier.set_languages(known)
            self._languages = identifier
        return self._languages

    def _length(self, source: str, translation: str) -> bool:
        length = len(source.strip())
        if not length:
            return False
        low, high = next(((low, high) for least, low, high in reversed(self.config["length"]) if length >= least),
                         (0.0, float("inf")))
        return not low <= len(translation.strip()) / length <= high

    def _truncated(self, source: str, translation: str) -> bool:
        ends = [text.rstrip(_CLOSERS)[-1:] for text in (source, translation)]
        if ends[0] and ends[0] in _FINAL and ends[1] not in _FINAL:
            return True
        if ends[1] in (",", "-", "–") and ends[0] != ends[1]:
            return True
        if _sentences(source) > _sentences(translation) and len(translation) < self.config["cut"] * len(source):
            return True
        last = [(_WORD.findall(text) or [""])[-1].casefold() for text in (source, translation)]
        if ends[1].isalpha() and last[1] in self.config["dangling"].get(self.target, ()) and last[0] not in self.config[
                "dangling"].get(self.source, ()) and not ends[0].isdigit():
            return True
        return any(translation.count(a) > translation.count(b) and source.count(a) == source.count(b) > 0
                   for a, b in ("()", "[]", "“”", "«»"))

    def _talks(self, source: str, translation: str) -> bool:
        if self._chatty.match(translation) and not self._chatty.match(source):
            return True
        if self._refusal.search(translation) and not self._refusal.search(source):
            return True
        return bool(self._note.search(translation)) and not self._any_note.search(source)


def chrf(hypothesis: str, reference: str) -> float:
    """Sentence chrF (sacrebleu's default), 0 to 100."""
    from sacrebleu.metrics import CHRF

    return CHRF().sentence_score(hypothesis, [reference]).score


def _loop(text: str, longest: int = 25) -> float:
    """How often a group of neighbouring words stands in a row, 1 if never; a single word counts half."""
    words, most = text.casefold().split(), 1.0
    for size in range(1, min(longest, len(words) // 2) + 1):
        run = best = 0
        for i in range(size, len(words)):
            run = run + 1 if words[i] == words[i - size] else 0
            best = max(best, run)
        times = 1 + best // size
        if size == 1:
            times = times / 2 if times > 2 else 1
        elif size < 4 and times < 3:
            times = 1  # "bit by bit by bit": pairs and triples may well come twice
        most = max(most, float(times))
    return most


def _sentences(text: str) -> int:
    return len(re.findall(r"[.!?…。](?=\s|$)", text))


def _numbers_differ(source: str, translation: str) -> bool:
    """A number was changed, lost or invented; one digit alone may have become a word, or a word a digit."""
    before, after = numbers(source), numbers(translation)
    missing, extra = before - after, after - before
    if missing and extra:
        return True
    return any(len(n) > 1 for n in (*missing, *extra))


def _options_differ(source: str, translation: str) -> bool:
    letters = options(source)
    if not letters:
        return False
    texts = [t.strip().casefold() for t in _OPTION.split(translation)[2::2]]
    return options(translation) != letters or not all(texts) or len(set(texts)) < len(texts)
