"""The miniature's tokenizer: a byte-level BPE over text-only subsets, with a chat template in the shape of Llama 3's.

One tokenizer serves every backbone of a study, so it is trained with a share of target-language text and kept by the
backbone that goes on in that language. Nothing here is used with a pretrained backbone, which brings its own.
"""
from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import Source, Tokenizer
from core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)
BEGIN, HEADER, HEADER_END = "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"
END, PAD, IMAGE = "<|eot_id|>", "<|finetune_right_pad_id|>", "<image>"
SPECIAL = (BEGIN, HEADER, HEADER_END, END, PAD, IMAGE)

# Words with their space, numbers of up to three digits, runs of other signs, line breaks: the split of Llama 3 without
# its English contractions.
_SPLIT = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"

# Fixed: no date, no default system prompt. `content` is a text or transformers' list of parts.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def train(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer with `vocabulary` entries, special tokens and the 256 bytes included. Same texts, same tokenizer.

    Raises UserError if the texts are too few for that many entries."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    core.train_from_iterator(_as_turns(texts), trainer)
    if core.get_vocab_size() < vocabulary:
        raise UserError(f"tokenizer.vocabulary is {vocabulary}, but the text gives only {core.get_vocab_size()} "
                        "entries: lower it, or name more text under tokenizer.sources")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BEGIN, eos_token=END, pad_token=PAD, padding_side="right",
        additional_special_tokens=[HEADER, HEADER_END, IMAGE], clean_up_tokenization_spaces=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _as_turns(texts: Iterable[str]) -> Iterator[str]:
    """Each text as a turn has it, with its blank line and the role names, so that those become single tokens."""
    for text in texts:
        yield from (text.strip() + "\n\n", "user\n\n", "assistant\n\n")


def study_texts(options: Tokenizer, data_root: Path | str, base: str, target: str) -> Iterator[str]:
    """`options.characters` characters of text, `options.target_share` of them in the target language.

    Samples come in the order of their id hashes, so that the choice depends on no file order. A language with less
    text than its share gives what it has. Samples that the index marks as bad are left out, and so are unreadable ones.
    Raises UserError if more than 5 % are unreadable."""
    for language, share in ((base, 1.0 - options.target_share), (target, options.target_share)):
        budget = int(options.characters * share)
        for text in _in_hash_order(options.sources, data_root, language):
            if budget <= 0:
                break
            budget -= len(text)
            yield text


def _in_hash_order(sources: list[Source], data_root: Path | str, language: str) -> Iterator[str]:
    import numpy

    from core.lengths import CORRUPT_SHARE
    from core.shards import Corrupt, DataSet

    subsets = [DataSet(Path(data_root) / source.data).subset(source.subset) for source in sources]
    owner = numpy.concatenate([numpy.full(len(subset), number) for number, subset in enumerate(subsets)])
    inside = numpy.concatenate([numpy.arange(len(subset)) for subset in subsets])
    bad = numpy.concatenate([subset.bad for subset in subsets])
    order = numpy.argsort(numpy.concatenate([subset.id_hash for subset in subsets]), kind="stable")
    unreadable = 0
    for position in order[~bad[order]]:
        subset, place = subsets[owner[position]], int(inside[position])
        try:
            texts = list(turn_texts(subset.record(place), language))
        except (Corrupt, LookupError, TypeError, AttributeError) as error:
            unreadable += 1
            log.warning("%s is left out of the tokenizer's text (%s)", subset.key(place), error)
            if unreadable > CORRUPT_SHARE * len(order):
                raise UserError(f"{unreadable} of {len(order)} samples of tokenizer.sources are unreadable, the last "
                                f"in {subset.name}: `begira data check` says why; `--mark` leaves them out") from error
            continue
        yield from texts


def turn_texts(record: dict[str, Any], language: str) -> Iterator[str]:
    """What the turns of a record say in one language."""
    for turn in record["turns"].get(language, ()):
        yield turn["content"]
