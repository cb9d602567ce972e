"""The stage `translate`: one chunk of a data set's texts through translation engines and quality gates. A run as any.

    texts of the data set -> each different text once -> those whose hash falls into this chunk -> blocks
    <run>/translations/plan.json       what the blocks are blocks of
    <run>/translations/000042.jsonl    one line per text: {"id", "source", "translation", "engine", "reasons"}

A text's id is the hash of itself, so no row can be shifted, dropped or doubled: a block is either there, complete, or
made anew. A text is tried with each engine in turn, and once more with its protected spans cut out, until the gates let
it pass; one that never passes is kept with its last translation and the reasons. Putting the translations into a data
set is `data_tools.translated`'s business.
"""
from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from core.config import Engine, TranslateConfig, structured
from core.errors import Stopped, UserError
from core.files import read_json, write_json, write_text
from core.run import Run
from core.shards import Corrupt, DataSet
from data_tools import engines, segments
from data_tools.quality import Gates
from data_tools.shards import id_hash, texts

# `where` -> is the target language there?
WHERE = {"missing": (False,), "present": (True,), "all": (False, True)}


def translate(run: Run) -> dict[str, Any]:
    """Translate the run's chunk. Returns counts of texts by outcome and reason, and per engine.

    Raises Stopped between two blocks when asked to; UserError if data set, engine or gates are not as configured."""
    config = structured(TranslateConfig, run.config)
    started = time.monotonic()
    data = DataSet(Path(config.runtime.data_root) / config.data)
    chosen = chunk(data, config)
    folder = run.path / "translations"
    _keep_plan(folder, data, config, chosen)
    blocks = [chosen[i:i + config.block] for i in range(0, len(chosen), config.block)]
    translator: Translator | None = None
    config.engines = [_placed(engine, run) for engine in config.engines]
    counts: Counter = Counter()
    for number, block in enumerate(blocks):
        path = folder / f"{number:06d}.jsonl"
        if not path.exists():
            if reason := run.stop_requested():
                raise Stopped(reason, number)
            translator = translator or Translator(config)
            lines = translator.translate(block)
            run.check_fence()
            write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        counts.update(_outcomes(path, block))
        run.heartbeat(number + 1, len(blocks), "translate")
    return {"texts": len(chosen), "blocks": len(blocks), "seconds": time.monotonic() - started, **_sorted(counts)}


def _placed(engine: Engine, run: Run) -> Engine:
    """An engine of the model "parent:ROLE" is the product of that run."""
    if not engine.model.startswith("parent:"):
        return engine
    return replace(engine, model=str(run.parent(engine.model.removeprefix("parent:")).path.absolute() / "model"))


class Translator:
    """The engines and gates of a configuration. Engines are loaded when the first text needs them."""

    def __init__(self, config: TranslateConfig):
        self.config = config
        self.gates = Gates(config.source_language, config.target_language, config.gates)
        self._loaded: dict[int, Any] = {}
        if not config.engines:
            raise UserError("no translation engine: give at least one under `engines`")

    @cached_property
    def back(self) -> Any:
        """The engine that translates back, or None."""
        return engines.load(self.config.back[0], self.config.runtime, self.config.target_language,
                            self.config.source_language) if self.config.back else None

    def _reasons(self, sources: Sequence[str], made: Sequence[str]) -> list[list[str]]:
        """Why each translation is not good enough, [] where it is."""
        backs: Sequence[str | None] = [None] * len(made)
        if self.back is not None and made:
            backs = [None if isinstance(text, engines.Failure) else text for text in self.back.translate(made)]
        return [[str(text)] if isinstance(text, engines.Failure) else self.gates.check(source, text, back)
                for source, text, back in zip(sources, made, backs, strict=True)]

    def engine(self, number: int) -> Any:
        if number not in self._loaded:
            self._loaded[number] = engines.load(self.config.engines[number], self.config.runtime,
                                                self.config.source_language, self.config.target_language)
        return self._loaded[number]

    def translate(self, wanted: Sequence[str]) -> list[dict[str, Any]]:
        """One line per text, in their order; see the module's head. `reasons` is empty where the gates let it pass."""
        lines = {text: {"id": identity(text), "source": text, "translation": "", "engine": "", "reasons": ["untried"]}
                 for text in wanted}
        for number in range(len(self.config.engines)):
            for spans in (False, True):
                open_texts = [text for text, line in lines.items() if line["reasons"] and (
                    not spans or "protected span" in line["reasons"])]
                tried = self._try(number, open_texts, spans)
                for text, made, reasons in zip(open_texts, tried, self._reasons(open_texts, tried), strict=True):
                    better = lines[text]["reasons"] == ["untried"] or not reasons
                    if better or not isinstance(made, engines.Failure):
                        lines[text] |= {"translation": "" if isinstance(made, engines.Failure) else made,
                                        "engine": self.engine(number).label, "reasons": reasons}
        return [lines[text] for text in wanted]

    def _try(self, number: int, wanted: Sequence[str], spans: bool) -> list[str]:
        """Translations of whole texts by one engine: cut, each piece once, joined. A failed piece fails its texts."""
        if not wanted:
            return []
        engine, limit = self.engine(number), self.config.engines[number].characters
        cuts = [segments.cut(text, spans, engine.sentences, limit) for text in wanted]
        pieces = list(dict.fromkeys(part for pieces in cuts for fixed, part in pieces if not fixed))
        made = dict(zip(pieces, engine.translate(pieces), strict=True)) if pieces else {}
        results: list[str] = []
        for pieces_of in cuts:
            failed = [made[p] for fixed, p in pieces_of if not fixed and isinstance(made[p], engines.Failure)]
            results.append(failed[0] if failed else segments.join(pieces_of, made))
        return results


