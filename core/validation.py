"""What a model says during training about items that it never trains on: the loss of the right answers per language,
and a few answers of its own beside their images.

    items of an evaluation subset -> the same micro-batches at every step and on every rank -> losses, samples

Every rank makes as many forward passes as any other, on fillers where its items are used up, so that it works under
every ZeRO stage. Nothing here touches a weight, a moment or the order of the data: a run with it equals one without.
Not here: the scores that a study is judged by (core.evaluate).
"""
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.collate import Document, Packed, collate
from core.config import Task, Validation
from core.distributed import World
from core.encode import Encoded, Encoder
from core.errors import UserError
from core.questions import Question, check, is_open, select
from core.shards import Corrupt

if TYPE_CHECKING:
    from core.engine import Engine


log = logging.getLogger("begira")


@dataclass
class Sample:
    """One question as it was asked and answered; `image` is the file."""

    image: bytes
    language: str
    question: str
    answer: str
    reference: str


class Validator:
    """The items of one run, read and encoded once: afterwards no file is read."""

    def __init__(self, settings: Validation, languages: Sequence[str], data_root: Path | str, encoder: Encoder,
                 world: World, micro_batch: int):
        """A collective. Raises UserError if the subset holds no item that can be asked in all `languages`."""
        self.settings, self.languages, self.encoder, self.world = settings, list(languages), encoder, world
        task = Task(settings.data, settings.subset, [settings.task] if settings.task else [], settings.items)
        questions = select([task], data_root)
        kept = world.share(self._whole(questions) if world.first else None)  # one rank decides: all ask the same
        asked = [(questions[place], number) for place in kept for number in range(len(self.languages))]
        batches = [asked[start:start + micro_batch] for start in range(0, len(asked), micro_batch)]
        mine = batches[world.rank::world.size]
        mine += [[]] * (-(-len(batches) // world.size) - len(mine))
        self.batches = [collate([[Document(self._encode(*one), one[1], one[0].id)] for one in batch] or [[]],
                                encoder.pad_id) for batch in mine]
        self.shown = [self._shown(*one) for one in asked[:settings.shown * len(self.languages)]]

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
        if not self.shown:
            return []
        said: list[list[int]] = [[] for _ in self.shown]
        with _evaluating(engine):
            for _ in range(self.settings.max_new_tokens):
                found = engine.forward(*_inputs(self._open(said), engine.device), True)
                for words, token in zip(said, found.tolist(), strict=True):
                    words.append(token)
        return [replace(sample, answer=self._text(words))
                for (sample, _, _), words in zip(self.shown, said, strict=True)]

    def _open(self, said: Sequence[Sequence[int]]) -> Packed:
        """The shown prompts with what has been said so far: the last token alone is marked in the labels."""
        rows = [np.concatenate([prompt, words]).astype(np.int64)
                for (_, prompt, _), words in zip(self.shown, said, strict=True)]
        packed = collate([[Document(Encoded(ids, np.zeros(len(ids), bool), pixels), 0, "")]
                          for ids, (_, _, pixels) in zip(rows, self.shown, strict=True)], self.encoder.pad_id)
        for row, ids in enumerate(rows):
            packed.labels[row, len(ids) - 1] = 0
        return packed

    def _whole(self, questions: Sequence[Question]) -> list[int]:
        """Places of the items that can be asked with an image in every language; the others are counted in the log."""
        kept, reasons = [], []
        for place, question in enumerate(questions):
            try:
                for number, language in enumerate(self.languages):
                    check(question.record, language)
                    if is_open(question.record, language):
                        raise ValueError("it is an open question, and has no right answer")
                    if self._encode(question, number).pixels is None:
                        raise ValueError("it has no image")
                kept.append(place)
            except (Corrupt, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
                reasons.append(f"{question.id}: {type(error).__name__}: {error}")
        name = f"{self.settings.data}/{self.settings.subset}"
        if not kept:
            raise UserError(f"{name} has no item with image and answer in {' and '.join(self.languages)} "
                            f"({reasons[0] if reasons else 'it is empty'}): choose another runtime.validation.subset")
        if reasons:
            log.warning("%d of %d items of %s cannot be asked and are left out; the first is %s", len(reasons),
                        len(questions), name, reasons[0])
        return kept

    def _encode(self, question: Question, number: int) -> Encoded:
        language = self.languages[number]
        turns = [{"role": "user", "content": question.record["prompt"][language]},
                 {"role": "assistant", "content": _reference(question, language)}]
        return self.encoder.encode({"id": question.id, "turns": {language: turns}}, language, question.image())

    def _shown(self, question: Question, number: int) -> tuple[Sample, np.ndarray, np.ndarray]:
        """The sample without its answer, the prompt's ids and the pixels."""
        language = self.languages[number]
        prompt = question.record["prompt"][language]
        sample = Sample(question.image(), language, prompt, "", _reference(question, language))
        return sample, self.encoder.prompt(prompt), self._encode(question, number).pixels

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
