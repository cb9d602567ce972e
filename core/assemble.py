"""One LlavaForConditionalGeneration from two folders: a vision tower and a causal LM, joined by a connector.

    pixels -> vision tower -> hidden state `vision_layer` -> connector -> image tokens -> backbone -> head

The class is transformers' own, live and exported alike, so a product loads anywhere without begira. The paper's single
linear connector is the class's two-layer projector with a linear activation and a frozen identity as second layer.
Not here: the training forward pass (core.forward), the model of a run on disk (core.model).
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core import connector
from core.config import Model
from core.errors import UserError
from core.processor import ENDS, build_processor, prepare_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Assembled:
    """The model with its processor. `language` is the causal LM whose modules `net` shares; `image_tokens` is the
    number of placeholders that one image takes."""

    net: Any
    processor: Any
    language: Any
    image_tokens: int


def assemble(vision: Path, backbone: Path, options: Model, dtype: torch.dtype = torch.float32, seed: int = 0,
             tokenizer: Path | None = None) -> Assembled:
    """Build the model from a vision folder (CLIP, SigLIP, LeViT, ... or a two-tower model that holds one) and a
    causal-LM folder; the tokenizer lies there or in `tokenizer`. The connector is drawn from `seed`; nothing else is
    random.

    Adds the image token and a pad token where the tokenizer lacks them. Raises UserError naming what does not fit."""
    from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration

    tower, image_processor = load_tower(vision, dtype)
    language = load_backbone(backbone, dtype)
    words = AutoTokenizer.from_pretrained(tokenizer or backbone)
    image_id = prepare_tokenizer(words)
    grow_embeddings(language, len(words))
    with torch.no_grad():
        probe = vision_features(tower, blank(tower.config, dtype), options.vision_layer, "full")
    tokens = probe.shape[1] - (options.vision_select == "default")
    tower.config.hidden_size = probe.shape[2]
    config = LlavaConfig(
        vision_config=tower.config, text_config=language.config, image_token_index=image_id, image_seq_length=tokens,
        projector_hidden_act=connector.activation(options.connector), vision_feature_layer=options.vision_layer,
        vision_feature_select_strategy=options.vision_select, tie_word_embeddings=language.config.tie_word_embeddings)
    with torch.device("meta"):
        net = LlavaForConditionalGeneration(config)
    net.model.vision_tower, net.model.language_model = tower, language.base_model
    net.lm_head = language.get_output_embeddings()
    net.model.multi_modal_projector = connector.connector(config, options.connector, seed).to(dtype)
    net.generation_config = end_of_turn(language.generation_config, words)
    net.config.dtype = dtype
    processor = build_processor(image_processor, words, tower.config, options, probe.shape[1])
    return Assembled(net.eval(), processor, language, tokens)


def load_tower(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The vision model in `folder` (the vision half of a CLIP or SigLIP folder) and its PIL image processor."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    config = AutoConfig.from_pretrained(folder)
    config = getattr(config, "vision_config", config)
    with torch.device("meta"):
        kind = type(AutoModel.from_config(config))
    tower = kind.from_pretrained(folder, config=config, dtype=dtype)
    tower.config._name_or_path = ""  # a folder of this machine, of no use in an export
    return tower.eval(), AutoImageProcessor.from_pretrained(folder, backend="pil")


def load_backbone(folder: Path, dtype: torch.dtype) -> Any:
    """The causal LM in `folder`."""
    from transformers import AutoModelForCausalLM

    language = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention(dtype))
    language.config._name_or_path = ""
    return language


def attention(dtype: torch.dtype) -> str:
    """What packed rows run fastest with here: FlashAttention in half precision on a GPU that has it installed, else
    SDPA."""
    from transformers.utils import is_flash_attn_2_available

    able = torch.cuda.is_available() and dtype in (torch.bfloat16, torch.float16)
    return "flash_attention_2" if able and is_flash_attn_2_available() else "sdpa"


def end_of_turn(generation: Any, tokenizer: Any) -> Any:
    """Let generation end where a turn ends, whatever the backbone's folder says, and pad with the pad token."""
    known = generation.eos_token_id or []
    known = known if isinstance(known, list) else [known]
    vocabulary = tokenizer.get_vocab()
    ends = [tokenizer.eos_token_id, *(vocabulary[token] for token in ENDS if token in vocabulary)]
    generation.eos_token_id = list(dict.fromkeys([*ends, *known]))
    generation.pad_token_id = tokenizer.pad_token_id
    return generation


def grow_embeddings(language: Any, vocabulary: int) -> None:
    """Add rows for new tokens up to a multiple of 64, each the mean of the old rows (transformers draws them at
    random)."""
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


def vision_features(tower: Any, pixels: torch.Tensor, layer: int, select: str) -> torch.Tensor:
    """Hidden state `layer` of the tower, (images, tokens, channels), as LlavaModel reads it."""
    states = tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
    if not -len(states) <= layer < len(states):
        raise UserError(f"model.vision_layer {layer} does not exist: {type(tower).__name__} has {len(states)} hidden "
                        f"states, 0 to {len(states) - 1}")
    features = states[layer]
    if features.dim() != 3:
        raise UserError(f"hidden state {layer} of {type(tower).__name__} has shape {tuple(features.shape)}, not "
                        "(images, tokens, channels): choose another model.vision_layer")
    return features[:, 1:] if select == "default" else features


def blank(config: Any, dtype: torch.dtype) -> torch.Tensor:
    """One black image of the tower's size, (1, channels, height, width)."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(1, getattr(config, "num_channels", 3), height, width, dtype=dtype)
