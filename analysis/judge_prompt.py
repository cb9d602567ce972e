"""What a judge is told and how its verdict is read: versioned prompt files in several languages.

The verdict stands in double brackets at the end of the reply: [[A]], [[B]], [[tie]], [[bad]] for two answers, [[1]] to
[[5]] for one. A reply without one is unreadable; nothing is guessed."""
from __future__ import annotations

import base64
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from analysis.judge_plan import Question
from analysis.names import language_name
from core.errors import UserError

FOLDER = Path(__file__).with_name("judge_prompts")
VERDICTS = {"a": "left", "b": "right", "tie": "tie", "bad": "bad"}
_MARK = re.compile(r"\[\[\s*(\w+)\s*\]\]")
IMAGE_TOKENS, CHARACTERS_PER_TOKEN, REPLY_TOKENS = 800, 3.0, 80  # assumed in an estimate, before anything is measured


@lru_cache(maxsize=8)
def load(name: str) -> dict[str, Any]:
    """The prompt file: kind (pair or rubric), max_tokens, system and user by prompt language, and its `digest`.

    Raises UserError if there is no such file."""
    import yaml

    from analysis.judge_plan import digest

    path = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(found.stem for found in FOLDER.glob("*.yaml")))
        raise UserError(f"no judge prompt '{name}': there is {known}; or give a YAML file")
    text = path.read_text(encoding="utf-8")
    return {**yaml.safe_load(text), "digest": digest(text)}


def wording(prompt: dict[str, Any], language: str, asked: str) -> tuple[str, str]:
    """System text, with the name of the language `asked` in it, and user text, in the prompt language; "item" stands
    for the language of the item."""
    chosen = asked if language == "item" else language
    if chosen not in prompt["system"]:
        raise UserError(f"the judge's prompt is not written in '{chosen}': it is in {', '.join(prompt['system'])}; add "
                        "it in a new prompt file, or choose another --prompt-language")
    name = prompt.get("languages", {}).get(chosen, {}).get(asked) or language_name(asked)
    return prompt["system"][chosen].format(language=name), prompt["user"][chosen]


def body(prompt: dict[str, Any], language: str, model: str, question: Question, left: str, right: str,
         image: bytes | None) -> dict[str, Any]:
    """A chat-completion request. left, right: run ids; right is empty for a rubric."""
    asked = question.key[3]
    system, user = wording(prompt, language, asked)
    text = user.format(question=question.prompt.replace("<image>", "").strip(), reference=question.reference or "-",
                       left=question.answers[left] or "-", right=question.answers.get(right, "") or "-")
    content: Any = text
    if image is not None:
        address = f"data:{kind_of(image)};base64,{base64.b64encode(image).decode()}"
        content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": text}]
    return {"model": model, "temperature": 0, "max_tokens": prompt["max_tokens"],
            "messages": [{"role": "system", "content": system},
                         {"role": "user", "content": content}]}


def kind_of(image: bytes) -> str:
    known = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
    return next((kind for start, kind in known.items() if image.startswith(start)), "image/png")


def verdict(kind: str, reply: str) -> tuple[str, float | None]:
    """(verdict, grade) of a reply: a value of VERDICTS and None, or "" and 1 to 5; ("", None) if it is unreadable.

    The last mark counts, for a judge may weigh the others before it."""
    marks = [mark.lower() for mark in _MARK.findall(reply)]
    if kind == "pair":
        marks = [mark for mark in marks if mark in VERDICTS]
        return (VERDICTS[marks[-1]], None) if marks else ("", None)
    marks = [mark for mark in marks if mark in "12345" and len(mark) == 1]
    return "", (float(marks[-1]) if marks else None)


def estimate(body_: dict[str, Any]) -> tuple[int, int]:
    """Tokens in and out that a request will take, by rule of thumb: 3 characters a token, 800 tokens an image."""
    characters, images = 0, 0
    for message in body_["messages"]:
        parts = message["content"] if isinstance(message["content"], list) else [{"text": message["content"]}]
        characters += sum(len(part.get("text", "")) for part in parts)
        images += sum("image_url" in part for part in parts)
    return round(characters / CHARACTERS_PER_TOKEN) + IMAGE_TOKENS * images, REPLY_TOKENS
