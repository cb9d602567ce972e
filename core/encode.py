"""One sample in one language -> token ids, the mask of what carries loss, and pixels.

    encoder = Encoder(tokenizer, image_processor=None, image_tokens=0, max_tokens=2048, supervise="assistant")
    encoded = encoder.encode(record, "eu", image_bytes)      # Encoded(ids int64 [n], supervised bool [n], pixels)
    tokens, loss = encoder.lengths(records, "eu", images)    # the same lengths for many records at once, int32 [m]
    encoder.key                                              # hash of all that a length depends on

The text is what the tokenizer's chat template renders (with a fixed date: templates that print today's would change
the data every day). The template is rendered once per shape of conversation, with markers in place of the turns'
words; so the span of every turn is known exactly, and the mask comes from character offsets, not from tokenising
turns apart. Loss falls on the assistant's words and the token that ends its turn (supervise="all": on every token). A
record with a single assistant turn and nothing else is plain text: beginning-of-text, words, end-of-text, without
template. `<image>` is one token in the text and `image_tokens` in the ids. Raises core.shards.Corrupt for what cannot
be encoded.
"""
from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.errors import UserError
from core.pixels import Pixels, open_image
from core.shards import Corrupt

IMAGE = "<image>"
DATE = "26 Jul 2024"     # the Llama-3.1 template's own default


@dataclass
class Encoded:
    """ids [n]; supervised [n]: token t is a target (t >= 1); pixels [m, 3, H, W] float32 or None."""

    ids: np.ndarray
    supervised: np.ndarray
    pixels: np.ndarray | None = None

    @property
    def loss(self) -> int:
        """Number of supervised targets."""
        return int(self.supervised.sum())


