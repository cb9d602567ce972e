"""`begira report`: tables, figures, LaTeX and one self-contained HTML page of a study.

    runs -> collect -> study -> answers -> figures, tables -> report.html

The page asks nothing of a network: images lie in it, in a light and a dark version, and it prints. This module puts the
parts together; every number in it comes from analysis.study."""
from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis import remarks, wording
from analysis.answers import Answers, answer
from analysis.collect import collect, write_tables
from analysis.costs import cost_tables
from analysis.figures import DARK, figures, recoloured, svg, write_figures
from analysis.forest import forest
from analysis.judge_tables import JUDGED, judge_tables
from analysis.latex import write_latex
from analysis.provenance import provenance_tables
from analysis.questions import Questions, declared
from analysis.samples import Panel, chance, panel
from analysis.study import Study, balanced, covered, study_of
from analysis.tables import (
    Cell,
    Table,
    amount_table,
    axes_table,
    benchmark_tables,
    cognate_table,
    loss_table,
    missing_table,
    other_table,
    transfer_table,
)
from core.files import write_json, write_text
from experiments.expand import Desired

NUMBERS = {2: "two", 3: "three"}


@dataclass
class Section:
    anchor: str
    title: str
    texts: list[str] = field(default_factory=list)
    figures: list[dict[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    panel: list[dict[str, Any]] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)


def report(study_dirs: Iterable[Path | str], grid: Mapping[str, Any] | None, out: Path | str,
           desired: Iterable[Desired] | None = None) -> dict[str, Any]:
    """Write the report of the study that lies in `study_dirs` (one per store) into the folder `out`.

    grid: the grid's document, for its section `analysis` and its name; desired: every evaluation it asks for, so that
    missing ones are shown and those of other settings are left out. Returns {"paths": {file name: path}, "answers":
    [...]}; the same is written to summary.json. Raises UserError if nothing is done yet or stores disagree."""
    out = Path(out)
    collected = collect(study_dirs, desired)
    study = study_of(collected, declared(grid))
    answers = answer(study)
    paths = write_tables(collected, out)
    guess = chance(study)
    drawn = figures(study, answers, guess)
    paths |= write_figures(drawn, out / "figures")
    made = _tables(study, answers, out / "judge")
    paths |= write_latex([table for table in made.values() if table is not None], out / "latex")
    pictures = {name: _picture(name, figure, study, answers) for name, figure in drawn.items()}
    title = str((grid or {}).get("name") or collected.runs[0].spec.get("study") or "study")
    sources = provenance_tables(study, paths["table.csv"])
    page = _page(study, answers, title, made, pictures, panel(study, answers), sources, sorted(paths), guess)
    paths["report.html"] = out / "report.html"
    write_text(paths["report.html"], page)
    summary = {"study": title, "answers": [_summary(study, answers, one) for one in answers.all()],
               "missing": len(collected.missing), "left_out": sorted(run.id for run in collected.left_out),
               "evaluations": sorted(study.runs.index)}
    paths["summary.json"] = out / "summary.json"
    write_json(paths["summary.json"], summary)
    return {**summary, "paths": paths}


def _tables(study: Study, answers: Answers, judgements: Path) -> dict[str, Table | None]:
    found = [*benchmark_tables(study), transfer_table(study), loss_table(study), amount_table(study),
             axes_table(study), cognate_table(study), other_table(study),
             *judge_tables(study.collected.runs, judgements, study.questions.seed_axis),
             *cost_tables(study, answers), missing_table(study)]
    return {table.name: table for table in found if table is not None}


def _summary(study: Study, answers: Answers, one: Any) -> dict[str, Any]:
    numbers = {key: getattr(one, key) for key in ("effect", "low", "high", "p", "needed", "permutation_p")}
    numbers = {key: value if value == value and abs(value) != float("inf") else None for key, value in numbers.items()}
    extra = {"smallest_ratio": answers.curve.smallest, "interval": list(answers.curve.interval)} \
        if one.key == "ratio" and answers.curve else {}
    return {"key": one.key, "question": wording.question(study, answers, one), "answer": wording.verdict(one),
            "verdict": one.verdict, "sentence": wording.sentence(study, answers, one), "outlook": wording.outlook(one),
            "further_seeds": one.further_seeds, **numbers, **extra}


def _page(study: Study, answers: Answers, title: str, made: dict[str, Table], pictures: dict[str, dict[str, str]],
          shown: Panel, sources: list[Table], files: list[str], guess: float | None) -> str:
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=False)
    environment.globals["starts"] = _classes
    cards = [{"question": wording.question(study, answers, one), "verdict": wording.verdict(one),
              "tone": {"yes": "yes", "no": "no"}.get(one.verdict, "open"), "outlook": wording.outlook(one),
              "forest": Markup(forest(one, study.questions.margin)),
              "sentence": wording.sentence(study, answers, one)} for one in answers.all()]
    body = _sections(study, made, pictures, shown, sources, guess)
    return environment.get_template("report.html.jinja").render(
        title=title, question=wording.study_question(study), cards=cards, main=pictures["ratio"], body=body,
        basis=f"{wording.basis(study, answers)} {wording.realised(study)}", checks=_checks(answers, study.questions),
        files=", ".join(files), scale=_scale(study),
        margin=wording.points(study.questions.margin),
        sections=[("reading", "How to read this"), *((one.anchor, one.title) for one in body)])


