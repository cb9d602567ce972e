"""One LlavaForConditionalGeneration from two folders: a vision tower and a causal LM, joined by a connector.

    pixels -> vision tower -> hidden state `vision_layer` -> connector -> image tokens -> backbone -> head

The class is transformers' own, live and exported alike, so a product loads anywhere without begira. The paper's single
linear connector is the class's two-layer projector with a linear activation and a frozen identity as second layer.
Not here: the training forward pass (core.forward), files and hashes (core.parts), exports and products (core.product).
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.config import Model
from core.errors import UserError

IMAGE = "<image>"
CONNECTORS = {"linear": "linear", "mlp2x_gelu": "gelu"}
PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Parts:
    """A model and what goes with it. `image_tokens` is the number of placeholders that one image takes."""

    net: Any
    processor: Any
    image_tokens: int


class StandardisedLinear(nn.Linear):
    """A linear layer over (x - mean) / deviation that can be written as a plain one.

    The parameters live in the standardised space, where Adam sees features of equal scale; each forward pass folds the
    two vectors into the weight, so that the exported plain layer computes the very same product."""

    def __init__(self, inputs: int, outputs: int, mean: torch.Tensor, deviation: torch.Tensor):
        super().__init__(inputs, outputs)
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("deviation", deviation.clone(), persistent=False)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        weight = self.weight / self.deviation
        return weight, self.bias - weight @ self.mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.folded()
        return nn.functional.linear(x, weight, bias)


def assemble(vision: Path, backbone: Path, options: Model, dtype: torch.dtype = torch.float32, seed: int = 0) -> Parts:
    """Build the model from a vision folder (CLIP, SigLIP, LeViT, ... or a two-tower model that holds one) and a causal-LM
    folder with its tokenizer. The connector is drawn from `seed`; nothing else is random.

    Adds the image token and a pad token where the tokenizer lacks them. Raises UserError naming what does not fit."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tower, image_processor = load_tower(vision, dtype)
    language, tokenizer = load_backbone(backbone, dtype)
    image_id = prepare_tokenizer(tokenizer)
    grow_embeddings(language, len(tokenizer))
    probe = vision_features(tower, blank(tower.config, dtype), options.vision_layer, "full")
    tokens = probe.shape[1] - (options.vision_select == "default")
    tower.config.hidden_size = probe.shape[2]
    config = LlavaConfig(
        vision_config=tower.config, text_config=language.config, image_token_index=image_id, image_seq_length=tokens,
        projector_hidden_act=_activation(options.connector), vision_feature_layer=options.vision_layer,
        vision_feature_select_strategy=options.vision_select, tie_word_embeddings=language.config.tie_word_embeddings)
    with torch.device("meta"):
        net = LlavaForConditionalGeneration(config)
    net.model.vision_tower, net.model.language_model = tower, language.base_model
    net.lm_head = language.get_output_embeddings()
    net.model.multi_modal_projector = connector(config, options.connector, seed).to(dtype)
    net.generation_config = language.generation_config
    net.config.dtype = dtype
    return Parts(net.eval(), build_processor(image_processor, tokenizer, tower.config, options, probe.shape[1]), tokens)


