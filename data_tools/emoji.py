"""The emoji data set: eight styles of art, each icon with its name, keywords and category in two languages.

    train       name, keywords, category                 the training styles; concepts of set B without target text
    text-only   text, text-english                       see `data_tools.text_only`
                instructions                             training prompts, base language, words in the image's place
    evaluation  eval-dev, eval-emojione, eval-openmoji   one development and two held-out styles

Evaluation items of one concept stand together (naming, naming_hard, category, keywords, describe) and concepts come in
the order of a hash, so the first n items are a fair sample of all. Options are the same for every style and stand in
the same order in both languages.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools import fetch, icons, prompts, text_only
from data_tools.concepts import Concept, category_labels, concepts, unit
from data_tools.dataset import Sample, building

OPTIONS = 4
KEYWORDS = 3         # at most so many in one training answer
BASIC = ("cldr-annotations-full", "cldr-misc-full", "emoji-datasource")


@dataclass
class Options:
    """What `begira data build emoji key=value` accepts."""

    base: str = "en"
    size: int = 48           # pixels of the square images
    text: str = "auto"       # parallel text-only: auto | apt | pip | none
    text_english: int = 8000 # groups of English-only text
    processes: int = 0       # 0: as many as the machine has; never changes the result


@dataclass
class Material:
    """Everything the samples are made from."""

    base: str
    target: str
    concepts: list[Concept]
    labels: dict[str, dict[str, str]]            # language -> category -> label
    prompts: dict[str, dict[str, list[str]]]     # language -> task -> prompts
    images: dict[tuple[str, str], bytes]         # (style, character) -> PNG

    @property
    def languages(self) -> tuple[str, str]:
        return self.base, self.target


def build(out: Path, target: str, options: Options, recipe: str, say: Callable[[str], None],
          progress: Callable[[int, int], None] = lambda _n, _of: None) -> dict[str, Any]:
    """Write the data set to `out` and return its manifest. Raises UserError: see `fetch`, `concepts`, `building`."""
    import os

    names = [*BASIC, *(package for package, _ in icons.STYLES.values())]
    needed = [fetch.packages()[n] for n in names]
    files = fetch.fetch([*needed, *text_only.wanted(options.text, options.text_english)], say)
    material = gather(files, options, target, lambda: say("drawing icons"), progress,
                      options.processes or len(os.sched_getaffinity(0)))
    say("collecting text")
    parallel = text_only.collect(options.base, target, options.text, say)
    english = text_only.english(options.text_english if options.base == "en" else 0, say)
    say("writing shards")
    with building(out, out.name, material.languages) as data:
        for subset, task in (("name", "naming"), ("keywords", "keywords"), ("category", "category")):
            data.subset(subset, "image", training(material, task))
        data.subset("instructions", "text", instructions(material))
        if parallel:
            data.subset("text", "text", text_only.samples(parallel, options.base, target))
        if english:
            data.subset("text-english", "text", text_only.samples(english, options.base, None))
        for style, (_, role) in icons.STYLES.items():
            if role != "train":
                data.subset("eval-dev" if role == "dev" else f"eval-{style}", "evaluation", evaluation(material, style))
        sources = [*(p.source(p.sha256) for p in needed),
                   *(origin for text in (*parallel, *english) for origin in text.origins)]
        unique = {s["name"]: s for s in sources}
        return data.finish(list(unique.values()), recipe=recipe, styles={n: r for n, (_, r) in icons.STYLES.items()},
                           concepts={s: sum(c.set == s for c in material.concepts) for s in "AB"},
                           text=text_only.summary([*parallel, *english], options.base, target))


def gather(files: dict[str, Path], options: Options, target: str, before: Callable[[], None],
           progress: Callable[[int, int], None], processes: int) -> Material:
    """Names, labels, prompts and images. Names come first: a language without them fails before anything is drawn."""
    found = concepts(files["cldr-annotations-full"], files["emoji-datasource"], options.base, target)
    labels = {language: category_labels(files["cldr-misc-full"], language,
                                        (prompts.read(language) or {}).get("categories"))
              for language in (options.base, target)}
    before()
    return Material(options.base, target, found, labels, {lang: prompts.load(lang, labels[lang]) for lang in labels},
                    icons.images(files, options.size, processes, progress))


def training(material: Material, task: str) -> Iterator[Sample]:
    """One sample per concept and training style; concepts of set B in the base language only."""
    for style, (package, role) in icons.STYLES.items():
        if role != "train":
            continue
        for concept in material.concepts:
            image = material.images.get((style, concept.character))
            identity = f"emoji/{task}/{concept.code}/{style}"
            allowed = material.languages if concept.set == "A" else (material.base,)
            answers = {language: answer(material, concept, task, language, identity) for language in allowed}
            if image is None or not all(answers.values()):
                continue
            turns = {language: [{"role": "user", "content": _pick(material.prompts[language][task], identity)},
                                {"role": "assistant", "content": text}] for language, text in answers.items()}
            yield Sample({"id": identity, "source": f"emoji:{style}", "license": fetch.packages()[package].licence,
                          "turns": turns, "meta": {**_meta(concept, style), "task": task}}, image)


def instructions(material: Material) -> Iterator[Sample]:
    """Every training prompt about every concept in the base language, with words where the image would stand: keywords
    to be named, the name to be sorted or explained. A language model learns from them to answer in turns, and to look
    for the answer in what it is shown, before it sees any image."""
    licence, base = fetch.packages()["cldr-annotations-full"].licence, material.base
    for concept in material.concepts:
        for task in prompts.TASKS:
            for number, prompt in enumerate(material.prompts[base][task]):
                identity = f"emoji/instruction/{task}/{concept.code}/{number}"
                shown = answer(material, concept, "keywords" if task == "naming" else "naming", base, identity)
                said = answer(material, concept, task, base, identity)
                if shown and said:
                    turns = [{"role": "user", "content": prompt.replace(prompts.PLACEHOLDER, shown)},
                             {"role": "assistant", "content": said}]
                    yield Sample({"id": identity, "source": "cldr-instructions", "license": licence,
                                  "turns": {base: turns}, "meta": {"concept": concept.names[base], "task": task}})


def answer(material: Material, concept: Concept, task: str, language: str, identity: str) -> str:
    """What a training sample answers: the name, the category's label, or some keywords in the order of a hash."""
    if task == "naming":
        return concept.names[language]
    if task == "category":
        return material.labels[language][concept.category]
    words = sorted(concept.keywords[language], key=lambda word: unit(f"{identity}/{word}"))
    return ", ".join(words[:KEYWORDS])


