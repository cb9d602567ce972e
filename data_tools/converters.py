"""From rows of a public data set to canonical records: one small function per shape of data, none per data set.

A converter gets a `Reader`, which reads the row's fields by the names that the source's YAML gives, and returns what
one language contributes; `data_tools.sources` puts the languages side by side. A field that is missing is the user's
error; a row whose text is empty or broken raises Skip and is counted.
"""
from __future__ import annotations

import difflib
import html
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import UserError

IMAGE = "<image>"


class Skip(Exception):
    """This row gives no sample; the text is the reason that is counted."""


@dataclass
class Reader:
    """One row in one language. `fields` maps our names to columns, where `{lang}` stands for the language."""

    source: str
    row: Mapping[str, Any]
    fields: Mapping[str, str]
    language: str
    settings: Mapping[str, Any]

    def get(self, name: str, default: Any = ...) -> Any:
        """The field's value, or `default`. Raises UserError naming the column if the data has neither."""
        column = self.fields.get(name, name).replace("{lang}", self.language)
        if column in self.row:
            return self.row[column]
        if default is not ...:
            return default
        near = difflib.get_close_matches(column, self.row, 1, 0.5)
        raise UserError(f"source '{self.source}': the data has no field '{column}' (fields: {', '.join(self.row)})"
                        + (f"; did you mean '{near[0]}'?" if near else "") + f": set fields.{name}=COLUMN")

    def text(self, name: str) -> str:
        """A text field without HTML entities and outer space. Raises Skip if it is empty or no text."""
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise Skip(f"empty {name}")
        return html.unescape(value).strip()

    def prompt(self, identity: float) -> str:
        """One of the source's own prompts in this language, chosen by a number in [0, 1)."""
        choices = self.settings.get("prompts", {}).get(self.language)
        if not choices:
            raise UserError(f"source '{self.source}' has no prompts in language '{self.language}': add them under "
                            "`prompts`")
        return choices[int(identity * len(choices))]


def captions(reader: Reader, chance: float) -> list[dict[str, str]]:
    """Image and caption -> a request for a description and the caption. Fields: caption."""
    return [_turn("user", f"{reader.prompt(chance)}\n{IMAGE}"), _turn("assistant", reader.text("caption"))]


def question_answer(reader: Reader, _chance: float) -> list[dict[str, str]]:
    """Image, question, answer. Fields: question, answer."""
    return [_turn("user", f"{_bare(reader.text('question'))}\n{IMAGE}"), _turn("assistant", reader.text("answer"))]


def conversation(reader: Reader, _chance: float) -> list[dict[str, str]]:
    """LLaVA's JSON: a list of {"from": "human" | "gpt", "value"}. Fields: conversations; with or without an image."""
    turns = _turns(reader.get("conversations"))
    if reader.settings.get("kind") == "image":
        turns[0]["content"] = f"{_bare(turns[0]['content'])}\n{IMAGE}"
    return turns


def instruction(reader: Reader, _chance: float) -> list[dict[str, str]]:
    """Instruction and response without an image. Fields: instruction, response, or a list of turns: conversations."""
    listed = reader.get("conversations", None)
    if listed:
        return _turns(listed)
    return [_turn("user", reader.text("instruction")), _turn("assistant", reader.text("response"))]


def text(reader: Reader, _chance: float) -> list[dict[str, str]]:
    """A plain document. Fields: text. Long ones are cut by `pieces`."""
    return [_turn("assistant", reader.text("text"))]


def multiple_choice(reader: Reader) -> dict[str, Any]:
    """Question, choices, index of the right one. Fields: question, choices, answer (an index or a letter)."""
    choices, answer = list(reader.get("choices")), reader.get("answer")
    if isinstance(answer, str) and re.fullmatch("[A-Za-z]", answer.strip()):
        answer = ord(answer.strip().upper()) - ord("A")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise Skip("answer is no index of the choices")
    return _choice(_bare(reader.text("question")), [str(c).strip() for c in choices], answer)