@dataclass(frozen=True)
class _Shape:
    """A rendered conversation without its words: the text before turn i is pieces[i]; `ends[i]` characters of the piece
    after it belong to turn i (its end-of-turn token)."""

    pieces: tuple[str, ...]
    answers: tuple[bool, ...]
    ends: tuple[int, ...]

    def fill(self, words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the [start, stop) of what the assistant says, end-of-turn included."""
        parts, spans, position = [], [], 0
        for piece, word, answer, end in zip(self.pieces, words, self.answers, self.ends, strict=False):
            position += len(piece)
            if answer:
                spans.append((position, position + len(word) + end))
            position += len(word)
            parts += (piece, word)
        return "".join([*parts, self.pieces[-1]]), spans


class Encoder:
    """See the module. `tokenizer` is a fast one with a chat template; `image_processor` the vision tower's.

    image_tokens: placeholders per image. max_tokens: a longer sample is cut at its end."""

    def __init__(self, tokenizer: Any, image_processor: Any = None, image_tokens: int = 0, max_tokens: int = 2048,
                 supervise: str = "assistant", date: str = DATE):
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"tokenizer {type(tokenizer).__name__} is no fast one (tokenizer.json): convert it first")
        self.tokenizer, self.image_tokens, self.max_tokens = tokenizer, image_tokens, max_tokens
        self.supervise, self.date = supervise, date
        self.pixels = Pixels(image_processor) if image_processor is not None else None
        self.image_id = _image_id(tokenizer) if image_tokens else None
        self.pad_id = pad_id(tokenizer)
        self._begin, self._end = tokenizer.bos_token or "", tokenizer.eos_token or ""
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()
        self._specials = sorted({str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}, key=len)
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self.read_image: Callable[[bytes], np.ndarray] = self._read_image  # core.features puts a table in its place
        self.key = self._key()

    def encode(self, record: dict[str, Any], language: str, image: bytes | None = None) -> Encoded:
        text, spans = self.render(record, language, image is not None)
        coded = self._backend.encode(text, add_special_tokens=False)
        ids, supervised = self._finish(coded, spans, record)
        pixels = None
        if image is not None:
            if self.pixels is None:
                raise UserError("this mixture holds images and the run has no vision encoder: name text subsets only")
            try:
                pixels = self.read_image(image)[None]
            except Exception as error:  # decoders raise what they like on broken files
                raise Corrupt(_id(record), f"its image cannot be decoded ({type(error).__name__}: {error})") from error
        return Encoded(ids, supervised, pixels)

    def _read_image(self, data: bytes) -> np.ndarray:
        return self.pixels(open_image(data))

    def prompt(self, question: str) -> np.ndarray:
        """Ids int64 [n] of a user turn up to where the assistant begins to speak, exactly as in training.

        `<image>` in the question is expanded. A generated or scored answer follows; it ends with `end_of_turn`."""
        shape = self._known(("user", "assistant"), [question.strip(), "-"])
        coded = self._backend.encode(f"{shape.pieces[0]}{question.strip()}{shape.pieces[1]}", add_special_tokens=False)
        return self._expand(np.array(coded.ids, np.int64))[0]

    def answer(self, question: str, answer: str) -> np.ndarray:
        """Ids int64 [n] of an answer behind `prompt(question)`, its end of turn included, exactly as in training.

        Raises ValueError if the tokenizer joins the end of the prompt and the beginning of the answer."""
        shape = self._known(("user", "assistant"), [question.strip(), "-"])
        head = f"{shape.pieces[0]}{question.strip()}{shape.pieces[1]}"
        before = self._backend.encode(head, add_special_tokens=False).ids
        whole = self._backend.encode(f"{head}{answer.strip()}{self.end_of_turn}", add_special_tokens=False).ids
        if whole[:len(before)] != before:
            raise ValueError(f"the tokenizer joins the prompt and the answer '{answer}'")
        return np.array(whole[len(before):], np.int64)

    @property
    def end_of_turn(self) -> str:
        """What follows the assistant's words, e.g. "<|eot_id|>"."""
        shape = self._known(("user", "assistant"), ["-", "-"])
        return shape.pieces[2][:shape.ends[1]]

    def lengths(self, records: Sequence[dict[str, Any] | None], language: str, images: Sequence[int]
                ) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, supervised targets) of each record, int32; -1 where it is None, lacks the language or is corrupt."""
        tokens = np.full(len(records), -1, np.int32)
        loss = np.full(len(records), -1, np.int32)
        rows, texts, spans = [], [], []
        for row, record in enumerate(records):
            if record is None or not _turns(record, language):
                continue
            try:
                text, span = self.render(record, language, bool(images[row]))
            except Corrupt:
                continue
            rows.append(row)
            texts.append(text)
            spans.append(span)
        codes = self._backend.encode_batch(texts, add_special_tokens=False)
        for row, coded, span in zip(rows, codes, spans, strict=True):
            try:
                ids, supervised = self._finish(coded, span, records[row])
            except Corrupt:
                continue
            tokens[row], loss[row] = len(ids), supervised.sum()
        return tokens, loss

    def render(self, record: dict[str, Any], language: str, has_image: bool) -> tuple[str, list[tuple[int, int]]]:
        """The text of a record and the character spans that the assistant says. Raises Corrupt."""
        turns = _turns(record, language)
        if not turns:
            raise Corrupt(_id(record), f"it has no turns in '{language}'")
        try:
            roles, words = tuple(t["role"] for t in turns), [t["content"].strip() for t in turns]
        except (TypeError, KeyError, AttributeError) as error:
            raise Corrupt(_id(record), "a turn lacks role or content") from error
        found = sum(w.count(IMAGE) for w in words)
        if found != int(has_image):
            raise Corrupt(_id(record), f"it asks for {found} images and has {int(has_image)}")
        if roles == ("assistant",):
            return (f"{self._begin}{words[0]}{self._end}",
                    [(len(self._begin), len(self._begin) + len(words[0]) + len(self._end))])
        return self._known(roles, words).fill(words)

    def _known(self, roles: tuple[str, ...], words: list[str]) -> _Shape:
        if roles not in self._shapes:
            self._shapes[roles] = self._shape(roles, words)
        return self._shapes[roles]

    def _shape(self, roles: tuple[str, ...], words: list[str]) -> _Shape:
        text = self._template(roles, [f"@@{i}@turn@@" for i in range(len(roles))])
        pieces, position = [], 0
        for i in range(len(roles)):
            place = text.find(f"@@{i}@turn@@", position)
            if place < 0:
                raise UserError("the tokenizer's chat template drops or reorders turns: use one that prints every turn")
            pieces.append(text[position:place])
            position = place + len(f"@@{i}@turn@@")
        pieces.append(text[position:])
        ends = tuple(self._end_of_turn(piece) for piece in pieces[1:])
        shape = _Shape(tuple(pieces), tuple(r == "assistant" for r in roles), ends)
        if shape.fill(words)[0] != self._template(roles, words):
            raise UserError("the tokenizer's chat template changes what a turn says: use one that prints it as it is")
        return shape

    def _template(self, roles: Sequence[str], words: Sequence[str]) -> str:
        messages = [{"role": r, "content": w} for r, w in zip(roles, words, strict=True)]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, date_string=self.date)
        except Exception as error:  # a template's own refusal, e.g. of a role or an order of roles
            raise UserError(f"the chat template cannot print turns of {', '.join(roles)}: {error}") from error

    def _end_of_turn(self, piece: str) -> int:
        """Length of `piece` up to and including its first special token; 0 if it has none."""
        found = [(piece.find(s), len(s)) for s in self._specials if s in piece]
        return sum(min(found, key=lambda f: (f[0], -f[1]))) if found else 0

    def _finish(self, coded: Any, spans: list[tuple[int, int]], record: dict[str, Any]
                ) -> tuple[np.ndarray, np.ndarray]:
        ids = np.array(coded.ids, np.int64)
        if self.supervise == "all":
            supervised = np.ones(len(ids), bool)
        else:
            starts = [offset[0] for offset in coded.offsets]
            supervised = np.zeros(len(ids), bool)
            for start, stop in spans:
                supervised[bisect_left(starts, start):bisect_left(starts, stop)] = True
        ids, times = self._expand(ids)
        if times is not None:
            supervised = np.repeat(supervised, times) & (ids != self.image_id)
            if len(ids) > self.max_tokens and (ids[self.max_tokens:] == self.image_id).any():
                raise Corrupt(_id(record), f"its image does not fit into pack.max_tokens = {self.max_tokens}")
        ids, supervised = ids[:self.max_tokens], supervised[:self.max_tokens]
        supervised[:1] = False
        return ids, supervised

    def _expand(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Ids with `image_tokens` placeholders per image, and how often each id stands (None without an image)."""
        if self.image_id is None or not (place := ids == self.image_id).any():
            return ids, None
        times = np.where(place, self.image_tokens, 1)
        return np.repeat(ids, times), times

    def _key(self) -> str:
        """What a length depends on: vocabulary, merges, template, date, image tokens, the cut, what is supervised."""
        settings = {"image_tokens": self.image_tokens, "max_tokens": self.max_tokens, "supervise": self.supervise,
                    "date": self.date, "template": self.tokenizer.chat_template, "begin": self._begin, "end": self._end}
        text = self._backend.to_str() + json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def pad_id(tokenizer: Any) -> int:
    """The token that fills gaps: the tokenizer's own if it differs from the end of a turn, else a reserved one.

    Packs hold no padding inside documents; masks never look at this id (real end-of-turn tokens stay supervised)."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer.pad_token_id
    added = {str(t): i for i, t in tokenizer.added_tokens_decoder.items()}
    for name in ("<|finetune_right_pad_id|>", "<pad>", "<|pad|>", "[PAD]", "<unk>"):
        if name in added:
            return added[name]
    raise UserError("the tokenizer has no pad token apart from its end of turn: add one, e.g. '<|pad|>'")


def _image_id(tokenizer: Any) -> int:
    found = {str(t): i for i, t in tokenizer.added_tokens_decoder.items()}.get(IMAGE)
    if found is None:
        raise UserError(f"the tokenizer has no token {IMAGE}: add it as a special token before building an Encoder")
    return found


def _turns(record: dict[str, Any], language: str) -> list[dict[str, str]] | None:
    turns = record.get("turns")
    return turns.get(language) if isinstance(turns, dict) else None


def _id(record: dict[str, Any]) -> str:
    return str(record.get("id", "?"))