def evaluation(material: Material, style: str) -> Iterator[Sample]:
    """Items of every concept that the style draws."""
    licence = fetch.packages()[icons.STYLES[style][0]].licence
    for concept in sorted(material.concepts, key=lambda c: unit(f"order/{c.code}")):
        image = material.images.get((style, concept.character))
        if image is None:
            continue
        for task in ("naming", "naming_hard", "category", "keywords", "describe"):
            item = {"naming": naming, "naming_hard": naming, "category": category, "keywords": keywords,
                    "describe": describe}[task](material, concept, task)
            if item is not None:
                asked = task if task in prompts.TASKS else "naming"
                yield Sample({"id": f"emoji/eval/{task}/{concept.code}/{style}", "source": f"emoji:{style}",
                              "license": licence, "task": task, "kind": "generate" if task == "describe" else "choice",
                              "prompt": {lang: material.prompts[lang][asked][0] for lang in material.languages},
                              **item, "meta": _meta(concept, style)}, image)


def naming(material: Material, concept: Concept, task: str) -> dict[str, Any]:
    """The concept's name among those of three others; naming_hard: of the same category."""
    hard = task == "naming_hard"
    others = [c for c in material.concepts if c is not concept and (not hard or c.category == concept.category)]
    chooser = _chooser(task, concept)
    return _choice(material, chooser, [concept, *chooser.sample(others, OPTIONS - 1)], lambda c, lang: c.names[lang])


def category(material: Material, concept: Concept, task: str) -> dict[str, Any]:
    """The concept's category among three others."""
    chooser = _chooser(task, concept)
    others = [c for c in material.labels[material.base] if c != concept.category]
    return _choice(material, chooser, [concept.category, *chooser.sample(others, OPTIONS - 1)],
                   lambda c, lang: material.labels[lang][c])


def keywords(material: Material, concept: Concept, task: str) -> dict[str, Any] | None:
    """One keyword of the concept among keywords of three others that it does not share; None if it has too few."""
    chooser, taken, chosen = _chooser(task, concept), {}, []
    for language in material.languages:
        taken[language] = {w.casefold() for w in (concept.names[language], *concept.keywords[language])}
    for other in (concept, *chooser.sample(material.concepts, len(material.concepts))):
        pair = {}
        for language in material.languages:
            known = taken[language] if other is not concept else set()
            free = [w for w in other.keywords[language] if w.casefold() not in known]
            telling = [w for w in free if w.casefold() not in other.names[language].casefold()]
            if free:
                pair[language] = chooser.choice(telling or free)
        if len(pair) == len(material.languages) and (other is not concept or not chosen):
            chosen.append(pair)
            for language, word in pair.items():
                taken[language].add(word.casefold())
        elif other is concept:
            return None
        if len(chosen) == OPTIONS:
            return _choice(material, chooser, chosen, lambda pair, lang: pair[lang])
    return None


def describe(material: Material, concept: Concept, _task: str) -> dict[str, Any]:
    """The name, to be generated."""
    return {"options": {}, "answer": -1, "references": {lang: [concept.names[lang]] for lang in material.languages}}


def _choice(material: Material, chooser: random.Random, right_first: Sequence[Any],
            text: Callable[[Any, str], str]) -> dict[str, Any]:
    order = list(right_first)
    chooser.shuffle(order)
    return {"options": {lang: [text(o, lang) for o in order] for lang in material.languages},
            "answer": next(i for i, o in enumerate(order) if o is right_first[0]),
            "references": {lang: [text(right_first[0], lang)] for lang in material.languages}}


def _chooser(task: str, concept: Concept) -> random.Random:
    return random.Random(f"{task}/{concept.code}")


def _pick(choices: list[str], identity: str) -> str:
    return choices[int(unit(f"prompt/{identity}") * len(choices))]


def _meta(concept: Concept, style: str) -> dict[str, Any]:
    return {"concept": concept.names.get("en", concept.code), "character": concept.character, "set": concept.set,
            "style": style, "category": concept.category, "likeness": concept.likeness}
