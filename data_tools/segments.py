"""Cutting a text into what is translated and what must come out unchanged, and putting it together again. Pure.

A cut text is a list of (fixed, piece); joining the pieces gives the text back, character by character. Line breaks,
outer space, option letters and `<image>` are always fixed; other protected spans (see `data_tools.quality`) only on
demand, because an engine that copies them itself sees whole sentences.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from data_tools.quality import SPANS

Piece = tuple[bool, str]
_ALWAYS = re.compile(r"(\s*<image>\s*|\s*\n\s*|^\s+|\s+$|(?:(?<=\n)|^)\s*\(?[A-H][).:]\s+)")
_SENTENCE = re.compile(r"(?<=[.!?…])(?<!\b[A-Z]\.)(?<!\be\.g\.)(?<!\bi\.e\.)(\s+)(?=[\"'“«(¿¡]?[A-Z0-9ÁÉÍÓÚÑÇ¿¡])")
_LETTER = re.compile(r"[^\W\d_]")


def cut(text: str, spans: bool = False, sentences: bool = True, characters: int = 2000) -> list[Piece]:
    """Pieces of `text`. `spans`: protected spans become fixed pieces; `sentences`: each sentence is a piece.

    A piece longer than `characters` is cut at sentences in any case, and at spaces where a sentence is longer."""
    pieces = _split([(False, text)], _ALWAYS)
    if spans:
        pieces = _split(pieces, re.compile(rf"(\s*(?:{SPANS.pattern})\s*)", re.DOTALL))
    pieces = [part for piece in pieces for part in (
        _split([piece], _SENTENCE) if sentences or len(piece[1]) > characters else [piece])]
    pieces = [part for piece in pieces for part in _shorten(piece, characters)]
    return [(fixed or not _LETTER.search(part), part) for fixed, part in pieces if part]


def join(pieces: Iterable[Piece], translations: Mapping[str, str]) -> str:
    """The text with every piece that is not fixed replaced by its translation. Raises KeyError if one is missing."""
    return "".join(part if fixed else translations[part] for fixed, part in pieces)


def _split(pieces: list[Piece], pattern: re.Pattern[str]) -> list[Piece]:
    """What the pattern's first group matches becomes fixed."""
    result: list[Piece] = []
    for fixed, part in pieces:
        if fixed:
            result.append((True, part))
            continue
        position = 0
        for match in pattern.finditer(part):
            if match.end(1) > match.start(1):
                result += [(False, part[position:match.start(1)]), (True, match[1])]
                position = match.end(1)
        result.append((False, part[position:]))
    return [piece for piece in result if piece[1]]


def _shorten(piece: Piece, characters: int) -> list[Piece]:
    fixed, part = piece
    if fixed or len(part) <= characters:
        return [piece]
    result: list[Piece] = []
    while len(part) > characters:
        at = part.rfind(" ", 1, characters)
        if at < 0:
            break
        result += [(False, part[:at]), (True, " ")]
        part = part[at + 1:]
    return [*result, (False, part)]
