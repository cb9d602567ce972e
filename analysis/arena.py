"""A page on which people say which of two answers is better, and its votes read back as judgements of judge "human".

    write(found, folder, page.html)     one file that needs no server: images, prompts, two answers without names
    read(folder, votes.json or .csv)    the votes into the journal of the person who gave them

Which of the two stands left is decided by a hash; equal answers are not shown. A vote names its pair by an id, so votes
of another study are refused, and reading a file twice changes nothing."""
from __future__ import annotations

import base64
import csv
import html
import json
from pathlib import Path
from string import Template
from typing import Any

from analysis.judge_plan import Answered, Question, digest, pairs, picture, record
from analysis.judge_prompt import kind_of
from analysis.judgements import asked, journal, keep_asked, slug
from analysis.preferences import HUMAN
from core.errors import UserError
from core.files import write_text

VERDICTS = ("left", "right", "tie", "bad")
FIELDS = {"judge": HUMAN, "kind": "pair", "prompt": "arena-1", "prompt_language": "", "images": True}


def write(found: Answered, folder: Path, page: Path, study: str, number: int = 100, per_item: int = 0) -> int:
    """Write the page with at most `number` pairs, spread over the items; returns how many.

    Raises UserError if there are fewer than two conditions or no two answers differ."""
    met = [(question, record(question, FIELDS, *_sides(question, one, two)))
           for question, one, two in pairs(found, per_item)]
    met = sorted(((question, line) for question, line in met if not line["same"]), key=lambda pair: pair[1]["id"])
    if not met:
        raise UserError("all answers are equal in pairs, so there is nothing to choose between")
    chosen = met[:number]
    images: dict[str, str] = {}
    shown = [_shown(found, question, line, images) for question, line in chosen]
    template = Template(Path(__file__).with_name("arena.html").read_text(encoding="utf-8"))
    content = {"study": study, "pairs": shown, "images": images}
    # "<" inside a script element could end it
    text = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    keep_asked(folder, "arena", [line for _, line in chosen])
    write_text(page, template.substitute(title=html.escape(study), content=text))
    return len(chosen)


def _sides(question: Question, one: str, two: str) -> tuple[str, str]:
    return (one, two) if int(digest("side", *question.key, one, two), 16) % 2 else (two, one)


def _shown(found: Answered, question: Question, line: dict[str, Any], images: dict[str, str]) -> dict[str, Any]:
    name = digest(*question.key[:3])
    if "<image>" in question.prompt and name not in images:
        image = picture(found, question)
        if image is not None:
            images[name] = f"data:{kind_of(image)};base64,{base64.b64encode(image).decode()}"
    return {"id": line["id"], "language": line["language"], "image": name if name in images else "",
            "prompt": question.prompt.replace("<image>", "").strip(), "left": question.answers[line["left"]],
            "right": question.answers[line["right"]]}


def read(folder: Path, path: Path) -> int:
    """Take the votes of a file that the page saved; returns how many. A later vote on a pair replaces an earlier one.

    Raises UserError for a file that is none, votes without a name, a verdict that is none, and a pair that was never
    shown."""
    voter, votes = _votes(path)
    if not slug(voter):  # a judgement's id holds the name, so two nameless people would be one
        raise UserError(f'{path} does not say whose votes it holds: give a name on the page ("Your name") and save the '
                        'file again, or write one after "voter" in it')
    known, lines = asked(folder), []
    for vote in votes:
        if vote.get("verdict") not in VERDICTS:
            raise UserError(f"{path}: verdict '{vote.get('verdict')}': choose one of {', '.join(VERDICTS)}")
        line = known.get(str(vote.get("id")))
        if line is None or line["judge"] != HUMAN:
            raise UserError(f"{path} votes on a pair that no arena page of this study showed ({vote.get('id')}): make "
                            "the page with `begira judge GRID --write FILE.html`, and read its votes with that grid")
        lines.append({**line, "id": digest(line["id"], voter), "voter": voter, "status": "ok",
                      "verdict": vote["verdict"]})
    with journal(folder, f"{HUMAN}-{slug(voter)}") as book:
        for line in lines:
            if book.lines.get(line["id"]) != line:
                book.add(line)
    return len(lines)


def _votes(path: Path) -> tuple[str, list[dict[str, Any]]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
        return (rows[0].get("voter") or "" if rows else ""), rows
    try:
        content = json.loads(text)
        return str(content["voter"] or ""), list(content["votes"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no votes ({error}): save them with the arena page's button") from error