def load_tower(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The vision model in `folder` (the vision half of a CLIP or SigLIP folder) and its PIL image processor."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    config = AutoConfig.from_pretrained(folder)
    config = getattr(config, "vision_config", config)
    with torch.device("meta"):
        kind = type(AutoModel.from_config(config))
    return (kind.from_pretrained(folder, config=config, dtype=dtype),
            AutoImageProcessor.from_pretrained(folder, backend="pil"))


def load_backbone(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The causal LM in `folder` and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return (AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention()),
            AutoTokenizer.from_pretrained(folder))


def attention() -> str:
    """The attention implementation that packed rows run fastest with here: FlashAttention on a GPU that has it, else SDPA."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"


def prepare_tokenizer(tokenizer: Any) -> int:
    """Give the tokenizer an image token and a pad token that is not the end of a turn; returns the image token's id.

    A pad token that equals end-of-turn would take the supervision off every real end of turn."""
    from transformers import AddedToken

    if tokenizer.convert_tokens_to_ids(IMAGE) in (None, tokenizer.unk_token_id):
        tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None or tokenizer.pad_token in (tokenizer.eos_token, "<|eot_id|>", "<|end_of_text|>"):
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next((token for token in PADS if token in vocabulary), PADS[1])
    return tokenizer.convert_tokens_to_ids(IMAGE)


def grow_embeddings(language: Any, vocabulary: int) -> None:
    """Add rows for new tokens, each the mean of the old rows (transformers draws them at random), up to a multiple of 64."""
    embedding = language.get_input_embeddings()
    old = embedding.num_embeddings
    if vocabulary <= old:
        return
    head = language.get_output_embeddings()
    tied = head.weight is embedding.weight
    means = [layer.weight.detach().float().mean(0) for layer in ((embedding,) if tied else (embedding, head))]
    language.resize_token_embeddings(vocabulary, pad_to_multiple_of=64, mean_resizing=False)
    layers = [language.get_input_embeddings()] + ([] if tied else [language.get_output_embeddings()])
    with torch.no_grad():
        for layer, mean in zip(layers, means, strict=True):
            layer.weight[old:] = mean.to(layer.weight.dtype)


def connector(config: Any, kind: str, seed: int) -> nn.Module:
    """A fresh connector in fp32: weights N(0, 0.02) from `seed`, biases 0; `linear` has a frozen identity behind it."""
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    module = LlavaMultiModalProjector(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in (module.linear_1, module.linear_2):
            layer.weight.normal_(0.0, 0.02, generator=generator)
            layer.bias.zero_()
        if kind == "linear":
            module.linear_2.weight.copy_(torch.eye(len(module.linear_2.weight)))
            module.linear_2.requires_grad_(False)
    return module


def standardise(net: Any, mean: torch.Tensor, deviation: torch.Tensor, unfold: bool) -> None:
    """Let the connector's first layer read standardised features. mean, deviation: (channels,), as vision_features has them.

    `unfold`: its present weights act on raw features and are rewritten (a trained one); else they are taken as they are."""
    projector = net.model.multi_modal_projector
    old = projector.linear_1
    new = StandardisedLinear(old.in_features, old.out_features, mean.to(old.weight), deviation.to(old.weight))
    with torch.no_grad():
        new.weight.copy_(old.weight * new.deviation if unfold else old.weight)
        new.bias.copy_(old.bias + old.weight @ new.mean if unfold else old.bias)
    projector.linear_1 = new.to(old.weight.dtype)


def vision_features(tower: Any, pixels: torch.Tensor, layer: int, select: str) -> torch.Tensor:
    """Hidden state `layer` of the tower, (images, tokens, channels), as LlavaModel reads it."""
    try:
        states = tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
        features = states[layer]
    except IndexError:
        raise UserError(f"model.vision_layer {layer} does not exist: {type(tower).__name__} has {len(states)} hidden "
                        f"states, 0 to {len(states) - 1}") from None
    if features.dim() != 3:
        raise UserError(f"hidden state {layer} of {type(tower).__name__} has shape {tuple(features.shape)}, not (images, "
                        "tokens, channels): choose another model.vision_layer")
    return features[:, 1:] if select == "default" else features


def blank(config: Any, dtype: torch.dtype) -> torch.Tensor:
    """One black image of the tower's size, (1, channels, height, width)."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(1, getattr(config, "num_channels", 3), height, width, dtype=dtype)


def build_processor(image_processor: Any, tokenizer: Any, vision_config: Any, options: Model, tokens: int) -> Any:
    """transformers' LlavaProcessor; it counts an image's placeholders from the pixel size, so the patch size is set from
    `tokens`, which a real forward pass gave (LeViT's stem has no patch size that would fit)."""
    from transformers import LlavaProcessor

    extra = int(options.vision_select == "default" or round(tokens ** 0.5) ** 2 != tokens)
    size = blank(vision_config, torch.float32).shape[-1]
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
{%- set plain.messages = plain.messages + [{'role': message['role'], 'content': text.parts | join('\\n')}] -%}{%- endif -%}
{%- endfor -%}
{%- set messages = plain.messages -%}
"""


def _activation(kind: str) -> str:
    if kind not in CONNECTORS:
        raise UserError(f"model.connector '{kind}' is not known: use one of {', '.join(CONNECTORS)}")
    return CONNECTORS[kind]
