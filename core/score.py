"""Metrics of one item or a list of items, as pure functions over plain data: no model, no files.

Multiple choice by likelihood, exact match, chrF, VQA accuracy over ten answers, yes/no with balanced accuracy, and
which language an answer is in. An item that failed is scored by its caller as wrong; nothing here makes a denominator
smaller.
"""
from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

NORMALISATIONS = ("sum", "token", "character")
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
            "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_PUNCTUATION = ";:/'[]\"()=+\\_><@`,?"
_SHORT_FORMS = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's i'd've
    i'm i've isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
    shouldn't somebody'd somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd
    there're there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll
    you're you've"""
_CONTRACTIONS = {form.replace("'", ""): form for form in _SHORT_FORMS.split()}


def choose(scores: Sequence[float], blank: Sequence[float] | None = None, tokens: Sequence[int] | None = None,
           characters: Sequence[int] | None = None, normalisation: str = "sum") -> int:
    """Index of the best option; the first of equal ones.

    scores: summed log-probability of each option given the image; blank: the same given a blank image, which is
    subtracted (the part of the likelihood that needs no look at the image; Zhao et al. 2021, "Calibrate Before Use",
    and the domain-conditional PMI of Holtzman et al. 2021). normalisation: divide by 1, `tokens` or `characters`."""
    lengths = {"sum": [1] * len(scores), "token": tokens or (), "character": characters or ()}[normalisation]
    if len(lengths) != len(scores):
        raise ValueError(f"normalisation '{normalisation}' needs {len(scores)} lengths, {len(lengths)} were given")
    base = blank if blank is not None else [0.0] * len(scores)
    values = [(score - prior) / max(length, 1) for score, prior, length in zip(scores, base, lengths, strict=True)]
    return max(range(len(values)), key=lambda option: (values[option], -option))


def normalise(text: str) -> str:
    """Any language: Unicode NFKC, case folded, punctuation off, single spaces. Takes no word and no diacritic away."""
    text = unicodedata.normalize("NFKC", text).casefold()
    kept = (" " if unicodedata.category(character)[0] in "PZC" else character for character in text)
    return " ".join("".join(kept).split())


def exact_match(prediction: str, references: Iterable[str]) -> bool:
    return normalise(prediction) in {normalise(reference) for reference in references}


def chrf(prediction: str, references: Sequence[str]) -> float:
    """Sentence chrF2 (Popovic 2015) of sacrebleu, 0 to 100; the best matching reference counts."""
    return float(_chrf().sentence_score(prediction, list(references)).score)


def corpus_chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2 of sacrebleu, 0 to 100. references[i] are those of predictions[i]; all have at least one."""
    most = max(map(len, references))
    columns = [[own[min(column, len(own) - 1)] for own in references] for column in range(most)]
    return float(_chrf().corpus_score(list(predictions), columns).score)


def _chrf():
    from sacrebleu.metrics import CHRF

    return CHRF()


def vqa_english(answer: str) -> str:
    """English as the official VQA evaluation has it: punctuation, number words, articles, contractions normalised."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    words = [_NUMBERS.get(word, word) for word in _vqa_punctuation(answer).lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _vqa_punctuation(text: str) -> str:
    """A mark beside a space, or anywhere in a text with a number like 1,000, vanishes; any other becomes a space."""
    vanish = re.search(r"\d,\d", text) is not None
    out = text
    for mark in _PUNCTUATION:
        out = out.replace(mark, "" if vanish or f"{mark} " in text or f" {mark}" in text else " ")
    return re.sub(r"\.(?!\d)", "", out)


def vqa_accuracy(prediction: str, answers: Sequence[str], language: str = "en",
                 accepted: Iterable[str] = ()) -> float:
    """VQA accuracy (Antol et al. 2015): mean over the answers of min(1, matches among the *other* answers / 3).

    English goes through the official normalisation (the annotators' answers through its punctuation part, and only if
    they disagree, as there); any other language through `normalise` alone. `accepted`: forms that count in full."""
    if language == "en":
        given = vqa_english(prediction)
        truth = [_vqa_punctuation(answer) for answer in answers] if len(set(answers)) > 1 else list(answers)
    else:
        given, truth = normalise(prediction), [normalise(answer) for answer in answers]
    if normalise(given) in {normalise(form) for form in accepted}:
        return 1.0
    matches = [answer == given for answer in truth]
    if len(matches) == 1:
        return float(matches[0])
    return sum(min(1.0, (sum(matches) - own) / 3) for own in matches) / len(matches)


def yes_no(text: str, yes: Iterable[str], no: Iterable[str]) -> bool | None:
    """Whether an answer says yes: its first word decides. None where it says neither."""
    words = normalise(text).split()
    first = words[0] if words else ""
    if first in {normalise(word) for word in yes}:
        return True
    return False if first in {normalise(word) for word in no} else None


def balanced_accuracy(gold: Sequence[object], predicted: Sequence[object]) -> float:
    """Mean recall over the gold classes; a prediction of None (no answer, error) is wrong. NaN without items."""
    total, right = Counter(gold), Counter(g for g, p in zip(gold, predicted, strict=True) if g == p)
    return sum(right[label] / count for label, count in total.items()) / len(total) if total else float("nan")


class LanguageIdentifier:
    """Which of a few languages a short answer is in.

    A statistical identifier (py3langid) is unreliable on one or two words, so words that the study's own texts use in
    one language only decide first; the identifier, restricted to `languages`, decides what is left. How well this works
    is measured, not assumed: `identify(reference, without=reference)` counts the reference's own words out, and its hit
    rate is reported beside every share of answers in the right language."""

    def __init__(self, languages: Sequence[str], texts: Mapping[str, Iterable[str]]):
        """texts: language -> texts known to be in it (options, references), each counted once."""
        from py3langid.langid import MODEL_FILE
        from py3langid.langid import LanguageIdentifier as Statistical

        self._statistical = Statistical.from_model_file(MODEL_FILE, norm_probs=True)
        known = [language for language in languages if language in self._statistical.nb_classes]
        self._statistical.set_languages(known or None)
        self.languages = list(languages)
        self.words = {language: Counter(word for text in set(texts.get(language, ()))
                                        for word in normalise(text).split()) for language in languages}

    def identify(self, text: str, without: str | None = None, language: str | None = None) -> str:
        """Language code; "" for a text without letters, "both" where every word is at home in several languages.

        without: a text of `language` whose words are counted out of the lexicon once (for measuring on it)."""
        words = [word for word in normalise(text).split() if any(map(str.isalpha, word))]
        if not words:
            return ""
        own = Counter(normalise(without).split()) if without is not None else Counter()
        homes = [[code for code in self.languages
                  if self.words[code][word] > (own[word] if code == language else 0)] for word in words]
        votes = Counter(home[0] for home in homes if len(home) == 1)
        if votes and (len(votes) == 1 or votes.most_common(2)[0][1] > votes.most_common(2)[1][1]):
            return votes.most_common(1)[0][0]
        if not votes and all(len(home) > 1 for home in homes):
            return "both"
        return self._statistical.classify(" ".join(words))[0]
