"""The emoji data set: a Welsh one built from real packages, sound, the same when built again, fair in its items."""
import json
from collections import Counter
from pathlib import Path

import pytest

from core.errors import UserError
from core.shards import DataSet
from data_tools import fetch, icons, prompts
from data_tools.build import build
from data_tools.check import check
from data_tools.concepts import Concept, annotation, languages
from data_tools.show import show

SMALL = {"text": "pip", "text_english": 200}


@pytest.fixture(scope="module")
def welsh(tmp_path_factory):
    """A Welsh data set, built through the same entry as the command line's."""
    out = tmp_path_factory.mktemp("data") / "emoji-cy"
    try:
        return build("emoji", out, "cy", SMALL), out
    except UserError as error:
        if "no network" in str(error):
            pytest.skip(str(error))
        raise


def records(out, subset):
    data = DataSet(out).subset(subset)
    return [data.read(i) for i in range(len(data))]


def test_subsets_and_sizes(welsh):
    manifest = welsh[0]["manifest"]
    assert manifest["languages"] == ["en", "cy"]
    assert set(manifest["subsets"]) == {"name", "keywords", "category", "instructions", "text", "text-english",
                                        "eval-dev", "eval-emojione", "eval-openmoji"}
    sizes = {name: subset["samples"] for name, subset in manifest["subsets"].items()}
    assert sizes["name"] == sizes["category"] > 4300 and sizes["eval-emojione"] > 3500 and sizes["text-english"] == 200
    assert manifest["concepts"]["A"] + manifest["concepts"]["B"] >= 990
    assert 0.17 < manifest["concepts"]["B"] / 995 < 0.23
    assert all(s["licence"] and s["origin"] and len(s["sha256"]) == 64 for s in manifest["sources"])
    assert {t["source"] for t in manifest["text"]} >= {"udhr", "cldr-names", "wordnet", "Django"}


def test_it_is_sound(welsh):
    assert check(welsh[1]) == []


def test_instructions_ask_about_words_where_an_image_would_stand(welsh):
    found = list(records(welsh[1], "instructions"))
    assert len(found) > 9500 and not any(image for _, image in found)
    names = set()
    for record, _ in found:
        assert list(record["turns"]) == ["en"], "what a backbone knows of the target language comes from its text"
        question, answer = record["turns"]["en"]
        asked, shown = question["content"].rsplit("\n", 1)
        assert (question["role"], answer["role"]) == ("user", "assistant") and "<image>" not in question["content"]
        assert asked and shown and answer["content"]
        if record["meta"]["task"] == "naming":
            names.add(answer["content"])
    assert len(names) > 980


def test_set_b_never_stands_beside_target_text(welsh):
    groups = {}
    for subset in ("name", "keywords", "category"):
        for record, image in records(welsh[1], subset):
            assert image and record["turns"]["en"][0]["content"].endswith("\n<image>")
            assert ("cy" in record["turns"]) == (record["meta"]["set"] == "A"), record["id"]
            groups.setdefault(record["meta"]["character"], set()).add(record["meta"]["set"])
    assert all(len(g) == 1 for g in groups.values())
    assert {r["meta"]["set"] for r, _ in records(welsh[1], "eval-dev")} == {"A", "B"}


def test_styles_do_not_leak(welsh):
    roles = welsh[0]["manifest"]["styles"]
    train = {r["meta"]["style"] for s in ("name", "keywords", "category") for r, _ in records(welsh[1], s)}
    assert train == {s for s, role in roles.items() if role == "train"} and len(train) == 5
    for subset, style in (("eval-dev", "fxemoji"), ("eval-emojione", "emojione"), ("eval-openmoji", "openmoji")):
        assert {r["meta"]["style"] for r, _ in records(welsh[1], subset)} == {style}


def test_items_are_fair(welsh):
    answers = []
    for record, _ in records(welsh[1], "eval-emojione"):
        if record["kind"] == "generate":
            continue
        for language, options in record["options"].items():
            assert len({o.casefold() for o in options}) == len(options) == 4
            assert record["references"][language] == [options[record["answer"]]]
        answers.append(record["answer"])
    shares = [answers.count(i) / len(answers) for i in range(4)]
    assert all(0.22 < share < 0.28 for share in shares), shares


def test_keyword_distractors_do_not_describe_the_concept(welsh):
    files = fetch.fetch([fetch.packages()["cldr-annotations-full"]])
    for language in ("en", "cy"):
        known = annotation(files["cldr-annotations-full"], language)
        for record, _ in records(welsh[1], "eval-openmoji"):
            if record["task"] == "keywords":
                name, words = known[record["meta"]["character"]]
                own = {w.casefold() for w in (name, *words)}
                hits = [o.casefold() in own for o in record["options"][language]]
                assert hits == [i == record["answer"] for i in range(4)], record["id"]


def test_hard_items_stay_within_the_category_and_across_styles(welsh):
    where = {r["meta"]["concept"]: r["meta"]["category"] for r, _ in records(welsh[1], "name")}
    found = {}
    for subset in ("eval-dev", "eval-emojione", "eval-openmoji"):
        for record, _ in records(welsh[1], subset):
            if record["task"] == "naming_hard":
                assert {where[o] for o in record["options"]["en"]} == {record["meta"]["category"]}
                same = found.setdefault(record["meta"]["concept"], (record["options"], record["answer"]))
                assert same == (record["options"], record["answer"])


