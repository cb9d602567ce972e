"""What can be wrong with one sample: its record against the schema, its image against decoding. Pure but for decoding.

A problem is (kind, detail, level); the kinds are `data_tools.check.PROBLEMS`.
"""
from __future__ import annotations

import io
import json
import warnings
from typing import Any

from core.questions import check

PLACEHOLDER = "<image>"
ROLES = ("system", "user", "assistant")
MAX_PIXELS = 64_000_000          # more than any camera of the sources; a 40,000 x 40,000 image is an attack or a fault
PLAIN_MODES = ("RGB", "L")
FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
Problem = tuple[str, str, str]


def record_problems(data: bytes | None, kind: str | None, languages: list[str]) -> tuple[dict[str, Any] | None,
                                                                                       list[Problem]]:
    """The parsed record (None if there is none) and what is wrong with it.

    `kind` is the subset's (None: unknown), `languages` those that every sample should have; the first is the base."""
    if data is None:
        return None, [("missing json", "", "error")]
    try:
        record = json.loads(data)
    except ValueError as error:
        return None, [("broken json", str(error)[:80], "error")]
    if not isinstance(record, dict):
        return None, [("schema", "the JSON is no object", "error")]
    wrong = [f"'{name}' is not a text" for name in ("id", "source", "license") if not _text(record.get(name))]
    if kind == "evaluation" or (kind is None and "prompt" in record):
        wrong += _evaluation(record)
        present = record.get("prompt")
    else:
        wrong += _turns(record.get("turns"))
        present = record.get("turns")
    problems = [("schema", text, "error") for text in wrong]
    present = present if isinstance(present, dict) else {}
    meta = record.get("meta")
    only_base = isinstance(meta, dict) and meta.get("set") == "B" and kind != "evaluation"
    missing = [lang for lang in languages if lang not in present and not (only_base and lang != languages[0])]
    if missing:
        problems.append(("language missing", ", ".join(missing), "error"))
    return record, problems


def _turns(turns: Any) -> list[str]:
    if not isinstance(turns, dict) or not turns:
        return ["'turns' holds no language"]
    wrong = []
    for language, list_of in turns.items():
        if not isinstance(list_of, list) or not list_of:
            wrong.append(f"turns.{language} is no list of turns")
        elif not all(isinstance(t, dict) and t.get("role") in ROLES and _text(t.get("content")) for t in list_of):
            wrong.append(f"turns.{language}: every turn needs a role (system, user, assistant) and a content")
        elif list_of[-1]["role"] != "assistant":
            wrong.append(f"turns.{language} does not end with the assistant")
    return wrong


def _evaluation(record: dict[str, Any]) -> list[str]:
    wrong = [f"'{name}' is missing" for name in ("task", "kind", "prompt", "options", "answer", "references")
             if name not in record]
    if wrong:
        return wrong
    prompt, options = record["prompt"], record["options"]
    if not isinstance(prompt, dict) or not all(_text(p) for p in prompt.values()):
        return ["'prompt' is no text per language"]
    for language in prompt:
        try:
            check(record, language)
        except (ValueError, AttributeError, TypeError) as error:  # the latter two: a field of another shape
            wrong.append(str(error))
    if not wrong and record["kind"] in ("choice", "yes_no"):
        if set(options) != set(prompt) or len({len(texts) for texts in options.values()}) != 1:
            wrong.append("the languages differ in their options")
        elif any(len({str(o).casefold() for o in texts}) < len(texts) for texts in options.values()):
            wrong.append("two options are the same")
    return list(dict.fromkeys(wrong))


def sample_problems(record: dict[str, Any] | None, extension: str | None, data: bytes | None,
                    kind: str | None) -> list[Problem]:
    """Placeholders against the image, and the image itself."""
    problems: list[Problem] = []
    if record is not None:
        counts = _placeholders(record)
        if data is None and (any(counts.values()) or kind == "image"):
            problems.append(("missing image", "", "error"))
        elif data is not None:
            without = [language for language, count in counts.items() if not count]
            many = [language for language, count in counts.items() if count > 1]
            if without:
                problems.append(("image without placeholder", ", ".join(without), "error"))
            if many:
                problems.append(("placeholder", f"more than one {PLACEHOLDER} in {', '.join(many)}", "error"))
    if data is not None and extension is not None:
        problems += image_problems(extension, data)
    return problems


def image_problems(extension: str, data: bytes) -> list[Problem]:
    """An image file that cannot be read as what it calls itself, or is too large to be decoded safely."""
    from PIL import Image

    if not data:
        return [("zero-byte image", "", "error")]
    problems: list[Problem] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            return [("decompression bomb", f"{image.width} x {image.height} pixels", "error")]
        if image.format != FORMATS.get(extension):
            problems.append(("wrong extension", f"a {image.format} file is called .{extension}", "error"))
        image.load()
        if image.mode not in PLAIN_MODES:
            problems.append(("image mode", image.mode, "note"))
    except Image.DecompressionBombError as error:
        problems.append(("decompression bomb", str(error)[:80], "error"))
    except Exception as error:  # Pillow's decoders raise whatever they meet in a damaged file
        problems.append(("undecodable image", str(error)[:80] or type(error).__name__, "error"))
    return problems


def _placeholders(record: dict[str, Any]) -> dict[str, int]:
    """Number of image placeholders per language."""
    try:
        if "prompt" in record:
            return {language: text.count(PLACEHOLDER) for language, text in record["prompt"].items()}
        return {language: sum(t["content"].count(PLACEHOLDER) for t in turns)
                for language, turns in record["turns"].items()}
    except (AttributeError, KeyError, TypeError):
        return {}


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