def identity(text: str) -> str:
    """A text's id: 16 hex digits of its hash."""
    return f"{id_hash(text):016x}"


def chunk(data: DataSet, config: TranslateConfig) -> list[str]:
    """The different texts of this chunk, in the order in which the data set has them first."""
    if not 0 <= config.chunk < config.chunks:
        raise UserError(f"chunk {config.chunk} of {config.chunks}: chunks are counted from 0")
    if config.where not in WHERE:
        raise UserError(f"where={config.where}: choose one of {', '.join(WHERE)}")
    chosen: dict[str, None] = {}
    for record in wanted_records(data, config):
        for text in texts(record, config.source_language) or ():
            if text.strip() and text not in chosen and id_hash(text) % config.chunks == config.chunk:
                chosen[text] = None
    return list(chosen)


def wanted_records(data: DataSet, config: TranslateConfig) -> Iterator[dict[str, Any]]:
    """Records that `where` names. Damaged ones are passed over."""
    for name in subset_names(data, config):
        subset = data.subset(name)
        for i in range(len(subset)):
            try:
                record = subset.record(i)
            except Corrupt:
                continue
            if is_wanted(record, config):
                yield record


def subset_names(data: DataSet, config: TranslateConfig) -> list[str]:
    """The subsets to translate. Raises UserError for one that the data set does not have."""
    known = list(data.manifest["subsets"])
    for name in config.subsets:
        if name not in known:
            raise UserError(f"data set {config.data} has no subset '{name}': it has {', '.join(known)}")
    return config.subsets or known


def is_wanted(record: dict[str, Any], config: TranslateConfig) -> bool:
    present = texts(record, config.target_language) is not None
    return bool(texts(record, config.source_language)) and present in WHERE[config.where]


def _keep_plan(folder: Path, data: DataSet, config: TranslateConfig, chosen: Sequence[str]) -> None:
    """Blocks that are there must be blocks of the same list of texts."""
    plan = {"fingerprint": data.manifest["fingerprint"], "texts": len(chosen), "block": config.block,
            "chunk": config.chunk, "chunks": config.chunks}
    old = read_json(folder / "plan.json")
    if old is not None and old != plan:
        changed = ", ".join(f"{k} {old.get(k)} -> {v}" for k, v in plan.items() if old.get(k) != v)
        raise UserError(f"{folder} holds translations of another list of texts ({changed}): the data set was changed "
                        "since; remove the folder to translate anew")
    write_json(folder / "plan.json", plan)


def _outcomes(path: Path, block: Sequence[str]) -> Counter:
    counts: Counter = Counter()
    lines = list(read_lines(path))
    if [line["id"] for line in lines] != [identity(text) for text in block]:
        raise UserError(f"{path} does not hold the texts of its block: remove it, then repeat the command")
    for line in lines:
        counts["rejected" if line["reasons"] else "passed"] += 1
        counts.update(f"reason: {reason}" for reason in line["reasons"])
        counts[f"engine: {line['engine']}"] += 1
    return counts


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as stream:
        yield from (json.loads(line) for line in stream)


def _sorted(counts: Counter) -> dict[str, Any]:
    def group(prefix: str) -> dict[str, int]:
        return {k.removeprefix(prefix): n for k, n in sorted(counts.items()) if k.startswith(prefix)}
    return {"passed": counts["passed"], "rejected": counts["rejected"], "reasons": group("reason: "),
            "engines": group("engine: ")}


def blocks_of(runs: Iterable[Path]) -> Iterator[Path]:
    """The block files of some runs."""
    for run in runs:
        yield from sorted((Path(run) / "translations").glob("[0-9]*.jsonl"))
