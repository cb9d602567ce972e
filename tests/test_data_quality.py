"""Translation gates: each kind of fault is named, a sound translation passes, thresholds are the configuration's."""
import pytest

from data_tools.quality import Gates, numbers, options, protected

GATES = Gates("en", "eu")
SPANISH = "El autobús rojo se detiene delante de la antigua estación cada 15 minutos y 1.200 lo usan."
SOURCE = "The red bus stops in front of the old station every 15 minutes, and 1,200 people use it."
GOOD = "Autobus gorria geltoki zaharraren aurrean gelditzen da 15 minuturo, eta 1.200 lagunek erabiltzen dute."

FAULTS = [
    ("empty", SOURCE, " "), ("empty", SOURCE, "..."), ("copied", SOURCE, SOURCE),
    ("wrong language", SOURCE, SPANISH),
    ("length", SOURCE, "Autobusa 15 1.200."), ("length", SOURCE, " ".join([GOOD] * 3)),
    ("truncated", SOURCE, "Autobus gorria geltoki zaharraren aurrean gelditzen da 15 minuturo, eta 1.200 lagunek"),
    ("truncated", "Red bus in front of the station", "Autobus gorria geltokiaren aurrean eta"),
    ("truncated", "Bus (the red one) here", "Autobusa (gorria hemen"),
    ("repetition", SOURCE, GOOD[:-1] + " erabiltzen dute erabiltzen dute erabiltzen dute erabiltzen dute."),
    ("repetition", SOURCE, f"{GOOD} {GOOD}"),
    ("chatty", SOURCE, f"Sure! Here is the translation: {GOOD}"), ("chatty", SOURCE, f"Hona hemen itzulpena:\n{GOOD}"),
    ("chatty", SOURCE, f"{GOOD}\n\nNote: I kept the numbers."),
    ("chatty", SOURCE, "As an AI I cannot translate that 15 1,200."),
    ("protected span", "<image>\nWhat is this?", "<irudia>\nZer da hau?"),
    ("protected span", "Click {name} to go on.", "Egin klik {izena} aurrera egiteko."),
    ("protected span", "See https://example.org/a?b=1.", "Ikusi https://example.org/a."),
    ("protected span", "Solve $x^2 = 4$ now.", "Ebatzi $x^3 = 4$ orain."),
    ("protected span", "Run `ls -l` here.", "Exekutatu `ls` hemen."),
    ("number", SOURCE, GOOD.replace("15", "50")), ("number", SOURCE, GOOD.replace("1.200 ", "")),
    ("number", "It has 3 legs.", "4 hanka ditu."),
    ("markup", SOURCE, GOOD.replace(" da ", " da&nbsp;")), ("markup", SOURCE, f"<p>{GOOD}</p>"),
    ("option", "Which?\nA. red\nB. blue\nC. green", "Zein?\nA. gorria\nB. urdina"),
    ("option", "Which?\nA. red\nB. blue\nC. green", "Zein?\nA. gorria\nB. gorria\nC. berdea"),
    ("encoding", SOURCE, GOOD.replace("zaharraren", "zaharrare\ufffd")), ("encoding", "The girl", "NeskaÃ±a da hori"),
]


@pytest.mark.parametrize(("reason", "source", "translation"), FAULTS)
def test_the_fault_is_named(reason, source, translation):
    assert reason in GATES.check(source, translation)


@pytest.mark.parametrize(("source", "translation"), [
    (SOURCE, GOOD), ("What is this?\n<image>", "Zer da hau?\n<image>"), ("2", "2"), ("dog", "zakurra"),
    ("Paris", "Paris"),
    ("It has two legs.", "2 hanka ditu."), ("Bye bye!", "Agur agur!"),
    ("Note: close the lid.", "Oharra: itxi estalkia."),
    ("Here is the list:\n- bread", "Hona hemen zerrenda:\n- ogia"),
    ("Use x < 3 and y > 5 here.", "Erabili x < 3 eta y > 5 hemen."),
    ("Which?\nA. red\nB. blue", "Zein?\nA. gorria\nB. urdina"), ("It costs $5 and $6.", "$5 eta $6 balio du."),
    ("Version 3.5 (2019) of LibreOffice Writer", "LibreOffice Writer 3.5 bertsioa (2019)"),
])
def test_a_sound_translation_passes(source, translation):
    assert GATES.check(source, translation) == []


def test_round_trip_needs_a_translation_back():
    assert "round trip" in GATES.check(SOURCE, GOOD, back="Buy two tickets at the counter.")
    back = "The red bus stops before the old station every 15 minutes and 1,200 use it."
    assert GATES.check(SOURCE, GOOD, back=back) == []


def test_thresholds_come_from_the_configuration():
    short = "Autobusa 15 1.200."
    assert "length" in GATES.check(SOURCE, short)
    assert "length" not in Gates("en", "eu", {"length": [[0, 0.0, 99.0]]}).check(SOURCE, short)
    assert "wrong language" not in Gates("en", "eu", {"language_words": 99}).check(SOURCE, SPANISH)
    assert "wrong language" not in Gates("en", "es").check(SOURCE, SPANISH)


def test_what_is_protected():
    text = r"See <image>, `a b`, {x}, %s, \(a\), $\pi$, me@ehu.eus and https://a.eus/b?c=d."
    assert protected(text) == ["<image>", "`a b`", "{x}", "%s", r"\(a\)", r"$\pi$", "me@ehu.eus", "https://a.eus/b?c=d"]
    assert protected("It is 5% of $5 and {not this one}.") == []
    assert numbers("1,024.5 and 1.024,5") == {"1024": 2, "5": 2}
    assert options("(A) x (B) y") == ["A", "B"] and options("B. only") == []
