"""The page on which people vote: what it shows, a click-through in a real browser, and the votes read back."""
from __future__ import annotations

import asyncio
import io
import json
import re

import pytest
import yaml
from PIL import Image

from analysis import arena, judging, preferences
from analysis.judge_plan import Scope, answered
from analysis.judgements import asked, table
from analysis.stores import read_stores
from core.errors import UserError
from core.files import write_text
from data_tools.dataset import Sample, building
from tests.browser import CHROMIUM, browser
from tests.simulated_store import simulate

ITEMS = 10


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Free answers of three conditions to items that have images; one answer tries to be markup."""
    root = tmp_path_factory.mktemp("arena")
    folder = simulate(root, "tiny", ratios=(0.0, 0.2, 1.0), backbones=("llama",), text_only=("none",), seeds=(0,),
                      items=ITEMS, styles=("eval-emojione",), tasks=("naming",))
    with building(root / "data" / "emoji-eu", "emoji-eu", ["en", "eu"]) as writer:
        writer.subset("eval-emojione", "evaluation", (_sample(number) for number in range(ITEMS)))
        writer.finish([])
    runs = read_stores([folder])
    for run in runs:
        if run.is_evaluation:
            config = yaml.safe_load((run.path / "config.yaml").read_text())
            config["runtime"]["data_root"] = str(root / "data")
            write_text(run.path / "config.yaml", yaml.safe_dump(config))
    found = answered(runs, Scope())
    for question in found.questions.values():
        run = min(question.answers)
        question.answers[run] = f"</script><b>{question.answers[run]}</b>"
    return found


def _sample(number):
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 20, 99, 200)).save(stream, "PNG")
    return Sample({"id": f"emojione/c{number}/describe", "source": "t", "license": "CC0", "task": "describe",
                   "kind": "generate", "turns": {}, "meta": {}}, stream.getvalue())


def content_of(page):
    text = page.read_text()
    return json.loads(re.search(r'<script id="content" type="application/json">(.*?)</script>', text, re.S)[1])


def votes_file(path, votes, voter="Ane"):
    path.write_text(json.dumps({"study": "tiny", "voter": voter, "votes": votes}))
    return path


def test_the_page_is_whole_and_anonymous(found, tmp_path):
    assert arena.write(found, tmp_path / "judge", tmp_path / "page.html", "tiny", 12) == 12
    page = (tmp_path / "page.html").read_text()
    content = content_of(tmp_path / "page.html")
    assert len(content["pairs"]) == 12 and not re.search(r"(?:src|href)=\"?http|@import|fetch\(", page)
    for run in found.runs:
        assert run not in page
    assert "target ratio" not in page and page.count("</script>") == 2
    for pair in content["pairs"]:
        assert pair["left"] != pair["right"] and "<image>" not in pair["prompt"]
        assert content["images"][pair["image"]].startswith("data:image/png;base64,")
    sides = [line["left"] < line["right"] for line in asked(tmp_path / "judge").values()]
    assert 0 < sum(sides) < len(sides)     # who stands left is not who comes first
    arena.write(found, tmp_path / "judge", tmp_path / "again.html", "tiny", 12)
    assert (tmp_path / "again.html").read_text() == page


def test_votes_become_judgements_of_people(found, tmp_path):
    folder = tmp_path / "judge"
    arena.write(found, folder, tmp_path / "page.html", "tiny", 8)
    names = [pair["id"] for pair in content_of(tmp_path / "page.html")["pairs"]]
    votes = [{"id": name, "verdict": verdict}
             for name, verdict in zip(names, ["left", "right", "tie", "bad"] * 2, strict=True)]
    said = judging.read(folder, votes_file(tmp_path / "votes.json", votes))
    assert said.startswith("8 judgements read")
    first = table(folder)
    assert len(first) == 8 and set(first["judge"]) == {"human"} and set(first["voter"]) == {"Ane"}
    judging.read(folder, votes_file(tmp_path / "votes.json", votes))      # twice changes nothing
    assert table(folder).equals(first)
    lines = ["voter,id,verdict", *(f'"Jon",{vote["id"]},{vote["verdict"]}' for vote in votes)]
    (tmp_path / "votes.csv").write_text("\n".join(lines) + "\n")
    judging.read(folder, tmp_path / "votes.csv")
    both = table(folder)
    assert len(both) == 16 and preferences.alpha(both)[0] == 1.0
    changed = [{**votes[0], "verdict": "bad"}, *votes[1:]]
    judging.read(folder, votes_file(tmp_path / "votes.json", changed))
    assert len(table(folder)) == 16 and preferences.alpha(table(folder))[0] < 1.0
    merged = preferences.outcomes(both)
    assert merged["outcome"].abs().sum() == 8 and merged["steady"].isna().all()


def test_votes_of_another_page_are_refused(found, tmp_path):
    folder = tmp_path / "judge"
    arena.write(found, folder, tmp_path / "page.html", "tiny", 8)
    name = content_of(tmp_path / "page.html")["pairs"][0]["id"]
    for votes, expected in (([{"id": "0" * 16, "verdict": "left"}], "no arena page of this study showed"),
                            ([{"id": name, "verdict": "both"}], "verdict 'both'")):
        with pytest.raises(UserError, match=expected):
            arena.read(folder, votes_file(tmp_path / "votes.json", votes))
    (tmp_path / "votes.json").write_text("{}")
    with pytest.raises(UserError, match="holds no votes"):
        arena.read(folder, tmp_path / "votes.json")
    assert not len(table(folder))


def test_votes_without_a_name_are_refused(found, tmp_path):
    """Two people who gave none would have the same ids, and the second would replace the first."""
    folder = tmp_path / "judge"
    arena.write(found, folder, tmp_path / "page.html", "tiny", 8)
    votes = [{"id": pair["id"], "verdict": "left"} for pair in content_of(tmp_path / "page.html")["pairs"]]
    (tmp_path / "votes.csv").write_text("voter,id,verdict\n" + "".join(f'"",{vote["id"]},left\n' for vote in votes))
    for path in (votes_file(tmp_path / "a.json", votes, ""), votes_file(tmp_path / "b.json", votes, None),
                 tmp_path / "votes.csv"):
        with pytest.raises(UserError, match=f"{path.name} does not say whose votes it holds: give a name"):
            arena.read(folder, path)
    assert not len(table(folder))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_clicked_through_in_a_browser(found, tmp_path):
    """Buttons, keys, back and a reload; the saved files are read back as what was clicked."""
    folder = tmp_path / "judge"
    arena.write(found, folder, tmp_path / "page.html", "tiny", 6)
    names = [pair["id"] for pair in content_of(tmp_path / "page.html")["pairs"]]

    async def click_through():
        async with browser(tmp_path) as page:
            await page.open(tmp_path / "page.html")
            assert await page.js("document.querySelectorAll('b').length") == 0     # answers are text
            assert await page.js("el('image').naturalWidth") == 16
            await page.js("el('voter').value = 'Miren'; el('voter').dispatchEvent(new Event('input'))")
            for verdict in ("left", "right", "tie"):
                await page.js(f"document.querySelector('[data-verdict={verdict}]').click()")
            await page.js("el('back').click()")
            await page.js("document.querySelector('[data-verdict=bad]').click()")     # instead of tie
            said = ""
            for _ in range(20):      # a browser writes its storage down behind the page's back
                await page.open(tmp_path / "page.html")
                said = await page.js("el('count').textContent")
                if "0 voted" not in said:
                    break
                await asyncio.sleep(0.1)
            assert "pair 4 of 6, 3 voted" in said
            for key in ("ArrowUp", "ArrowDown", "ArrowLeft"):
                await page.press(key)
            assert "all 6 done" in await page.js("el('count').textContent")
            for kind in ("json", "csv"):
                await page.js(f"el('{kind}').click()")
                while not (tmp_path / f"votes.{kind}").exists():
                    await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(click_through(), 90))
    for kind in ("json", "csv"):
        judging.read(folder, tmp_path / f"votes.{kind}")
        made = table(folder)
        shown = asked(folder)
        clicked = dict(zip(names, ["left", "right", "bad", "tie", "bad", "left"], strict=True))
        expected = {(line["item"], line["language"], line["left"], line["right"]): clicked[name]
                    for name, line in shown.items()}
        assert {tuple(row[:4]): row[4] for row in made[["item", "language", "left", "right", "verdict"]].itertuples(
            index=False, name=None)} == expected
        assert set(made["voter"]) == {"Miren"}