def test_the_first_items_are_a_fair_sample(welsh):
    first = [r for r, _ in records(welsh[1], "eval-openmoji")][:500]
    tasks = Counter(r["task"] for r in first)
    assert max(tasks.values()) - min(tasks[t] for t in tasks if t != "keywords") <= 1 and tasks["keywords"] > 80
    assert 0.1 < sum(r["meta"]["set"] == "B" for r in first) / 500 < 0.32


def test_built_again_it_is_the_same_and_unchanged_it_is_left_alone(welsh, tmp_path):
    done, out = welsh
    again = build("emoji", tmp_path / "emoji-cy", "cy", {**SMALL, "processes": 1})
    assert again["state"] == "built" and again["manifest"] == done["manifest"]
    for path in out.rglob("*"):
        if path.is_file() and path.name != "contact-sheet.png":
            assert path.read_bytes() == (tmp_path / "emoji-cy" / path.relative_to(out)).read_bytes()
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert build("emoji", out, "cy", SMALL)["state"] == "unchanged"
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    (out / "name/000000.tar").unlink()
    assert build("emoji", out, "cy", SMALL)["state"] == "built"


def test_rendering_does_not_depend_on_processes(welsh, tmp_path, monkeypatch):
    """Two empty icon caches, filled by one and by three processes; a tenth of the concepts."""
    files = fetch.fetch([p for p in fetch.packages().values() if p.client == "npm"])
    monkeypatch.setattr(icons, "STYLES", {k: icons.STYLES[k] for k in ("twemoji", "fxemoji")})
    monkeypatch.setattr(icons, "candidates", lambda path, all_of=icons.candidates: all_of(path)[::10])
    filled = []
    for processes in (1, 3):
        monkeypatch.setattr(icons, "cache_folder", lambda number=processes: tmp_path / str(number))
        filled.append(icons.images(files, 32, processes))
    assert filled[0] == filled[1] and len(filled[0]) > 100


def test_show_counts_words_and_writes_a_sheet(welsh, tmp_path):
    shown = show(welsh[1], sheet=tmp_path / "sheet", images=12)
    rows = {row["subset"]: row for row in shown["subsets"]}
    assert rows["name"]["images"] == rows["name"]["samples"] and rows["text"]["images"] == 0
    assert rows["text"]["words"]["cy"] > 5000 and rows["text-english"]["words"]["cy"] == 0
    assert json.loads(json.dumps(shown)) == shown
    assert all(Path(p).stat().st_size > 10_000 for p in shown["sheet"])
    assert "Beth" not in (tmp_path / "sheet.html").read_text() and "<b>cy</b>" in (tmp_path / "sheet.html").read_text()


def test_what_the_user_can_mend_is_one_line(welsh, tmp_path):
    cases = [({"lang": "xx"}, "CLDR has no names in language 'xx'"), ({"lang": "en"}, "base language"),
             ({"lang": "../x"}, "--lang ../x is no language code"),
             ({"name": "emoij"}, "unknown data set"), ({"overrides": {"szie": 4}}, "did you mean 'size'"),
             ({"overrides": {"text": "web"}}, "choose one of")]
    for change, expected in cases:
        with pytest.raises(UserError, match=expected) as caught:
            build(**{"name": "emoji", "out": tmp_path / "out", "lang": "cy", **change})
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_language_with_too_few_names_gets_the_counts(welsh, tmp_path):
    path = fetch.fetch([fetch.packages()["cldr-annotations-full"]])["cldr-annotations-full"]
    few = next(code for code in languages(path) if len(annotation(path, code)) < 300)
    with pytest.raises(UserError, match=rf"'{few}' has names for \d+ of 995 concepts.*at least 700"):
        build("emoji", tmp_path / "out", few, SMALL)
    assert not list(tmp_path.iterdir())


def test_prompts_of_every_language_file():
    for path in Path(prompts.__file__).parent.glob("*.yaml"):
        asked = prompts.load(path.stem, {})
        assert set(asked) == set(prompts.TASKS) and all(p.endswith("\n<image>") for t in asked.values() for p in t)
    neutral = prompts.load("zu", {"smiley": "a", "objects": "b"})
    assert neutral["category"] == ["a / b ?\n<image>"]


def test_an_alias_and_a_late_name_are_told_apart():
    drawn = {"window": {"body": "<path/>"}, "dog": {"body": "<g/>"}}
    style = icons.Style("s", drawn, {"hound": {"parent": "dog"}}, {}, 8, 8)
    late = Concept("w", "objects", "WINDOW", "A", 13.0)
    assert style.pick(late, "window") is None  # drawn before the emoji existed: another window
    assert "<g/>" in style.pick(Concept("d", "animals_nature", "HOUND", "A", 1.0), "hound")


def test_drawing_refuses_what_is_no_svg():
    with pytest.raises(UserError, match="cannot draw"):
        icons.render("<svg", 48)
