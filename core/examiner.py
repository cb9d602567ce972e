"""A trained model that answers questions about images: option scores and greedy answers for a group of questions.

An item that cannot be asked (a broken image, no text in the language) gives a row with status "error" and the reason;
it is never left out. Not here: which groups there are and where the rows go (core.evaluate).
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from core.assemble import DTYPES
from core.encode import IMAGE, Encoder
from core.errors import UserError
from core.likelihood import Choice, image_features, option_scores
from core.pixels import open_image
from core.questions import Question, check, is_open, texts

Row = dict[str, Any]
_NO_CUT = 1 << 30
_TOGETHER = 32           # options scored behind one prompt at a time on the blank image
_FEATURES = 64           # images that go through the tower together
BLANKS = ("white", "black", "yellow", "blue", "red", "cyan", "lime", "magenta")  # the corners of the RGB cube


class Examiner:
    """`net` and `processor` are those of a run (core.model.load_run_model) or of an exported folder."""

    def __init__(self, net: Any, processor: Any, device: torch.device | str = "cpu", batch: int = 64):
        self.net, self.processor, self.batch = net.to(device).eval(), processor, batch
        self.net.set_attn_implementation("sdpa")  # options are scored behind a 4-D mask
        self.device = torch.device(device)
        self.encoder = Encoder(processor.tokenizer, processor.image_processor, net.config.image_seq_length, _NO_CUT)
        self._prompt = lru_cache(maxsize=1 << 16)(self._prompt_ids)
        self._answer = lru_cache(maxsize=1 << 18)(self._answer_ids)

    def ask(self, questions: Sequence[Question], languages: Iterable[str], max_new_tokens: int) -> list[Row]:
        """One row per question and language, in that order: the raw answers, not yet judged."""
        features, places = self._see(questions)
        rows, choices, prompts = [], [], []
        for question in questions:
            for language in languages:
                row = describe(question, language)
                rows.append(row)
                try:
                    place = places[question.subset.name, question.position]
                    if isinstance(place, Exception):
                        raise place
                    check(question.record, language)
                    has_image = IMAGE in row["prompt"]
                    if has_image and place is None:
                        raise ValueError("its prompt asks for an image and it has none")
                    image = place if has_image else None
                    if row["kind"] == "choice":
                        choice = self._choice(row["prompt"], row["options"], image)
                        row["tokens"] = [len(option) for option in choice.options]
                        choices.append((row, choice))
                    else:
                        prompts.append((row, self._prompt(row["prompt"]), image))
                except Exception as error:  # whatever a broken item raises is that item's error, not the run's
                    row["status"], row["error"] = "error", f"{type(error).__name__}: {error}"
        scores = option_scores(self.net, [choice for _, choice in choices], features, self.batch)
        for (row, _), found in zip(choices, scores, strict=True):
            row["scores"] = found
        answers = self._generate([(ids, image) for _, ids, image in prompts], features, max_new_tokens)
        for (row, _, _), answer in zip(prompts, answers, strict=True):
            row["prediction"] = answer
        return rows

    def blank_scores(self, pairs: Sequence[tuple[str, str]], blanks: int = 1) -> list[float | None]:
        """Log-probability of each (prompt, option) with a blank image in the place of the real one: the mean of the
        probabilities over the first `blanks` of BLANKS. None for a pair that cannot be asked: its item's error.

        One blank image may look like something to a small model; several together look like nothing (contextual
        calibration averages over content-free inputs in the same way: Zhao et al. 2021, section 4)."""
        if not 1 <= blanks <= len(BLANKS):
            raise UserError(f"blanks is {blanks}: choose 1 to {len(BLANKS)}, or calibrate=false for none")
        features = image_features(self.net, self._pixels([self._blank(colour) for colour in BLANKS[:blanks]]))
        groups: list[tuple[list[int], Choice]] = []
        for prompt in dict.fromkeys(prompt for prompt, _ in pairs):
            mine = [number for number, pair in enumerate(pairs) if pair[0] == prompt and self._can_follow(*pair)]
            for start in range(0, len(mine), _TOGETHER):
                numbers = mine[start:start + _TOGETHER]
                for image in range(blanks) if IMAGE in prompt else (None,):
                    groups.append((numbers, self._choice(prompt, [pairs[n][1] for n in numbers], image)))
        found: list[list[float]] = [[] for _ in pairs]
        scores = option_scores(self.net, [choice for _, choice in groups], features, max(1, self.batch // 8))
        for (numbers, _), values in zip(groups, scores, strict=True):
            for number, value in zip(numbers, values, strict=True):
                found[number].append(value)
        return [torch.tensor(values, dtype=torch.float64).logsumexp(0).item() - math.log(len(values)) if values
                else None for values in found]

    # --- parts ---------------------------------------------------------------------------------------------------

    def _see(self, questions: Sequence[Question]) -> tuple[torch.Tensor | None, dict[tuple[str, int], Any]]:
        """Features of the distinct images, and for each question its row in them, None, or what its image raised."""
        places: dict[tuple[str, int], Any] = {}
        known: dict[bytes, Any] = {}
        arrays: list[Any] = []
        for question in questions:
            key = question.subset.name, question.position
            try:
                image = question.image()
                if image is None:
                    places[key] = None
                    continue
                digest = hashlib.blake2b(image, digest_size=16).digest()
                if digest not in known:
                    arrays.append(self.encoder.pixels(open_image(image)))
                    known[digest] = len(arrays) - 1
                places[key] = known[digest]
            except Exception as error:  # decoders raise what they like on broken files
                places[key] = error
        if not arrays:
            return None, places
        parts = [image_features(self.net, self._pixels(arrays[start:start + _FEATURES]))
                 for start in range(0, len(arrays), _FEATURES)]
        return torch.cat(parts), places

    def _choice(self, prompt: str, options: Sequence[str], image: int | None) -> Choice:
        return Choice(self._prompt(prompt), [self._answer(prompt, option) for option in options], image)

    def _can_follow(self, prompt: str, option: str) -> bool:
        try:
            return bool(self._answer(prompt, option))
        except ValueError:
            return False

    def _generate(self, prompts: Sequence[tuple[Sequence[int], int | None]], features: torch.Tensor | None,
                  max_new_tokens: int) -> list[str]:
        """Greedy answers. Prompts of one length go together, so nothing is padded."""
        answers = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda n: (len(prompts[n][0]), prompts[n][1] is None, n))
        start = 0
        while start < len(order):
            kind = len(prompts[order[start]][0]), prompts[order[start]][1] is None
            stop = start
            while stop < len(order) and stop - start < self.batch and \
                    (len(prompts[order[stop]][0]), prompts[order[stop]][1] is None) == kind:
                stop += 1
            numbers = order[start:stop]
            for number, text in zip(numbers, self._greedy([prompts[n] for n in numbers], features, max_new_tokens),
                                    strict=True):
                answers[number] = text
            start = stop
        return answers

    @torch.inference_mode()
    def _greedy(self, prompts: Sequence[tuple[Sequence[int], int | None]], features: torch.Tensor | None,
                max_new_tokens: int) -> list[str]:
        ids = torch.tensor([list(prompt) for prompt, _ in prompts], device=self.device)
        embeddings = self.net.get_input_embeddings()(ids)
        images = [image for _, image in prompts if image is not None]
        if images:
            chosen = features[torch.tensor(images, device=features.device)].flatten(0, 1).to(embeddings)
            embeddings = embeddings.masked_scatter((ids == self.net.config.image_token_id)[..., None], chosen)
        tokenizer = self.processor.tokenizer
        found = self.net.generate(inputs_embeds=embeddings, attention_mask=torch.ones_like(ids), do_sample=False,
                                  max_new_tokens=max_new_tokens, pad_token_id=self.encoder.pad_id,
                                  eos_token_id=tokenizer.convert_tokens_to_ids(self.encoder.end_of_turn))
        return [text.strip() for text in tokenizer.batch_decode(found, skip_special_tokens=True)]

    def _pixels(self, arrays: Sequence[Any]) -> torch.Tensor:
        import numpy

        return torch.from_numpy(numpy.stack(arrays))

    def _blank(self, colour: str) -> Any:
        from PIL import Image

        height, width = self.encoder.pixels.size
        return self.encoder.pixels(Image.new("RGB", (width, height), colour))

    def _prompt_ids(self, prompt: str) -> tuple[int, ...]:
        return tuple(self.encoder.prompt(prompt).tolist())

    def _answer_ids(self, prompt: str, answer: str) -> tuple[int, ...]:
        return tuple(self.encoder.answer(prompt, answer).tolist())


def describe(question: Question, language: str) -> Row:
    """The row of an item before it has been asked."""
    record, meta = question.record, question.meta
    prompt, answer, likeness = record.get("prompt"), record.get("answer"), meta.get("likeness")
    return {"item": question.id, "subset": question.subset.subset, "task": question.task, "kind": question.kind,
            "language": language, "set": str(meta.get("set", "")), "style": str(meta.get("style", "")),
            "category": str(meta.get("category", "")), "concept": str(meta.get("concept", "")),
            "likeness": float(likeness) if isinstance(likeness, (int, float)) else None,
            "prompt": str(prompt.get(language, "")) if isinstance(prompt, dict) else "",
            **{part: texts(record, part, language) for part in ("options", "references", "accepted")},
            "open": is_open(record, language),
            "answer": answer if isinstance(answer, int) else -1, "scores": [], "scores_blank": [], "tokens": [],
            "prediction": "", "status": "ok", "error": ""}


def load(model: str, run: Any, models_root: str, dtype: str) -> tuple[Any, Any]:
    """(net, processor) of "parent:ROLE" or of an exported folder below `models_root`."""
    if model.startswith("parent:"):
        from core.model import load_run_model

        return load_run_model(run.parent(model.removeprefix("parent:")).path, models_root, dtype)
    folder = Path(models_root) / model
    if not (folder / "config.json").is_file():
        raise UserError(f"no model in {folder} (no config.json): export a run there, or set runtime.models_root")
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return (AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPES[dtype]),
            AutoProcessor.from_pretrained(folder, backend="pil"))
