"""What the emoji data set is about: concepts with names, keywords and a category in two languages, from Unicode CLDR.

A concept is one emoji of six categories (no people, flags, symbols, clocks). Names are unique in each language. Art and
samples are not known here (`data_tools.icons`, `data_tools.emoji`).
"""
from __future__ import annotations

import difflib
import hashlib
import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import UserError
from data_tools.fetch import members

# emoji-datasource's category -> CLDR's label
CATEGORIES = {"Smileys & Emotion": "smiley", "Animals & Nature": "animals_nature", "Food & Drink": "food_drink",
              "Travel & Places": "travel_places", "Activities": "activities", "Objects": "objects"}
LEAST = 700          # concepts with a name of their own that a language must have
SHARE_B = 0.2        # concepts that never stand beside target-language text and an image at once


@dataclass
class Concept:
    """One emoji. `names` and `keywords` by language code; keywords lack the name; `category` is a key of CATEGORIES."""

    character: str
    category: str
    unicode_name: str
    set: str                                     # "A" or "B"
    added: float = 0.0                           # version of Unicode Emoji that brought it
    names: dict[str, str] = field(default_factory=dict)
    keywords: dict[str, list[str]] = field(default_factory=dict)
    likeness: float = 0.0                        # of its names in the two languages: chrF, 0 to 100

    @property
    def code(self) -> str:
        """Lower-case code points joined by "-", without the emoji presentation selector: "1f9c8"."""
        return "-".join(f"{ord(c):x}" for c in self.character)


def concepts(annotations: Path, emoji: Path, base: str, target: str) -> list[Concept]:
    """Every concept that has a name of its own in both languages, in Unicode's order.

    `annotations` and `emoji` are the fetched tarballs. Raises UserError, with the counts, if the target has too few."""
    found = candidates(emoji)
    named = {language: annotation(annotations, language) for language in dict.fromkeys((base, target))}
    kept, taken = [], {language: set() for language in named}
    for concept in found:
        entries = {language: names.get(concept.character) for language, names in named.items()}
        if any(e is None or e[0].casefold() in taken[language] for language, e in entries.items()):
            continue
        for language, (name, keywords) in entries.items():  # type: ignore[misc]
            taken[language].add(name.casefold())
            concept.names[language], concept.keywords[language] = name, keywords
        kept.append(concept)
    if len(kept) < LEAST:
        raise UserError(f"language '{target}' has names for {len(kept)} of {len(found)} concepts in CLDR, at least "
                        f"{LEAST} are needed: languages with enough are, e.g., {', '.join(_rich(annotations))}")
    _measure_likeness(kept, base, target)
    return kept


def annotation(path: Path, language: str) -> dict[str, tuple[str, list[str]]]:
    """character -> (name, keywords without the name) of a language. Raises UserError if CLDR does not have it."""
    name = f"annotations/{language}/annotations.json"
    content = members(path, [name])
    if not content:
        known = languages(path)
        near = difflib.get_close_matches(language, known, 3, 0.5)
        raise UserError(f"CLDR has no names in language '{language}': it has {len(known)} languages"
                        + (f"; did you mean {' or '.join(near)}?" if near else ", named by codes such as eu, cy, qu"))
    entries = json.loads(content[name])["annotations"]["annotations"]
    result = {}
    for character, entry in entries.items():
        if entry.get("tts"):
            title = entry["tts"][0].strip()
            words = [w.strip() for w in entry.get("default", ()) if w.strip()]
            result[character] = title, [w for w in dict.fromkeys(words) if w.casefold() != title.casefold()]
    return result


def languages(path: Path) -> list[str]:
    """Codes of all languages in the annotations tarball."""
    with tarfile.open(path, "r|gz") as archive:
        matches = (re.match(r"package/annotations/([^/]+)/annotations\.json$", m.name) for m in archive)
        return sorted(m[1] for m in matches if m)


def category_labels(path: Path, language: str, given: dict[str, str] | None = None) -> dict[str, str]:
    """Category -> label in the language, from the cldr-misc tarball; `given` labels go before CLDR's."""
    name = f"main/{language}/characterLabels.json"
    content = members(path, [name])
    labels = json.loads(content[name])["main"][language]["characterLabels"] if content else {}
    labels |= given or {}
    missing = [key for key in CATEGORIES.values() if key not in labels]
    if missing:
        raise UserError(f"CLDR has no category labels ({', '.join(missing)}) in language '{language}': give them under "
                        f"`categories` in data_tools/prompts/{language}.yaml")
    return {key: labels[key] for key in CATEGORIES.values()}


def unit(text: str) -> float:
    """A hash of `text` in [0, 1)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2.0**64


def candidates(emoji: Path) -> list[Concept]:
    """Every emoji of CATEGORIES but clocks, without names, in Unicode's order."""
    entries = json.loads(members(emoji, ["emoji_pretty.json"])["emoji_pretty.json"])
    entries.sort(key=lambda e: e["sort_order"])
    found = []
    for entry in entries:
        if entry["category"] in CATEGORIES and entry["subcategory"] != "time":
            text = "".join(chr(int(code, 16)) for code in entry["unified"].split("-")).replace("\ufe0f", "")
            group = "B" if unit(f"set/{text}") < SHARE_B else "A"
            found.append(Concept(text, CATEGORIES[entry["category"]], entry["name"] or "", group,
                                 float(entry["added_in"])))
    return found


def _measure_likeness(found: list[Concept], base: str, target: str) -> None:
    """How well a reader of the base language could guess the target name: 100 if identical, else sacrebleu's chrF."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    for concept in found:
        one, other = (concept.names[language].casefold() for language in (base, target))
        concept.likeness = 100.0 if one == other else round(metric.sentence_score(other, [one]).score, 2)


def _rich(annotations: Path, least: int = 1900) -> list[str]:
    """A dozen languages that name nearly every emoji, without regional variants."""
    found = []
    with tarfile.open(annotations, "r|gz") as archive:
        for member in archive:
            match = re.match(r"package/annotations/([a-z]{2,3})/annotations\.json$", member.name)
            if match and member.size > 300_000:
                entries = json.load(archive.extractfile(member))["annotations"]["annotations"]  # type: ignore[arg-type]
                found += [match[1]] if sum("tts" in e for e in entries.values()) >= least else []
    return sorted(found)[:: max(1, len(found) // 12)]