def _sections(study: Study, made: dict[str, Table], pictures: dict[str, dict[str, str]], shown: Panel,
              sources: list[Table], guess: float | None) -> list[Section]:
    def of(*names: str) -> list[Table]:
        return [made[name] for name in names if name in made]

    def drawn(*names: str) -> list[dict[str, str]]:
        return [pictures[name] for name in names if name in pictures]

    scores = [table for name, table in made.items() if name.rpartition("-")[2] in ("score", "chrf")]
    legend = ("Mean ± half of the 95 % interval, over items and runs. Within a language the best score is set bold on "
              "a tint; those with a dotted line below are not shown to be worse than it (one-sided test at 5 %, "
              "not corrected for the number of cells).")
    found = [
        Section("text-only", "With and without text-only data", figures=drawn("text-only")),
        Section("samples", f"What {NUMBERS.get(len(shown.models), 'the')} models say", _panel_words(study, shown),
                panel=_panel(study, shown), languages=[study.target, study.base]),
        Section("scores", "Scores per benchmark", [legend], tables=scores),
        Section("judge", "What judges prefer", JUDGED, tables=of(*(n for n in made if n.startswith("judge-")))),
        Section("transfer", "Transfer to concepts never seen", remarks.transfer(study), drawn("transfer"),
                of("transfer")),
        Section("loss", f"What {study.base} loses", remarks.loss(study), tables=of("loss")),
        Section("amount", "Share or amount", remarks.share_or_amount(study), tables=of("amount")),
        Section("axes", "What else was varied", tables=of("axes")),
        Section("cognates", "Names that look alike", remarks.floor(study, guess), tables=of("cognates")),
        Section("controls", "Controls and language of the answers", tables=of("others")),
        Section("cost", "What it took", tables=of("cost", "goodput", "cost-answers")),
        Section("missing", "What is missing", remarks.completeness(study), tables=of("missing")),
        Section("provenance", "Where the numbers come from", tables=sources)]
    return [one for one in found if one.figures or one.tables or one.panel or one.anchor == "missing"]


def _panel_words(study: Study, shown: Panel) -> list[str]:
    q = study.questions
    who = f"{q.backbone[0]} without text-only data, first seed: " if q.backbone else ""
    return [f"{who}{shown.task.replace('_', ' ')} on images of a style that no model was trained on. The items "
            "were picked by the hash of their concept, not by the answers; a model picks one of the given options."]


def _panel(study: Study, shown: Panel) -> list[dict[str, Any]]:
    return [{"image": _data("image/png", one.image) if one.image else None, "alt": one.names[shown.languages[-1]],
             "names": [one.names[code] for code in shown.languages],
             "answers": [(model, [given[code] for code in shown.languages])
                         for model, given in zip(shown.models, one.answers, strict=True)]} for one in shown.samples]