def lettered(reader: Reader) -> dict[str, Any]:
    """MMStar's shape: the options stand in the question as "A: ..., B: ...", the answer is a letter."""
    question = _bare(reader.text("question"))
    parts = re.split(r"(?:^|[\s,;])\(?([A-H])(?:\)|:|\.)\s+", question)
    if len(parts) < 5 or parts[1::2] != [chr(ord("A") + i) for i in range(len(parts[1::2]))]:
        raise Skip("no lettered options in the question")
    head = re.sub(r"[\s\n]*(options|aukerak|choices)\s*:?\s*$", "", parts[0], flags=re.IGNORECASE).strip()
    options = [p.strip().rstrip(",;.").strip() for p in parts[2::2]]
    answer = ord(reader.text("answer").strip("(). ").upper()[0]) - ord("A")
    if not 0 <= answer < len(options):
        raise Skip("answer is no letter of the options")
    return _choice(head, options, answer)


def yes_no(reader: Reader) -> dict[str, Any]:
    """A question to be answered with yes or no. Fields: question, answer; `words` gives both words per language."""
    words = reader.settings["words"].get(reader.language)
    if not words:
        raise UserError(f"source '{reader.source}' has no words for yes and no in '{reader.language}': add them under "
                        "`words`")
    given = reader.text("answer").strip(" .!").casefold()
    known = [w.casefold() for w in words]
    if given not in known:
        raise Skip("answer is neither yes nor no")
    return _choice(_bare(reader.text("question")), list(words), known.index(given)) | {"kind": "yes_no"}


def short_answer(reader: Reader) -> dict[str, Any]:
    """VQAv2's shape, not normalised. Fields: question, answers (one per annotator: texts or {"answer"}), or else answer
    (the agreed one, which is matched exactly). VQA accuracy counts annotators, so equal answers are kept as often."""
    listed = reader.get("answers", None) or ()
    given = [str(a.get("answer") or "") if isinstance(a, Mapping) else str(a) for a in listed]
    references = [html.unescape(a).strip() for a in given if a.strip()] or [reader.text("answer")]
    kind = "vqa" if len(references) > 1 else "generate"
    return {"kind": kind, "prompt": f"{_bare(reader.text('question'))}\n{IMAGE}", "options": [], "answer": -1,
            "references": references}


def open_ended(reader: Reader) -> dict[str, Any]:
    """A question that a judge or a human will mark. Fields: question, answer (a reference, may be absent)."""
    reference = reader.get("answer", None)
    return {"kind": "generate", "prompt": f"{_bare(reader.text('question'))}\n{IMAGE}", "options": [], "answer": -1,
            "references": [reference.strip()] if isinstance(reference, str) and reference.strip() else []}


TRAINING: dict[str, Callable[[Reader, float], list[dict[str, str]]]] = {
    f.__name__: f for f in (captions, question_answer, conversation, instruction, text)}
EVALUATION: dict[str, Callable[[Reader], dict[str, Any]]] = {
    f.__name__: f for f in (multiple_choice, lettered, yes_no, short_answer, open_ended)}


def pieces(document: str, characters: int) -> Iterator[str]:
    """A document cut at line ends, or at sentence ends where a line is longer, into pieces of at most `characters`."""
    piece = ""
    for unit in re.findall(r"[^\n]*\n|[^\n]+$", document):
        parts = [unit]
        if len(unit) > characters:
            end = rf".{{1,{characters - 1}}}"
            parts = re.findall(rf"{end}[.!?…]\s|{end}\s|.{{1,{characters}}}", unit)
        for part in parts:
            if piece and len(piece) + len(part) > characters:
                yield piece.strip()
                piece = ""
            piece += part
    if piece.strip():
        yield piece.strip()


def _choice(question: str, options: list[str], answer: int) -> dict[str, Any]:
    if len({o.casefold() for o in options}) < len(options) or not all(options):
        raise Skip("two options are the same, or one is empty")
    return {"kind": "choice", "prompt": f"{question}\n{IMAGE}", "options": options, "answer": answer,
            "references": [options[answer]]}


def _turns(listed: Any) -> list[dict[str, str]]:
    roles = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
    try:
        turns = [_turn(roles[t.get("from", t.get("role"))], _bare(t.get("value", t.get("content")))) for t in listed]
    except (AttributeError, KeyError, TypeError):
        raise Skip("conversation is no list of turns by human and gpt") from None
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    if not turns or not all(t["content"] for t in turns):
        raise Skip("conversation without an answer")
    return turns


def _bare(text: str) -> str:
    """Without image placeholders: the record sets its own."""
    return html.unescape(re.sub(r"\s*<image( \d+)?>\s*", " ", text)).strip()


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
