"""Log-likelihood of answer options given a prompt, many at once; the prompt is read once however many options it has.

    one sequence   prompt tokens | option 1 | option 2 | ... | option n

Every option sees the prompt and itself (a 4-D attention mask) and starts at the same position, so one forward pass
over prompt + options gives what n passes over prompt + option would. Scores are summed log-probabilities in nats, in
float32, of exactly the option's tokens with its end of turn. Not here: which option wins (core.score).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

_LOGITS = 1 << 25        # elements of the largest logits block: 128 MiB


@dataclass
class Choice:
    """`image`: row of the features that fill the prompt's image placeholders, None for a prompt without."""

    prompt: Sequence[int]
    options: Sequence[Sequence[int]]
    image: int | None = None

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(map(len, self.options))


@torch.inference_mode()
def image_features(net: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the backbone sees of images: (images, tokens, width). pixels: (images, channels, height, width)."""
    tower = net.model.vision_tower
    found = net.model.get_image_features(pixel_values=pixels.to(tower.device, tower.dtype), return_dict=True)
    return torch.stack(list(found.pooler_output))


@torch.inference_mode()
def option_scores(net: Any, choices: Sequence[Choice], features: torch.Tensor | None = None, batch: int = 64
                  ) -> list[list[float]]:
    """Log-probability of each option of each choice, in the order given.

    net: a LlavaForConditionalGeneration in eval mode whose attention takes a 4-D mask (sdpa). features: see
    `image_features`. Sequences of similar length go together, `batch` of them at a time."""
    order = sorted(range(len(choices)), key=lambda number: (choices[number].length, number))
    scores: list[list[float]] = [[] for _ in choices]
    for start in range(0, len(order), batch):
        numbers = order[start:start + batch]
        for number, found in zip(numbers, _score(net, [choices[n] for n in numbers], features), strict=True):
            scores[number] = found
    return scores


def _score(net: Any, choices: list[Choice], features: torch.Tensor | None) -> list[list[float]]:
    device = net.get_input_embeddings().weight.device
    rows, longest = len(choices), max(choice.length for choice in choices)
    ids, positions = torch.zeros(rows, longest, dtype=torch.long), torch.zeros(rows, longest, dtype=torch.long)
    group = torch.full((rows, longest), -1)          # 0: prompt, j: option j, -1: padding
    reader: list[tuple[int, int, int]] = []          # row, place whose output predicts, token that it must predict
    for row, choice in enumerate(choices):
        place = len(choice.prompt)
        ids[row, :place], positions[row, :place] = torch.tensor(choice.prompt), torch.arange(place)
        group[row, :place] = 0
        for number, option in enumerate(choice.options):
            stop = place + len(option)
            ids[row, place:stop] = torch.tensor(option)
            positions[row, place:stop] = torch.arange(len(choice.prompt), len(choice.prompt) + len(option))
            group[row, place:stop] = number + 1
            sources = [len(choice.prompt) - 1, *range(place, stop - 1)]
            reader += [(row, source, token) for source, token in zip(sources, option, strict=True)]
            place = stop
    hidden = _hidden(net, ids.to(device), positions.to(device), _mask(group).to(device), choices, features)
    reading = torch.tensor(reader, device=device)
    places, which = (reading[:, 0] * longest + reading[:, 1]).unique(return_inverse=True)  # options begin at one place
    found = iter(_log_probabilities(net, hidden.flatten(0, 1)[places], which, reading[:, 2]).tolist())
    return [[sum(next(found) for _ in option) for option in choice.options] for choice in choices]


def _mask(group: torch.Tensor) -> torch.Tensor:
    """(rows, 1, length, length) bool: a token sees what precedes it in the prompt or in its own option, and itself."""
    same = group[:, :, None] == group[:, None, :]
    prompt = (group == 0)[:, None, :] & (group >= 0)[:, :, None]
    seen = (same | prompt).tril()
    return (seen | torch.eye(group.shape[1], dtype=torch.bool))[:, None]


def _hidden(net: Any, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, choices: list[Choice],
            features: torch.Tensor | None) -> torch.Tensor:
    embeddings = net.get_input_embeddings()(ids)
    images = [choice.image for choice in choices if choice.image is not None]
    if images:
        places = ids == net.config.image_token_id
        chosen = features[torch.tensor(images, device=features.device)].flatten(0, 1)
        if int(places.sum()) != len(chosen):
            raise ValueError(f"{int(places.sum())} image placeholders for {len(chosen)} image features")
        embeddings = embeddings.masked_scatter(places[..., None], chosen.to(embeddings))
    return net.model.language_model(inputs_embeds=embeddings, position_ids=positions, attention_mask=mask,
                                    use_cache=False).last_hidden_state


def _log_probabilities(net: Any, states: torch.Tensor, which: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log p(tokens[i] | states[which[i]]) in float32, a block of logits at a time."""
    head = net.get_output_embeddings()
    block = max(1, _LOGITS // head.weight.shape[0])
    found = torch.empty(len(tokens), device=states.device)
    for start in range(0, len(states), block):
        every = head(states[start:start + block]).float().log_softmax(-1)
        mine = (which >= start) & (which < start + block)
        found[mine] = every[which[mine] - start, tokens[mine]]
    return found
