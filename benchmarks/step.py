"""A training step of the miniature's size: our whole loop (DeepSpeed engine, agreement, norms, records) against a plain
torch loop over the same packed batches, and against transformers' Trainer over the same samples, padded as it does."""
from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row
from core.config import Model, Runtime, Train

PACKS, DOCUMENTS, WIDTH, LAYERS, VOCABULARY = 8, 4, 128, 4, 4096
STEPS, ROUNDS = 12, 4
ANSWER, RATE = 6, 1e-3


def rows() -> list[Row]:
    contestants = {"ours": ours, "plain": plain, "trainer": trainer}
    context = multiprocessing.get_context("spawn")
    links, best = {}, dict.fromkeys(contestants, float("inf"))
    for name, contestant in contestants.items():  # a process each: Trainer would wrap its model round our process group
        links[name], theirs = context.Pipe()
        context.Process(target=_apart, args=(contestant, theirs), daemon=True).start()
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name, link in links.items():
            link.send(True)
            best[name] = min(best[name], link.recv() / STEPS)
    for link in links.values():
        link.send(False)
    return [Row("step, ours against a plain torch loop", best["ours"], best["plain"], "s",
                best["ours"] / best["plain"], 1.15, at_least=False),
            Row("step, ours against HF Trainer", best["ours"], best["trainer"], "s",
                best["ours"] / best["trainer"], 0.7, at_least=False)]


def _apart(contestant: Callable[[Path, list[Any]], Iterator[float]], link: Any) -> None:
    torch.set_num_threads(1)
    samples = [document(number) for number in range(PACKS * DOCUMENTS * STEPS)]
    with tempfile.TemporaryDirectory() as folder:
        rounds = contestant(Path(folder), samples)
        while link.recv():
            link.send(next(rounds))


def document(number: int) -> Any:
    """A sample as the miniature has them: a question, four image tokens, a short answer; 20 to 45 tokens."""
    from core.encode import Encoded

    random = np.random.default_rng(number)
    length = int(random.integers(20, 46))
    ids = random.integers(5, VOCABULARY - 10, length)
    ids[8:12] = VOCABULARY - 1
    return Encoded(ids.astype(np.int64), np.arange(length) >= length - ANSWER,
                   random.standard_normal((1, 3, 48, 48)).astype(np.float32))


def model() -> Any:
    """A LLaVA of the miniature's size, its tower frozen."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from core import connector

    torch.manual_seed(1)
    vision = CLIPVisionConfig(hidden_size=192, intermediate_size=384, num_hidden_layers=2, num_attention_heads=3,
                              image_size=48, patch_size=24)
    text = LlamaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS,
                       num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=VOCABULARY - 1,
                         projector_hidden_act="linear", tie_word_embeddings=True)
    net = LlavaForConditionalGeneration(config)
    net.model.multi_modal_projector = connector.connector(config, Model().connector, 0)
    net.model.vision_tower.requires_grad_(False)
    return net.train()


def batches(samples: list[Any]) -> list[Any]:
    from core.stream import Document, collate

    steps = []
    for start in range(0, len(samples), PACKS * DOCUMENTS):
        chosen = samples[start:start + PACKS * DOCUMENTS]
        packs = [[Document(sample, 0, "s") for sample in chosen[i::PACKS]] for i in range(PACKS)]
        steps.append(collate(packs, 0))
    return steps


def ours(folder: Path, samples: list[Any]) -> Iterator[float]:
    """CPU seconds of STEPS steps of core.loop, again and again."""
    from core.distributed import joined
    from core.forward import PackedModel
    from core.loop import Loop
    from core.run import Run

    ready = batches(samples)
    plan: Any = SimpleNamespace(
        steps=1 << 20, streams=[SimpleNamespace(name=("s", "en", "image"))], global_batch=PACKS, tokens_per_step=1000.0,
        fingerprint="f", realised=lambda step: {"sample": 0.0}, consumed=lambda step: {}, describe=dict)
    (folder / "spec.json").write_text(json.dumps({"id": "x", "parents": {}}))
    train = Train(trained=["connector", "backbone"], global_batch=PACKS, dtype="float32")
    train.lr.backbone = RATE
    runtime = Runtime(micro_batch=PACKS, save_every=1 << 30, log_every=10)
    with joined(threads=1) as world:
        loop = Loop(Run(folder), world, PackedModel(model()), plan, train, runtime)
        loop.resume()
        while True:
            begun, plan.steps = time.process_time(), loop.start + STEPS
            loop.steps(lambda _: [[batch] for batch in ready])
            yield time.process_time() - begun
            loop.start += STEPS


def plain(folder: Path, samples: list[Any]) -> Iterator[float]:
    """The same forward pass in the shortest loop that clips and steps."""
    from core.forward import PackedModel

    ready, net = batches(samples), PackedModel(model())
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    while True:
        begun = time.process_time()
        for batch in ready:
            loss, _ = net(batch.input_ids, batch.position_ids, batch.labels, batch.pixels)
            (loss / batch.loss_tokens).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        yield time.process_time() - begun


def trainer(folder: Path, samples: list[Any]) -> Iterator[float]:
    """transformers' Trainer on the bare model, one sample a row, padded to the longest of the batch."""
    from transformers import Trainer, TrainingArguments

    net = model()
    features = [{"ids": s.ids, "labels": np.where(s.supervised, s.ids, -100), "pixels": s.pixels} for s in samples]
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=PACKS * DOCUMENTS, max_steps=STEPS,
        use_cpu=True, report_to=[], save_strategy="no", logging_steps=10, learning_rate=RATE,
        disable_tqdm=True, max_grad_norm=1.0, remove_unused_columns=False)
    while True:
        run = Trainer(model=net, args=arguments, train_dataset=features, data_collator=padded)
        begun = time.process_time()
        run.train()
        yield time.process_time() - begun


def padded(features: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    longest = max(len(f["ids"]) for f in features)

    def rows_of(key: str, fill: int) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.pad(f[key], (0, longest - len(f[key])), constant_values=fill)
                                          for f in features]))

    ids = rows_of("ids", 0)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": rows_of("labels", -100),
            "pixel_values": torch.from_numpy(np.concatenate([f["pixels"] for f in features]))}
