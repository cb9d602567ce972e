"""How much reading the prompt once saves when the options of a question are scored: prints the ratio to the naive loop.

    python -m benchmarks choice

Naive: one row per option with the whole prompt, the options of all questions batched together. Both sides use the same
small Llama, the same batches and one thread; the smallest process time of several interleaved runs counts.
"""
from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.harness import Row
from core.likelihood import Choice, option_scores


class Net(torch.nn.Module):
    """A causal LM in the shape that core.likelihood asks for, without a vision tower."""

    def __init__(self, hidden: int = 128, layers: int = 4, vocabulary: int = 4096):
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        self.lm = LlamaForCausalLM(LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)).eval()
        self.model = torch.nn.Module()
        self.model.language_model = self.lm.model

    def get_input_embeddings(self) -> Any:
        return self.lm.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.lm.get_output_embeddings()


@torch.inference_mode()
def naive_scores(net: Net, choices: list[Choice], batch: int) -> list[list[float]]:
    """Every option behind its own copy of the prompt."""
    rows = [(number, [*choice.prompt, *option], len(choice.prompt)) for number, choice in enumerate(choices)
            for option in choice.options]
    found: list[list[float]] = [[] for _ in choices]
    for start in range(0, len(rows), batch):
        part = rows[start:start + batch]
        longest = max(len(ids) for _, ids, _ in part)
        ids = torch.tensor([row + [0] * (longest - len(row)) for _, row, _ in part])
        states = net.lm.model(input_ids=ids, use_cache=False).last_hidden_state
        for (number, row, prompt), state in zip(part, states, strict=True):
            logits = net.get_output_embeddings()(state[prompt - 1:len(row) - 1]).float().log_softmax(-1)
            found[number].append(logits.gather(1, torch.tensor(row[prompt:])[:, None]).sum().item())
    return found


def measure(options: int = 4, prompt: int = 96, questions: int = 32, length: int = 4, repeats: int = 5
            ) -> dict[str, float]:
    """{"ratio": naive / ours in process time, "difference": largest difference of a score}."""
    torch.set_num_threads(1)
    net = Net()
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 4096, (count,), generator=draw).tolist()

    choices = [Choice(tokens(prompt), [tokens(length) for _ in range(options)]) for _ in range(questions)]
    spent: dict[str, list[float]] = {"ours": [], "naive": []}
    scores: dict[str, list[list[float]]] = {}
    for _ in range(repeats):
        for name, work in (("ours", lambda: option_scores(net, choices, batch=32)),
                           ("naive", lambda: naive_scores(net, choices, batch=32))):
            begun = time.process_time()
            scores[name] = work()
            spent[name].append(time.process_time() - begun)
    difference = max(abs(a - b) for one, other in zip(scores["ours"], scores["naive"], strict=True)
                     for a, b in zip(one, other, strict=True))
    least = {name: min(times) for name, times in spent.items()}
    return {**least, "ratio": least["naive"] / least["ours"], "difference": difference}


def rows() -> list[Row]:
    result = measure()
    return [Row("score 4 options, shared prefix (CPU s)", result["ours"], result["naive"], "s", result["ratio"], 2.5)]
