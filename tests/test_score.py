"""Metrics against worked examples of their sources."""
import math

import pytest

from core import score


def test_choice_takes_the_first_of_equal_options():
    assert score.choose([-2.0, -1.0, -1.0]) == 1


def test_choice_subtracts_what_a_blank_image_gives():
    scores, blank = [-1.0, -2.0], [-0.5, -4.0]
    assert score.choose(scores) == 0
    assert score.choose(scores, blank) == 1


def test_choice_normalises_by_tokens_and_characters():
    scores = [-4.0, -3.0]
    assert score.choose(scores) == 1
    assert score.choose(scores, tokens=[4, 1], normalisation="token") == 0
    assert score.choose(scores, characters=[2, 3], normalisation="character") == 1
    with pytest.raises(ValueError, match="needs 2 lengths"):
        score.choose(scores, normalisation="token")


def test_exact_match_ignores_case_and_punctuation_but_no_letter():
    assert score.exact_match("  Katua. ", ["katua"])
    assert score.exact_match("CAFÉ", ["cafe\u0301"])
    assert not score.exact_match("café", ["cafe"])
    assert not score.exact_match("", ["katua"])


def test_chrf_is_sacrebleus():
    from sacrebleu.metrics import CHRF

    assert score.chrf("katu beltza", ["katu zuria"]) == CHRF().sentence_score("katu beltza", ["katu zuria"]).score
    assert score.chrf("katu", ["katu"]) == 100.0
    given = score.corpus_chrf(["a cat", "dogs"], [["a cat", "one cat"], ["a dog"]])
    assert given == CHRF().corpus_score(["a cat", "dogs"], [["a cat", "a dog"], ["one cat", "a dog"]]).score


@pytest.mark.parametrize("matches, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_over_ten_answers(matches, expected):
    """The average over all subsets of nine annotators, as the official evaluation has it."""
    answers = ["red"] * matches + [f"other{number}" for number in range(10 - matches)]
    assert math.isclose(score.vqa_accuracy("red", answers), expected)


@pytest.mark.parametrize("raw, expected", [
    ("The red Bus.", "red bus"), ("two", "2"), ("none", "0"), ("a man, an apple", "man apple"), ("dont", "don't"),
    ("1,000 people", "1000 people"), ("3.5", "3.5"), ("left/right", "left right"), ("yes;\n", "yes"),
])
def test_vqa_normalisation_of_english(raw, expected):
    assert score.vqa_english(raw) == expected


def test_english_normalisation_never_touches_another_language():
    """"a" and "one" are English; "hiru" stays, an article-like Basque word stays."""
    assert score.vqa_accuracy("an", ["an"] * 10, language="eu") == 1.0
    assert score.vqa_accuracy("an etxea", ["etxea"] * 9 + ["etxe"], language="eu") == 0.0
    assert score.vqa_accuracy("an house", ["house"] * 9 + ["home"], language="en") == 1.0


def test_accepted_forms_count_in_full():
    assert score.vqa_accuracy("gorria", ["gorri"] * 10, language="eu") == 0.0
    assert score.vqa_accuracy("gorria", ["gorri"] * 10, language="eu", accepted=["Gorria"]) == 1.0


def test_yes_and_no_by_the_first_word():
    words = {"yes": ["bai"], "no": ["ez"]}
    assert score.yes_no("Bai, hala da.", **words) is True
    assert score.yes_no("ez", **words) is False
    assert score.yes_no("beharbada", **words) is None
    assert score.yes_no("", **words) is None


def test_balanced_accuracy_does_not_reward_the_majority():
    gold = [True] * 9 + [False]
    assert score.balanced_accuracy(gold, [True] * 10) == 0.5
    assert score.balanced_accuracy(gold, [True] * 9 + [None]) == 0.5
    assert score.balanced_accuracy(gold, gold) == 1.0


def test_language_of_short_answers():
    texts = {"en": ["red apple", "black cat", "pizza"], "eu": ["sagar gorria", "katu beltza", "pizza"]}
    identifier = score.LanguageIdentifier(["en", "eu"], texts)
    assert identifier.identify("katu gorria") == "eu"
    assert identifier.identify("a red cat") == "en"
    assert identifier.identify("pizza") == "both"
    assert identifier.identify("123 !") == ""
    assert identifier.identify("The weather is nice today and we are going out") == "en"
    assert identifier.identify("Gaur eguraldi ona dago eta kalera goaz lagunekin") == "eu"


def test_the_lexicon_can_be_measured_without_the_text_itself():
    identifier = score.LanguageIdentifier(["en", "eu"], {"en": ["zzgk"], "eu": ["zzgk", "qqq zzgk"]})
    assert identifier.identify("zzgk") == "both"
    assert identifier.identify("zzgk", without="zzgk", language="en") == "eu"
