"""The report: one page that stands alone, says what the numbers say, and shows what is missing; figures and LaTeX."""
from __future__ import annotations

import base64
import html
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image

from analysis.answers import answer
from analysis.figures import DARK, LIGHT, MARKERS, STYLES, figures, recoloured, svg
from analysis.report import report
from analysis.stores import read_stores
from core.errors import UserError
from core.files import write_text
from data_tools.dataset import Sample, building
from tests.simulated_store import Truth, simulate

CALM = Truth(run=.001, item=.15)
ITEMS = 150
GRID = {"name": "tiny", "analysis": {"subsets": ["eval-emojione"], "margin": 0.05}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A study whose evaluation items have images, and whose answers the data decide."""
    root = tmp_path_factory.mktemp("report")
    directory = simulate(root, "tiny", ratios=(0.0, 0.2, 1.0), seeds=(0, 1), items=ITEMS, truth=CALM,
                         styles=("eval-dev", "eval-emojione"), tasks=("naming", "keywords"))
    _images(root / "data")
    for run in read_stores([directory]):
        if run.is_evaluation:
            config = yaml.safe_load((run.path / "config.yaml").read_text())
            config["runtime"]["data_root"] = str(root / "data")
            write_text(run.path / "config.yaml", yaml.safe_dump(config))
    return directory


def _images(root):
    def samples():
        for number in range(ITEMS):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 99, 200)).save(buffer, "PNG")
            yield Sample({"id": f"emojione/c{number}/naming", "source": "emojione", "license": "CC-BY-4.0",
                          "task": "naming", "kind": "choice", "turns": {}, "meta": {}}, buffer.getvalue())

    with building(root / "emoji-eu", "emoji-eu", ["en", "eu"]) as writer:
        writer.subset("eval-emojione", "evaluation", samples())
        writer.finish([{"name": "emojione", "version": "1.2.3", "licence": "CC-BY-4.0", "origin": "npm"}])


@pytest.fixture(scope="module")
def made(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return report([store], GRID, out), (out / "report.html").read_text(), out


def text_of(page):
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>", " ", page))).split())


def test_the_page_asks_nothing_of_a_network(made):
    _, page, _ = made
    assert "<script" not in page and "<link" not in page and "@import" not in page
    for address in re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", page):
        assert address.startswith(("data:image/", "#")), address[:80]
    assert "url(" not in page


def test_no_sentence_says_more_than_the_runs_and_the_grid_do(made):
    """When the grid was written, no report can know; and a comma stands only around what stands between two."""
    words = text_of(made[1])
    assert "the tests are those that the grid declares" in words and "before any run" not in words
    assert re.search(r"by [+−]?[\d.]+ \[[^]]+\](, \d+ % of that,)? on concepts that never were\.", words)


def test_names_that_look_alike_are_left_out_of_their_columns(store):
    from analysis.collect import collect
    from analysis.questions import declared
    from analysis.study import study_of
    from analysis.tables import cognate_table

    study = study_of(collect([store]), declared(GRID))
    table = cognate_table(study)
    items = study.items("score")
    mask = study.select(items, "naming", "eu", "A")
    likeness = items.described["likeness"].to_numpy()
    for column, limit in ((1, 101), (3, 50), (5, 20)):
        kept = mask & (likeness < limit)
        of_level = [items.of_runs([run for run in items.runs if tuple(study.runs.loc[
            run, ["target_ratio", "backbone", "text_only"]]) == (level, "llama", "none")])
            for level in study.levels("target_ratio")]
        assert f"({kept.sum()})" in table.columns[column]
        for row, found in zip(table.rows, of_level, strict=True):
            assert float(row[column].text) == pytest.approx(100 * found.score[:, kept].mean(), abs=.06), (row, column)


def test_what_is_had_without_the_language_is_held_against_guessing(tmp_path):
    """Two simulated studies: one whose models guess at ratio 0, one whose models do not."""
    from analysis.collect import collect
    from analysis.questions import declared
    from analysis.remarks import floor
    from analysis.study import study_of

    for name, truth, says in (("guessing", .25, "within noise of guessing"), ("seeing", .45, "more than guessing")):
        found = simulate(tmp_path, name, ratios=(0.0, 1.0), seeds=(0, 1, 2), items=400, styles=("eval-emojione",),
                         tasks=("naming",), truth=Truth({0.0: truth, 1.0: .6}, {0.0: .6, 1.0: .3}, run=.005, item=.0))
        study = study_of(collect([found]), declared(GRID))
        text, = floor(study, .25)
        assert text.count(says) == 3 and text.count("guessing") == 4, text
        rows = [study.runs.loc[run, ["target_ratio", "backbone", "text_only"]].tolist() == [0, "llama", "none"]
                for run in study.items("score").runs]
        items = study.items("score")
        mean = items.score[rows][:, study.select(items, "naming", "eu", "A")].mean()
        assert f"the score of llama is {100 * mean:.1f} [" in text
        assert floor(study, None) == []


def test_a_declared_likeness_restricts_what_decides_and_says_so(store):
    from analysis.collect import collect
    from analysis.questions import declared
    from analysis.study import study_of
    from analysis.tables import benchmark_tables, cognate_table, loss_table
    from analysis.wording import basis

    collected = collect([store])
    study, whole = (study_of(collected, declared({"analysis": {**GRID["analysis"], "less_alike": limit}}))
                    for limit in (30, 0))
    items = study.items("score")
    mask = study.select(items, "naming", "eu", "A")
    kept = mask & (items.described["likeness"].to_numpy() < 30)
    assert 0 < kept.sum() < mask.sum() == whole.asked()
    assert study.asked() == kept.sum()
    for language in ("eu", "en"):
        assert study.estimates(language).by_item.shape[1] == kept.sum() < whole.estimates(language).by_item.shape[1]
    np.testing.assert_allclose(study.estimates("eu").mean, _means(study, items.score[:, kept]))
    assert f"same {kept.sum()} items of naming (concept set A; names with less than 30 chrF in common" in \
        basis(study, answer(study, resample=False))
    assert "chrF" not in basis(whole, answer(whole, resample=False))
    assert [head.partition(" (")[0] for head in cognate_table(study).columns[1::2]] == \
        ["all", "chrF < 50", "chrF < 30", "chrF < 20"]
    assert loss_table(study).rows != loss_table(whole).rows
    ours, all_names = ({one.name: one for one in benchmark_tables(one)} for one in (study, whole))
    decides, before = ours.pop("naming-decides-score"), all_names.pop("naming-decides-score")
    assert {name: one.rows for name, one in ours.items()} == {name: one.rows for name, one in all_names.items()}
    assert decides.rows != before.rows and "names with less than 30 chrF" in decides.caption
    shown = [float(cell.text) for row in decides.rows for cell in row[2:2 + 3]]
    assert sorted(shown) == pytest.approx(sorted(100 * study.estimates("eu").mean), abs=.06)


def _means(study, score):
    """Means per condition in the order of the estimates, straight from the items."""
    conditions = study.estimates("eu").conditions
    items = study.items("score")
    return [np.mean([score[items.runs.index(run)].mean() for run, axes in study.runs.iterrows()
                     if all(axes[name] == row[name] for name in conditions)]) for _, row in conditions.iterrows()]


def test_a_declared_likeness_needs_items_that_know_theirs(store, tmp_path):
    import pyarrow.parquet as pq

    from analysis.collect import collect
    from analysis.questions import declared
    from analysis.study import study_of

    unknown = tmp_path / "unknown"
    shutil.copytree(store, unknown)
    for path in unknown.glob("evaluate/*/items.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["likeness"]), path)
    assert study_of(collect([unknown]), declared(GRID)).asked()
    with pytest.raises(UserError, match=r"less_alike is 20, but no item says how alike .*: leave the key out"):
        study_of(collect([unknown]), declared({"analysis": {"less_alike": 20}}))
    with pytest.raises(UserError, match="less_alike is 120: give a chrF from 0"):
        declared({"analysis": {"less_alike": 120}})


def test_the_first_screen_holds_question_answers_and_figure(made):
    summary, page, _ = made
    words = text_of(page[:page.index('id="reading"')])
    assert "How much Basque image-text data" in words
    assert [one["verdict"] for one in summary["answers"]] == ["no", "yes", "no"]
    for one in summary["answers"]:
        assert text_of(one["question"]) in words and text_of(one["sentence"]) in words
    assert page.index('class="cards"') < page.index("<figure>") < page.index('id="reading"')
    assert page.count("prefers-color-scheme: dark") >= 1 + page.count("<picture>")


def test_sentences_state_the_numbers_of_the_summary(made):
    summary, _, _ = made
    for one in summary["answers"]:
        for number in (abs(one["effect"]), one["low"], one["high"]):
            assert f"{abs(number) * 100:.1f}" in one["sentence"]
    gap, claim = summary["answers"][0], "20\u00a0%"
    assert claim in gap["sentence"] and gap["low"] > .03


def test_the_panel_shows_the_items_own_images(made, store):
    _, page, _ = made
    shown = re.findall(r'<div class="sample"><img src="data:image/png;base64,([^"]+)" alt="thing (\d+)"', page)
    assert len(shown) == 6
    right = _answers(store)
    for content, number in shown:
        pixel = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB").getpixel((0, 0))
        assert right[f"c{pixel[0]}"] == f"thing {number}" and pixel[1:] == (99, 200)
    assert "CC-BY-4.0" in page and "0 %" in text_of(page).replace("\u00a0", " ")


def _answers(store):
    import pyarrow.parquet as pq

    path = next(run.path for run in read_stores([store]) if run.is_evaluation) / "items.parquet"
    frame = pq.read_table(path).to_pandas()
    frame = frame[(frame["task"] == "naming") & (frame["language"] == "en") & (frame["subset"] == "eval-emojione")]
    return {row.concept: row.options[row.answer] for row in frame.itertuples()}


def test_a_second_report_is_the_same(made, store, tmp_path):
    _, page, out = made
    report([store], GRID, tmp_path)
    assert (tmp_path / "table.parquet").read_bytes() == (out / "table.parquet").read_bytes()
    assert (tmp_path / "report.html").read_text() == page
    assert "every run of the grid is done" in page


def test_tables_mark_the_best_and_what_is_not_worse(made):
    _, page, out = made
    table = re.search(r'(?s)<table>\s*<caption>naming: answered.*?</table>', page).group()
    best = [float(cell) for cell in re.findall(r'class="[^"]*best"><span>([\d.]+)', table)]
    cells = [float(cell) for cell in re.findall(r"<td[^>]*><span>(\d+\.\d)</span>", table)]
    assert len(best) == 2 and max(best) == max(cells)  # one per language
    assert re.search(r'class="[^"]*equal"', table)
    latex = (out / "latex" / "naming-score.tex").read_text()
    assert latex.count("\\textbf") == 2 and "\\underline" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here (Debian: texlive-latex-base)")
def test_latex_compiles(made):
    _, _, out = made
    done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=out / "latex",
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (out / "latex" / "all.pdf").stat().st_size > 10_000


def test_figures_differ_in_more_than_colour_and_have_a_dark_version(made, store):
    from analysis.answers import answer
    from analysis.collect import collect
    from analysis.questions import declared
    from analysis.study import study_of

    assert len(set(MARKERS)) == len(MARKERS) and len(set(map(str, STYLES[:4]))) == 4
    study = study_of(collect([store]), declared(None))
    drawn = figures(study, answer(study, resample=False), .25)
    assert set(drawn) == {"ratio", "text-only", "transfer"}
    for figure in drawn.values():
        for ax in figure.axes:
            curves = [bars.lines[0] for bars in ax.containers]
            assert len({(one.get_marker(), str(one._unscaled_dash_pattern)) for one in curves}) == len(curves) >= 2
            names = {note.get_text() for note in ax.texts}
            assert len(names) >= len(curves)  # lines are named where they end
    light = svg(drawn["ratio"]).decode()
    dark = recoloured(light.encode(), DARK).decode()
    assert svg(drawn["ratio"]).decode() == light and LIGHT.ink in light and DARK.ink in dark
    assert not any(colour in dark for colour in (LIGHT.ink, LIGHT.muted, *LIGHT.colours[:2]))
    _, _, out = made
    with Image.open(out / "figures" / "ratio.png") as image:
        grey = np.asarray(image.convert("L"))
    assert grey.shape[1] == 2000 and grey.min() < 60 and grey[0, 0] == 255


def test_any_language_is_called_by_its_name_and_missing_runs_are_shown(tmp_path):
    directory = simulate(tmp_path, "cy", ratios=(0.0, 0.2, 1.0), backbones=("llama",), text_only=("none",), seeds=(0,),
                         items=30, tasks=("naming",), styles=("eval-emojione",), target="cy", generate=False)
    lost = next(run for run in read_stores([directory]) if run.is_evaluation and run.axes["target_ratio"] == 0.2)
    (lost.path / "DONE").unlink()
    summary = report([directory], None, tmp_path / "out")
    page = text_of((tmp_path / "out" / "report.html").read_text())
    assert summary["missing"] == 1 and lost.name in page and "every run of the grid is done" not in page
    assert "How much Welsh image-text data" in page and "Basque" not in page
    assert [one["verdict"] for one in summary["answers"]][1:] == ["not decided"] * 2
