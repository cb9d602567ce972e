"""How well the translation gates tell bad translations from good ones: 12 kinds planted among 10,000 Basque sentences.

    python benchmarks/quality_gates.py [--good 10000] [--each 100] [--skip 0] [--json FILE]

The good ones are LibreOffice's own English-Basque paragraphs; the bad ones are made from others of them. Prints a
table: per kind the share that any gate caught, and the share of the good that each gate rejected."""
from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_tools import apt, texts
from data_tools.quality import Gates

Pair = tuple[str, str]
PREFIXES = ("Here is the translation into Basque:\n", "Sure! Here's the Basque version: ", "Hona hemen itzulpena: ",
            "Itzulpena: ", "Jakina! Hona testua euskaraz:\n", "**Euskaraz:** ", "The Basque translation is: ",
            "Translation: ", "Noski, hona hemen euskarazko bertsioa:\n", "Of course, in Basque this would be: ")
SUFFIXES = ("\n\nNote: I kept the names of the menus.", "\n(Oharra: izenak ez dira itzuli.)",
            "\n\nExplanation: the sentence is formal.")
SPANS = (("https://example.org/eu/page?id=12", "https://example.org/en/page?id=12"), ("<image>", "<irudia>"),
         ("{name}", "{izena}"), ("`print(x)`", "`inprimatu(x)`"), ("$x^2 + y$", "$x^3 + y$"), ("%s", ""),
         ("me@example.org", "ni@example.org"), ("${path}", "$ {path}"))


def collect() -> tuple[list[Pair], list[str]]:
    """English-Basque paragraphs of five words or more, and Spanish and French ones; shuffled alike every time."""
    names = {code: f"libreoffice-help-{code}" for code in ("en-us", "eu", "es", "fr")}
    folders = apt.find(list(names.values()))
    if folders is None:
        raise SystemExit("this benchmark needs apt with the LibreOffice help packages")
    def pairs(code: str) -> list[Pair]:
        pages = texts.help_pages(folders[names["en-us"]], folders[names[code]])
        return [p for page in pages for p in page if len(p[0].split()) >= 5]
    basque, foreign = pairs("eu"), [p[1] for code in ("es", "fr") for p in pairs(code)]
    random.Random(0).shuffle(basque)
    random.Random(0).shuffle(foreign)
    return basque, [t for t in foreign if len(t.split()) >= 6]


def kinds(foreign: list[str], rows: list[Pair]) -> dict[str, Callable[[Pair, random.Random], Pair | None]]:
    """Name -> how to spoil a good pair; None where this pair does not lend itself to it."""
    def copied(pair: Pair, _: random.Random) -> Pair | None:
        return (pair[0], pair[0])

    def truncated(pair: Pair, chance: random.Random) -> Pair | None:
        words = pair[1].split()
        keep = int(len(words) * chance.uniform(0.4, 0.8))
        return (pair[0], " ".join(words[:keep])) if len(words) >= 8 and pair[0].endswith(".") else None

    def repetition(pair: Pair, chance: random.Random) -> Pair:
        words = pair[1].split()
        size = chance.randint(2, 6)
        return pair[0], " ".join([*words, *(words[-size:] * chance.randint(3, 10))])

    def length(pair: Pair, chance: random.Random) -> Pair | None:
        if chance.random() < 0.5:
            return (pair[0], " ".join(pair[1].split()[:2]) + ".") if len(pair[1].split()) > 7 else None
        return pair[0], " ".join([pair[1], *(chance.choice(rows)[1] for _ in range(3))])

    def chatty(pair: Pair, chance: random.Random) -> Pair:
        if chance.random() < 0.25:
            return pair[0], pair[1] + chance.choice(SUFFIXES)
        return pair[0], chance.choice(PREFIXES) + pair[1]

    def span(pair: Pair, chance: random.Random) -> Pair:
        right, wrong = chance.choice(SPANS)
        return f"{right} {pair[0]}", f"{wrong} {pair[1]}"

    def number(pair: Pair, chance: random.Random) -> Pair | None:
        found = list(re.finditer(r"\d+", pair[1]))
        if not found:
            return None
        place = chance.choice(found)
        changed = str((int(place[0]) + chance.randint(1, 8)) % 10 ** max(2, len(place[0])))
        return pair[0], pair[1][:place.start()] + changed + pair[1][place.end():]

    def markup(pair: Pair, chance: random.Random) -> Pair:
        words = pair[1].split(" ")
        words.insert(chance.randint(0, len(words)), chance.choice(("&quot;", "<br>", "&amp;", "</p>", "&#39;", "<b>")))
        return pair[0], " ".join(words)

    def option(pair: Pair, chance: random.Random) -> Pair:
        lists = [[row[side].split(".")[0][:40] for row in chance.sample(rows, 4)] for side in (0, 1)]
        source = pair[0] + "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", lists[0], strict=True))
        damaged = list(zip("ABCD", lists[1], strict=True))
        how = chance.randrange(3)
        if how == 0:
            damaged.pop(chance.randrange(4))
        elif how == 1:
            damaged[1] = ("B", damaged[0][1])
        else:
            damaged[2] = ("K", damaged[2][1])
        return source, pair[1] + "".join(f"\n{letter}. {text}" for letter, text in damaged)

    def encoding(pair: Pair, chance: random.Random) -> Pair:
        at = chance.randrange(len(pair[1]))
        return pair[0], pair[1][:at] + chance.choice(("\ufffd", "Ã±", "â€œ", "Ã©")) + pair[1][at + 1:]

    return {"empty": lambda p, c: (p[0], c.choice(("", " ", "...", "-"))), "copied": copied,
            "wrong language": lambda p, c: (p[0], c.choice(foreign)), "length": length, "truncated": truncated,
            "repetition": repetition, "chatty": chatty, "protected span": span, "number": number, "markup": markup,
            "option": option, "encoding": encoding}


def measure(good: int, each: int, skip: int) -> dict:
    rows, foreign = collect()
    rows = rows[skip:] + rows[:skip]
    gates, chance = Gates("en", "eu"), random.Random(1)
    started = time.process_time()
    reasons = Counter(r for pair in rows[:good] for r in gates.check(*pair))
    rejected = sum(bool(gates.check(*pair)) for pair in rows[:good])
    seconds = (time.process_time() - started) / 2
    result = {"good": good, "rejected": rejected, "rejected_share": rejected / good, "rejected_by": dict(reasons),
              "pairs_per_second": round(good / seconds), "kinds": {}}
    others = rows[good:]
    for name, spoil in kinds(foreign, others).items():
        bad: list[Pair] = []
        while len(bad) < each:
            made = spoil(chance.choice(others), chance)
            bad += [made] if made is not None else []
        found = [gates.check(*pair) for pair in bad]
        result["kinds"][name] = {"planted": each, "caught": sum(map(bool, found)), "by_own_gate": sum(
            name in f for f in found), "missed": [p for p, f in zip(bad, found, strict=True) if not f][:3]}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--good", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0, help="other good pairs: leave out so many")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments.good, arguments.each, arguments.skip)
    print("| kind | planted | caught | by the gate of that name |\n|---|---|---|---|")
    for name, row in result["kinds"].items():
        print(f"| {name} | {row['planted']} | {row['caught'] / row['planted']:.1%} | "
              f"{row['by_own_gate'] / row['planted']:.1%} |")
    by = ", ".join(f"{reason} {count / result['good']:.2%}" for reason, count in sorted(result["rejected_by"].items()))
    print(f"\nOf {result['good']} good pairs {result['rejected_share']:.2%} rejected ({by}); "
          f"{result['pairs_per_second']} pairs a second.")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