def _checks(answers: Answers, questions: Questions) -> Table:
    axes = {"ratio": questions.ratio_axis, "backbone": questions.backbone_axis, "text_only": questions.text_axis}
    rows = [[Cell({"ratio": "gap to the best ratio", "backbone": "adapted minus plain backbone",
                   "text_only": "text-only effect"}[one.key]),
             Cell(covered(answers.estimates.conditions, one.weights, axes[one.key])),
             Cell(wording.points(one.effect, True)),
             Cell(wording.interval(one.low, one.high, True)), Cell(wording.interval(*one.bootstrap, True)),
             Cell(f"{one.permutation_p:.3g}"), Cell(f"{one.p:.2g}"), Cell(f"{one.needed:.2g}")]
            for one in answers.all() if one.contrast is not None]
    return Table("checks", "Effects in points. Bootstrap: items resampled, runs redrawn. Sign flips: a permutation "
                 "test over items of whether there is any effect at all. Verdict: its one-sided p, and what Holm's "
                 "procedure over the questions and Pocock's levels over the looks ask of it",
                 ["contrast", "averaged over", "effect", "95 % interval", "bootstrap", "p, sign flips", "p, verdict",
                  "needed"], rows, labels=2)


def _scale(study: Study) -> str:
    runs = study.collected.runs
    hours = study.collected.costs["process_hours"].sum()
    return (f"{wording.number(len(study.runs))} models evaluated, {wording.number(len(runs))} runs in all, "
            f"{hours:,.1f} process-hours")


def _picture(name: str, figure: Any, study: Study, answers: Answers) -> dict[str, str]:
    q = study.questions
    what = q.benchmark.replace("_", " ")
    shaded = (f" Shaded: where the smallest ratio within {wording.points(q.margin)} points of the best lies (95 %)."
              if answers.curve is not None and answers.estimates.spread != "none" else "")
    caption = {
        "ratio": f"{what.capitalize()} in both languages against the realised share of {study.target} in the "
                 f"image-text data, with 95 % intervals over items and runs{_at_every_ratio(study)}." + shaded,
        "text-only": f"{what.capitalize()} in {study.target} with and without text-only data, one panel per backbone. "
                     f"The {study.base} text is the control: as many steps, another language.",
        "transfer": f"Concepts that had {study.target} text beside an image in training, and concepts that never had."}
    which = study.which("" if name == "transfer" else None)
    caption[name] += f" Items: {which}." if which else ""
    alt = f"{caption[name]} The numbers are in the tables below."
    drawn = svg(figure)
    return {"light": _data("image/svg+xml", drawn), "dark": _data("image/svg+xml", recoloured(drawn, DARK)),
            "caption": caption[name], "alt": alt}


def _at_every_ratio(study: Study) -> str:
    """Which runs a curve averages: the levels of the other axes that every ratio was run with."""
    axis, estimates = study.questions.ratio_axis, study.estimates(study.questions.target_language)
    weights = None if estimates is None else balanced(estimates.conditions, axis, study.levels(axis))
    if weights is None:
        return ""
    return f"; of what was run at every ratio: {covered(estimates.conditions, weights, axis)}"


def _data(kind: str, content: bytes) -> str:
    return f"data:{_kind(content) or kind};base64,{base64.b64encode(content).decode()}"


def _kind(content: bytes) -> str | None:
    """By the file's first bytes, for data sets hold PNG, JPEG and WebP."""
    known = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
    return next((kind for start, kind in known.items() if content.startswith(start)), None)


def _classes(table: Table, column: int, mark: str = "") -> Any:
    """The class attribute of a cell: labels stand left, a group of columns begins with a line."""
    from itertools import accumulate

    from markupsafe import Markup

    begins = set(list(accumulate(count for _, count in table.heads))[:-1])
    names = ["label"] * (column < table.labels) + ["start"] * (column in begins) + [mark] * bool(mark)
    return Markup(f' class="{" ".join(names)}"') if names else ""
