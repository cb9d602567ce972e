"""Tokenizer and processor of a LLaVA model: the image token, a pad token, the number of placeholders, the chat
template. Everything is set so that transformers' AutoProcessor does the same later, without begira. Not here: the
model."""
from __future__ import annotations

from typing import Any

from core.config import Model
from core.errors import UserError

IMAGE = "<image>"
PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>")
ENDS = ("<|eot_id|>", "<|end_of_text|>")


def prepare_tokenizer(tokenizer: Any) -> int:
    """Give the tokenizer an image token and a pad token that is not the end of a turn; returns the image token's id.

    A pad token that equals end-of-turn would take the supervision off every real end of turn."""
    from transformers import AddedToken

    if tokenizer.convert_tokens_to_ids(IMAGE) in (None, tokenizer.unk_token_id):
        tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None or tokenizer.pad_token in (tokenizer.eos_token, *ENDS):
        vocabulary = tokenizer.get_vocab()
        tokenizer.add_special_tokens({"pad_token": next((token for token in PADS if token in vocabulary), PADS[1])})
    return tokenizer.convert_tokens_to_ids(IMAGE)


def build_processor(image_processor: Any, tokenizer: Any, vision_config: Any, options: Model, tokens: int) -> Any:
    """transformers' LlavaProcessor. It counts an image's placeholders from the pixel size, so the patch size is set
    from `tokens`, the number that a real forward pass gave (LeViT's stem has no patch size that would fit)."""
    from transformers import LlavaProcessor

    size = vision_config.image_size if isinstance(vision_config.image_size, int) else vision_config.image_size[1]
    extra = int(options.vision_select == "default" or round(tokens ** 0.5) ** 2 != tokens)
    patch = size // round((tokens - extra) ** 0.5)
    if (size // patch) ** 2 != tokens - extra:
        raise UserError(f"the vision tower gives {tokens} tokens for {size} px, which is no square grid of patches"
                        + (": set model.vision_select to full" if extra else ""))
    return LlavaProcessor(image_processor, tokenizer, patch_size=patch, chat_template=chat_template(tokenizer),
                          vision_feature_select_strategy=options.vision_select, image_token=IMAGE,
                          num_additional_image_tokens=extra)


def chat_template(tokenizer: Any) -> str | None:
    """The tokenizer's template, made to accept messages whose content is a list of text and image parts as well."""
    if not tokenizer.chat_template:
        return None
    return _LISTS_TO_TEXT + tokenizer.chat_template


_LISTS_TO_TEXT = """{%- set plain = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}{%- set plain.messages = plain.messages + [message] -%}
{%- else -%}{%- set text = namespace(parts=[]) -%}
{%- for part in message['content'] -%}
{%- set text.parts = text.parts + ['<image>' if part['type'] == 'image' else part['text']] -%}{%- endfor -%}
{%- set plain.messages = plain.messages + [{'role': message['role'], 'content': text.parts | join('\\n')}] -%}
{%- endif -%}{%- endfor -%}
{%- set messages = plain.messages -%}
"""
