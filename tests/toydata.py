"""Small data sets for tests, written in the real format by the real writer, and a tokenizer with a chat template."""
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.dataset import Sample, building
from data_tools.shards import Limits

_WORDS = {"en": "the a red blue green small big cat dog house tree boat sun moon star fish bird road hill river",
          "eu": "gorri urdin berde txiki handi katu txakur etxe zuhaitz itsasontzi eguzki ilargi izar arrain txori"}
WORDS = {language: words.split() for language, words in _WORDS.items()}
QUESTIONS = {"en": "What is this?", "eu": "Zer da hau?"}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
            "<|finetune_right_pad_id|>", "<image>"]


def picture(seed: int, size: int = 16, kind: str = "PNG") -> bytes:
    """An encoded image of random colours, `size` pixels a side."""
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def sentence(rng: np.random.Generator, language: str, longest: int = 12) -> str:
    return " ".join(rng.choice(WORDS[language], rng.integers(1, longest + 1)))


def image_sample(i: int, target: bool = True, longest: int = 12, name: str = "image") -> Sample:
    """Image, question and answer in English and, if `target`, Basque."""
    rng = np.random.default_rng(i)
    languages = ("en", "eu") if target else ("en",)
    turns = {k: [{"role": "user", "content": f"{QUESTIONS[k]}\n<image>"},
                 {"role": "assistant", "content": sentence(rng, k, longest)}] for k in languages}
    return Sample({"id": f"{name}/{i}", "source": "test", "license": "CC0", "turns": turns, "meta": {}}, picture(i))


def text_sample(i: int, longest: int = 30, name: str = "text") -> Sample:
    """One plain text turn in both languages."""
    rng = np.random.default_rng(i)
    turns = {k: [{"role": "assistant", "content": sentence(rng, k, longest)}] for k in ("en", "eu")}
    return Sample({"id": f"{name}/{i}", "source": "test", "license": "CC0", "turns": turns, "meta": {}})


def write(root: Path, subsets: dict[str, list[Sample]], name: str = "toy", samples_per_shard: int = 100) -> Path:
    """A data set `name` below `root`; a subset's kind follows from whether its first sample has an image."""
    with building(root / name, name, ["en", "eu"]) as writer:
        for subset, samples in subsets.items():
            kind = "image" if samples[0].image is not None else "text"
            writer.subset(subset, kind, samples, Limits(samples=samples_per_shard))
        writer.finish([{"name": "test", "version": "1", "licence": "CC0", "origin": "made", "sha256": ""}])
    return root / name


def toy(root: Path, images: int = 200, texts: int = 100) -> Path:
    """A data set with `image` (a fifth without Basque) and `text`."""
    return write(root, {"image": [image_sample(i, target=i % 5 != 0) for i in range(images)],
                        "text": [text_sample(i) for i in range(texts)]})


def tokenizer(vocabulary: int = 400, template: str = TEMPLATE) -> Any:
    """A byte-level BPE trained on the words above, with the names of Llama 3's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    rng = np.random.default_rng(0)
    backend.train_from_iterator([sentence(rng, k, 30) for _ in range(200) for k in WORDS], trainer)
    result = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
                                     pad_token="<|finetune_right_pad_id|>", additional_special_tokens=SPECIALS[2:5])
    result.add_special_tokens({"additional_special_tokens": ["<image>"]})
    result.chat_template = template
    return result
