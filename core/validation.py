"""What a model says during training about items that it never trains on: the loss of the right answers per language,
and a few answers of its own beside their images.

    items of an evaluation subset -> the same micro-batches at every step and on every rank -> losses, samples

Every rank makes as many forward passes as any other, on fillers where its items are used up, so that it works under
every ZeRO stage. Nothing here touches a weight, a moment or the order of the data: a run with it equals one without.
Not here: the scores that a study is judged by (core.evaluate).
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.collate import Document, Packed, collate
from core.config import Task, Validation
from core.distributed import World
from core.encode import Encoded, Encoder
from core.errors import UserError
from core.questions import Question, check, select

if TYPE_CHECKING:
    from core.engine import Engine


@dataclass
class Sample:
    """One question as it was asked and answered; `image` is the file."""

    image: bytes | None
    language: str
    question: str
    answer: str
    reference: str


class Validator:
    """The items of one run, read and encoded once."""

    def __init__(self, settings: Validation, languages: Sequence[str], data_root: Path | str, encoder: Encoder,
                 world: World, micro_batch: int):
        """Raises UserError if the subset holds no item that can be asked in all `languages`."""
        self.settings, self.languages, self.encoder, self.world = settings, list(languages), encoder, world
        task = Task(settings.data, settings.subset, [settings.task] if settings.task else [], settings.items)
        asked = [question for question in select([task], data_root) if self._whole(question)]
        if not asked:
            raise UserError(f"{settings.data}/{settings.subset} has no item with image and answer in "
                            f"{' and '.join(self.languages)}: choose another runtime.validation.subset")
        self.shown = asked[:settings.shown]
        documents = [Document(self._encode(question, language), number, question.id)
                     for question in asked for number, language in enumerate(self.languages)]
        batches = [documents[start:start + micro_batch] for start in range(0, len(documents), micro_batch)]
        mine = batches[world.rank::world.size]
        mine += [[]] * (-(-len(batches) // world.size) - len(mine))
        self.batches = [collate([[one] for one in batch] or [[]], encoder.pad_id) for batch in mine]

    def losses(self, engine: Engine) -> dict[str, float]:
        """{"validation/loss/eu": nats per token of the right answers}, the same on every rank. A collective."""
        sums = torch.zeros(2, len(self.languages), dtype=torch.float64, device=engine.device)
        with _evaluating(engine):
            for packed in self.batches:
                _, nats = engine.forward(*_inputs(packed, engine.device))
                streams = packed.streams.to(engine.device)
                sums[0].index_add_(0, streams, nats.double())
                sums[1].index_add_(0, streams, torch.ones_like(nats, dtype=torch.float64))
        nats, tokens = self.world.sum_tensor(sums).tolist()
        return {f"validation/loss/{language}": n / t for language, n, t in
                zip(self.languages, nats, tokens, strict=True) if t}

    def samples(self, engine: Engine) -> list[Sample]:
        """Greedy answers to the first `shown` items in every language. A collective: all ranks compute the same."""
        asked = [(question, language) for question in self.shown for language in self.languages]
        prompts = [self.encoder.prompt(question.record["prompt"][language]) for question, language in asked]
        if not prompts:
            return []
        pixels = [self._pixels(question) for question, _ in asked]
        said: list[list[int]] = [[] for _ in asked]
        with _evaluating(engine):
            for _ in range(self.settings.max_new_tokens):
                rows = [np.concatenate([prompt, words]).astype(np.int64)
                        for prompt, words in zip(prompts, said, strict=True)]
                found = engine.forward(*_inputs(self._open(rows, pixels), engine.device), True)
                for words, token in zip(said, found.tolist(), strict=True):
                    words.append(token)
        return [Sample(question.image(), language, question.record["prompt"][language], self._text(words),
                       _reference(question, language)) for (question, language), words in zip(asked, said, strict=True)]

    def _open(self, rows: Sequence[np.ndarray], pixels: Sequence[np.ndarray]) -> Packed:
        """Rows whose last token is to be followed: it alone is marked in the labels."""
        packed = collate([[Document(Encoded(ids, np.zeros(len(ids), bool), image), 0, "")]
                          for ids, image in zip(rows, pixels, strict=True)], self.encoder.pad_id)
        for row, ids in enumerate(rows):
            packed.labels[row, len(ids) - 1] = 0
        return packed

    def _whole(self, question: Question) -> bool:
        try:
            for language in self.languages:
                check(question.record, language)
                self._encode(question, language)
        except Exception:  # a broken item is the evaluation's to report
            return False
        return True

    def _encode(self, question: Question, language: str) -> Encoded:
        turns = [{"role": "user", "content": question.record["prompt"][language]},
                 {"role": "assistant", "content": _reference(question, language)}]
        return self.encoder.encode({"id": question.id, "turns": {language: turns}}, language, question.image())

    def _pixels(self, question: Question) -> np.ndarray:
        from core.pixels import open_image

        return self.encoder.pixels(open_image(question.image()))[None]

    def _text(self, ids: list[int]) -> str:
        text = self.encoder.tokenizer.decode(ids, skip_special_tokens=False)
        return text.split(self.encoder.end_of_turn)[0].strip()


@contextmanager
def _evaluating(engine: Engine) -> Iterator[None]:
    engine.deepspeed.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        engine.deepspeed.train()


def _reference(question: Question, language: str) -> str:
    record = question.record
    return str((record["references"].get(language) or [record["options"][language][record["answer"]]])[0])


def _inputs(packed: Packed, device: torch.device) -> tuple[Any, ...]:
    return tuple(None if value is None else value.to(device)
                 for value in (packed.input_ids, packed.position_ids, packed.labels, packed.pixels))
