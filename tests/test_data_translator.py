"""A small translator as a stage: what it may learn from, that it goes on where it stopped, that an engine loads it."""
import json

import pytest

from core.config import Source, TranslatorConfig, structured
from core.errors import Stopped, UserError
from core.files import write_json, write_text
from core.run import Run
from core.shards import DataSet
from data_tools import translate, translated
from data_tools.bitext import aligned, answers, bitext
from data_tools.check import check
from data_tools.dataset import Sample, building

LANGUAGES = ("en", "eu")
COLOURS = {"red": "gorria", "blue": "urdina", "green": "berdea", "white": "zuria", "black": "beltza"}
THINGS = {"dog": "txakur", "cat": "katu", "house": "etxe", "tree": "zuhaitz", "boat": "itsasontzi", "moon": "ilargi"}
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f"
                    "0005fe02fedccc59e70000000049454e44ae426082")


def phrases():
    return [(f"The {colour} {thing}", f"{basque} {urdin}".capitalize()) for thing, basque in THINGS.items()
            for colour, urdin in COLOURS.items()]


def record(identity, english, basque, source="help", image=None, question=("what?\n<image>", "zer?\n<image>")):
    turns = {}
    for language, text, asked in zip(LANGUAGES, (english, basque), question, strict=True):
        ask = [{"role": "user", "content": asked}] if image else []
        turns[language] = [*ask, {"role": "assistant", "content": text}]
    return Sample({"id": identity, "source": source, "license": "CC0", "turns": turns, "meta": {}}, image)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    with building(root / "t", "t", LANGUAGES) as data:
        data.subset("text", "text", [record(f"text/{i}", f"{a}.\n{b}. {a}!", f"{x}.\n{y}. {x}!") for i, ((a, x), (b, y))
                                     in enumerate(zip(phrases(), phrases()[1:] + phrases()[:1], strict=True))] + [
            record("names/0", "The red dog: pet, red", "txakur gorria: gorri", "cldr-names"),
            record("names/1", "odd one\nout", "bat bakarrik", "help")])
        data.subset("name", "image", [record("name/0", "the red dog", "txakur gorria", image=PNG)])
        data.finish([])
    return root


def sources(name):
    return [Source("t", name)]


def test_pairs_are_lines_and_sentences():
    assert aligned("One. Two!\nThree", "Bat. Bi!\nHiru") == [("One.", "Bat."), ("Two!", "Bi!"), ("Three", "Hiru")]
    assert aligned("One. Two!", "Bat eta bi") == [("One. Two!", "Bat eta bi")]
    assert aligned("One\nTwo", "Bat") == []


def test_what_is_translated_later_is_never_learned(root):
    apart = answers(sources("name"), root, LANGUAGES)
    assert apart == [("the red dog", "txakur gorria")]
    pairs = bitext(sources("text"), root, LANGUAGES, 0.0, 100, apart)
    assert not [pair for pair in pairs.train if "red dog" in pair[0].lower()] and len(pairs.train) > 40
    free = bitext(sources("text"), root, LANGUAGES, 0.0, 100)
    assert {"The red dog.", "The red dog!", "The red dog"} <= {pair[0] for pair in free.train}
    assert "odd one" not in {pair[0] for pair in free.train}


def test_held_out_records_share_no_sentence_with_the_others(root):
    pairs = bitext(sources("text"), root, LANGUAGES, 0.3, 100)
    assert pairs.held_out and not {p[0].strip(".!") for p in pairs.train} & {p[0].strip(".!") for p in pairs.held_out}
    assert bitext(sources("text"), root, LANGUAGES, 0.3, 100) == pairs
    with pytest.raises(UserError, match="no pair"):
        bitext(sources("text"), root, LANGUAGES, 0.3, 3)


def make_run(folder, root, stage, config, parents=()):
    path = folder / stage / "0"
    write_json(path / "spec.json", {"id": "0", "name": stage, "study": "t", "stage": stage, "axes": {},
                                    "function": f"data_tools.{stage}:{stage}",
                                    "parents": {role: {"stage": role, "id": "0"} for role in parents}})
    write_json(path / "config.yaml", {**config, "runtime": {"data_root": str(root), "save_every": 50, "log_every": 10}})
    return Run(path)


CONFIG = {"sources": [{"data": "t", "subset": "text"}], "apart": [{"data": "t", "subset": "name"}], "held_out": 0.1,
          "vocabulary": 320, "layers": 1, "hidden": 64, "heads": 2, "epochs": 60, "batch_tokens": 256, "lr": 3e-3,
          "dropout": 0.0}


def test_a_stopped_run_ends_with_the_same_weights(root, tmp_path, monkeypatch):
    from data_tools.translator import translator

    config = {**CONFIG, "epochs": 3, "dropout": 0.1, "batch_tokens": 64}
    outcomes = []
    for name, stops in (("whole", ()), ("stopped", (2, 9))):
        run = make_run(tmp_path / name, root, "translator", config)
        for stop in stops:
            calls = iter([None] * stop + ["time limit"])
            with monkeypatch.context() as patch:
                patch.setattr(Run, "stop_requested", lambda self, calls=calls: next(calls))
                with pytest.raises(Stopped):
                    translator(run)
        outcomes.append((translator(run), (run.path / "model/model.safetensors").read_bytes()))
    assert outcomes[0][1] == outcomes[1][1] and outcomes[0][0]["loss"] == outcomes[1][0]["loss"]
    assert outcomes[0][0]["steps"] > 11 and len(list((run.path / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_it_learns_and_the_engine_translates_with_it(root, tmp_path):
    """Phrases of a colour and a thing, in the other order: a copy scores low, the model high, also on the one phrase
    that it never saw. Its translations take the place of the human ones in a data set."""
    from data_tools.translator import translator

    run = make_run(tmp_path, root, "translator", CONFIG)
    result = translator(run)
    write_text(run.path / "DONE", "")
    scores = {(row["benchmark"], row["metric"]): row["value"] for row in result["metrics"]}
    assert scores["held-out sentences", "chrF"] > 60 > 30 > scores["held-out sentences", "chrF of a copy"]
    config = {"data": "t", "subsets": ["name"], "where": "present", "gates": {"language_words": 99, "length": []},
              "engines": [{"kind": "marian", "model": "parent:translator"}]}
    made = make_run(tmp_path, root, "translate", config, ["translator"])
    counts = translate.translate(made)
    write_text(made.path / "DONE", "")
    assert counts["texts"] == 2 and list(counts["engines"]) == ["marian:translator/0"]
    translated.merge([made.path], tmp_path / "machine")
    assert check(tmp_path / "machine") == []
    lines = [json.loads(line) for line in next(made.path.glob("translations/0*.jsonl")).read_text().splitlines()]
    said = {line["source"]: line["translation"] for line in lines}["the red dog"]
    turns = DataSet(tmp_path / "machine").subset("name").record(0)["turns"]
    assert turns["en"][1]["content"] == "the red dog"
    assert "eu" not in turns or turns["eu"][1]["content"] == said


def test_the_configuration_is_checked():
    with pytest.raises(UserError, match="did you mean 'epochs'"):
        structured(TranslatorConfig, {"epoch": 3})
