"""The training forward pass: packed rows in, the summed loss of the supervised tokens out. For a LLaVA model or a plain
causal LM.

What makes it safe on many ranks: every micro-batch makes exactly one batched call of the vision tower and the
connector, with a blank image times zero where there is none (a rank that skips them leaves the others waiting in
ZeRO's collectives); the head is one function over however many supervised rows there are. Documents of a row do not
see each other. Not here: what the sum is divided by, and the backward pass (core.engine). """
from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from core.assemble import blank, vision_features
from core.loss import fused_cross_entropy

IGNORE = -100


class PackedModel(nn.Module):
    """`net` (LlavaForConditionalGeneration or a causal LM) behind a packed interface.

    forward(input_ids, position_ids, labels, pixels) -> (loss_sum, token_losses)

        input_ids, position_ids, labels: (rows, length) int64. A position of 0 begins a document; padding is documents
        of its own. labels[r, t] is the token that t must predict, or -100. pixels: (images, channels, height, width),
        the images of the placeholders in reading order, or None. loss_sum: differentiable fp32 sum over supervised
        tokens, in nats. token_losses: (supervised,) fp32, detached, in the order of labels[labels != -100]. `greedy`:
        instead the likeliest token at each place that has a label, (supervised,).
    """

    def __init__(self, net: Any, guard: bool = True):
        """`guard` off leaves out the blank image, for the test that shows what it is for."""
        super().__init__()
        self.net, self.guard = net, guard
        self.tower = hasattr(getattr(net, "model", None), "vision_tower")
        self.image_id = net.config.image_token_id if self.tower else -1
        kinds = set(getattr(self.language.config, "layer_types", None) or ["full_attention"])
        self.own_mask = kinds == {"full_attention"}
        head = net.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise ValueError("an output layer with a bias is not supported")
        self.tied = head.weight is net.get_input_embeddings().weight

    @property
    def language(self) -> Any:
        """The backbone without its head. Not an attribute: a module must have one place in the tree only."""
        return self.net.model.language_model if self.tower else self.net.base_model

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """A tied head is listed once, as the embedding: DeepSpeed would store it twice, and also when frozen."""
        state = super().state_dict(*arguments, **options)
        if self.tied:
            state.pop("net.lm_head.weight", None)
        return state

    def train(self, mode: bool = True) -> PackedModel:
        """The vision tower always stays in eval mode: its normalisation statistics belong to its pretraining."""
        super().train(mode)
        if self.tower:
            self.net.model.vision_tower.eval()
        return self

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, labels: torch.Tensor,
                pixels: torch.Tensor | None = None, greedy: bool = False) -> Any:
        hidden = self.hidden(input_ids, position_ids, pixels)
        supervised = labels != IGNORE
        if greedy:
            return self.net.get_output_embeddings()(hidden[supervised]).argmax(-1)
        return fused_cross_entropy(hidden[supervised], self.net.get_output_embeddings().weight, labels[supervised])

    def hidden(self, input_ids: torch.Tensor, position_ids: torch.Tensor, pixels: torch.Tensor | None = None
               ) -> torch.Tensor:
        """The backbone's last hidden state, (rows, length, width)."""
        embeddings = self.net.get_input_embeddings()(input_ids)
        if self.tower:
            embeddings = self.merge(embeddings, input_ids, pixels)
        shape, kernel, mask = embeddings.shape, self.language.config._attn_implementation, None
        if kernel.startswith("flash"):  # reads documents off one flat row
            embeddings, position_ids = embeddings.flatten(0, 1)[None], position_ids.flatten()[None]
        elif kernel == "sdpa" and self.own_mask:
            mask = document_mask(position_ids, embeddings.dtype)
        state = self.language(inputs_embeds=embeddings, position_ids=position_ids, attention_mask=mask, use_cache=False)
        return state.last_hidden_state.view(shape)

    def merge(self, embeddings: torch.Tensor, input_ids: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
        """Put the image features in the place of the placeholders, in reading order."""
        if pixels is None:
            if not self.guard:
                return embeddings
            nothing = blank(self.net.model.vision_tower.config, embeddings.dtype).to(embeddings.device)
            return embeddings + self.features(nothing).sum() * 0.0
        features = self.features(pixels).flatten(0, 1)
        places = input_ids == self.image_id
        if int(places.sum()) != len(features):
            raise ValueError(f"{int(places.sum())} image placeholders for {len(features)} image features")
        return embeddings.masked_scatter(places[..., None], features.to(embeddings.dtype))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the backbone sees of images, (n, tokens, width): from pixels (n, channels, height, width), or from what
        the tower made of them, (n, tokens, channels)."""
        config, model = self.net.config, self.net.model
        if pixels.dim() == 3:
            return model.multi_modal_projector(pixels.to(self.net.dtype))
        trained = any(p.requires_grad for p in model.vision_tower.parameters())
        with nullcontext() if trained else torch.no_grad():
            raw = vision_features(model.vision_tower, pixels.to(next(model.vision_tower.parameters()).dtype),
                                  config.vision_feature_layer, config.vision_feature_select_strategy)
        return model.multi_modal_projector(raw)


def document_mask(position_ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(rows, 1, length, length): 0 where a token may look, at itself and what precedes it in its document, else -inf.

    Made here and not from position_ids by transformers, which does so only under conditions that are easy to miss."""
    document = (position_ids == 0).cumsum(dim=1)
    same = document[:, :, None] == document[:, None, :]
    allowed = same.tril()[:, None]
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -math.inf)
