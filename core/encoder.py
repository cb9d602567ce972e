"""Stage `encoder`: a small vision tower, trained as CLIP's is, on pairs of an image and an English text.

    image -> LeViT (convolutional stem, attention, 4 tokens) -> linear over all tokens ---+
                                                                                          cosine, softmax over names
    name or keyword -> mean of word embeddings -------------------------------------------+

The product is a plain `LevitModel` folder with its image processor; the text side only serves the training. It differs
from CLIP in one thing: the negatives of an image are all other names of the data set, not those of its batch, because a
small data set's names fit (Radford et al. 2021; LeViT: Graham et al. 2021). Its single stage ends in the very tokens
that the connector reads (`hidden_states[1]`), so the loss shapes them directly. One process; many-GPU encoders come
pretrained.
"""
from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from core.captions import Captions, collect
from core.config import EncoderConfig, structured
from core.errors import Stopped
from core.files import replacing_folder
from core.run import Run
from core.states import newest_state, save_state

LAYER = 1                # the hidden state that is trained, and that the connector is to read
_START_SCALE = 14.0      # 1 / temperature at the start, CLIP's 1 / 0.07
_MAX_SCALE = 50.0
# Both sides are centred and words start far apart: else the features end in few directions (about 20 of 192 dimensions
# with words started at 0.05), from which a language model learns far more slowly.
_WORDS = 0.3


class Towers(nn.Module):
    """The vision tower with its projection, and the bag-of-words text tower, into one space."""

    def __init__(self, config: EncoderConfig, words: int):
        super().__init__()
        from transformers import LevitConfig, LevitModel

        hidden = config.hidden
        # One stage and what follows its subsampling: two hidden states, 9 and 4 tokens at 48 px. Two sizes are listed
        # for the one stage because the subsampling reads the next stage's.
        shape = LevitConfig(image_size=config.image_size, hidden_sizes=[hidden] * 3, depths=[config.depth],
                            num_attention_heads=[max(1, hidden // 32)] * 3, key_dim=[16] * 3, mlp_ratio=[2] * 3,
                            attention_ratio=[2] * 3)
        shape.hidden_size = hidden  # transformers' Llava asks for it
        self.vision = LevitModel(shape)
        side = (config.image_size // shape.patch_size - 1) // 2 + 1
        self.project = nn.Sequential(nn.Linear(side * side * hidden, hidden), nn.BatchNorm1d(hidden, affine=False))
        self.words = nn.Embedding(words + 1, hidden, padding_idx=words)
        nn.init.normal_(self.words.weight, std=_WORDS)
        with torch.no_grad():
            self.words.weight[words] = 0.0
        self.log_scale = nn.Parameter(torch.tensor(math.log(_START_SCALE)))

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """(images, 3, size, size) -> unit vectors (images, hidden)."""
        states = self.vision(pixels, output_hidden_states=True).hidden_states
        return functional.normalize(self.project(states[LAYER].flatten(1)), dim=-1)

    def texts(self, words: torch.Tensor) -> torch.Tensor:
        """Padded word numbers (texts, longest) -> unit vectors (texts, hidden), centred over the texts."""
        mean = functional.embedding_bag(words, self.words.weight, mode="mean", padding_idx=self.words.padding_idx)
        return functional.normalize(mean - mean.mean(0), dim=-1)

    @property
    def scale(self) -> torch.Tensor:
        return self.log_scale.exp().clamp(max=_MAX_SCALE)


def encoder(run: Run) -> dict[str, Any]:
    """Train, write `<run>/model`, and return the loss and the zero-shot accuracy on the styles of `config.evaluate`.

    A run that was killed goes on from the last whole epoch and ends with the same weights, given the same number of
    threads. Raises UserError for missing data, Stopped when asked to stop."""
    config = structured(EncoderConfig, run.config)
    torch.set_num_threads(config.runtime.threads)
    started = time.perf_counter()
    pairs = collect(config.sources, config.runtime.data_root, config.image_size, config.language)
    training = Training(config, pairs)
    if state := newest_state(run):
        training.load_state_dict(state)
    for epoch in range(training.epoch, config.epochs):
        loss = training.train_epoch(run)
        run.log({"step": training.step, "epoch": epoch + 1, "loss": loss, "lr": training.rate(training.step - 1)})
        save_state(run, training.step, training.state_dict())
    metrics = training.zero_shot(config)
    run.check_fence()
    training.save(run.path / "model")
    return {"steps": training.step, "seconds": time.perf_counter() - started, "loss": training.loss,
            "images": len(pairs.pixels), "names": len(pairs.names), "metrics": metrics}


class Training:
    """Everything that a checkpoint holds: towers, optimiser, random generator, place."""

    def __init__(self, config: EncoderConfig, pairs: Captions):
        self.config, self.pairs = config, pairs
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.towers = Towers(config, len(pairs.vocabulary)).to(memory_format=torch.channels_last)
        self.generator = torch.Generator().manual_seed(config.seed)
        weights = [p for p in self.towers.parameters() if p.ndim > 1]
        others = [p for p in self.towers.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW([{"params": weights, "weight_decay": config.weight_decay},
                                            {"params": others, "weight_decay": 0.0}], lr=config.lr, betas=(0.9, 0.98))
        self.mean, self.deviation = pairs.channel_statistics()
        self.epoch, self.step, self.loss = 0, 0, float("nan")
        self.steps_per_epoch = max(1, len(pairs.pixels) // config.batch)

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up over 3 epochs, then a cosine to 0."""
        total, warm = self.steps_per_epoch * self.config.epochs, self.steps_per_epoch * min(3, self.config.epochs / 4)
        if step < warm:
            return self.config.lr * (step + 1) / (warm + 1)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))

    def train_epoch(self, run: Run) -> float:
        """One pass over the images in a fresh order; the mean loss. The last, incomplete batch is left out."""
        self.towers.train()
        order = torch.randperm(len(self.pairs.pixels), generator=self.generator)
        total = 0.0
        for number in range(self.steps_per_epoch):
            if reason := run.stop_requested():
                raise Stopped(reason, self.epoch * self.steps_per_epoch)
            run.heartbeat(self.step, self.steps_per_epoch * self.config.epochs, loss=self.loss)
            rows = order[number * self.config.batch:(number + 1) * self.config.batch]
            total += self.train_step(rows)
        self.epoch += 1
        self.loss = total / self.steps_per_epoch
        return self.loss

    def train_step(self, rows: torch.Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        pixels = augment(self.pairs.pixels[rows], self.config.augment, self.mean, self.deviation, self.generator)
        images = self.towers.images(pixels.contiguous(memory_format=torch.channels_last))
        truth, scale, smoothing = self.pairs.name_of[rows], self.towers.scale, self.config.label_smoothing
        loss = functional.cross_entropy(scale * images @ self.towers.texts(self.pairs.name_words).T, truth,
                                        label_smoothing=smoothing)
        if self.config.phrases > 0:
            texts = self.towers.texts(self.pairs.draw_phrases(self.generator))
            loss = loss + self.config.phrases * functional.cross_entropy(scale * images @ texts.T, truth,
                                                                         label_smoothing=smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def zero_shot(self, config: EncoderConfig) -> list[dict[str, Any]]:
        """Top-1 accuracy among all names for the images of each source in `config.evaluate`."""
        self.towers.eval()
        names = self.towers.texts(self.pairs.name_words)
        metrics = []
        for source in config.evaluate:
            unseen = collect([source], config.runtime.data_root, config.image_size, config.language)
            position = {name: number for number, name in enumerate(self.pairs.names)}
            truth = torch.tensor([position.get(unseen.names[number], -1) for number in unseen.name_of.tolist()])
            pixels = normalised(unseen.pixels, self.mean, self.deviation)
            found = torch.cat([(self.towers.images(part) @ names.T).argmax(1) for part in pixels.split(256)])
            metrics.append({"benchmark": "zero-shot naming", "subset": source.subset, "language": config.language,
                            "metric": "accuracy", "slice": "all", "n": len(truth),
                            "value": (found == truth).float().mean().item()})
        return metrics

    def save(self, folder: Path) -> None:
        """The vision tower and its image processor as a plain transformers folder, complete or not at all."""
        from transformers import CLIPImageProcessorPil

        side = {"height": self.config.image_size, "width": self.config.image_size}
        processor = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False,
                                          image_mean=self.mean.tolist(), image_std=self.deviation.tolist())
        with replacing_folder(folder) as temporary:
            self.towers.vision.to(memory_format=torch.contiguous_format).eval().save_pretrained(temporary)
            processor.save_pretrained(temporary)

    def state_dict(self) -> dict[str, Any]:
        return {"towers": self.towers.state_dict(), "optimizer": self.optimizer.state_dict(), "epoch": self.epoch,
                "generator": self.generator.get_state(), "step": self.step, "loss": self.loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.towers.load_state_dict(state["towers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.epoch, self.step, self.loss = state["epoch"], state["step"], state["loss"]


def normalised(pixels: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """uint8 (images, 3, size, size) -> what the saved image processor makes of them."""
    return (pixels.float() / 255.0 - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)


def augment(pixels: torch.Tensor, strength: float, mean: torch.Tensor, deviation: torch.Tensor,
            generator: torch.Generator) -> torch.Tensor:
    """Normalised pixels after a random mirror, turn, zoom, stretch and shift on white, colour gain and offset, and now
    and then grey. strength 1 turns by up to 14 degrees and zooms by up to 20 %; 0 only mirrors."""
    count = len(pixels)

    def draw(width: float, *shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) * width * strength

    mirror = (torch.rand(count, generator=generator) < 0.5).float() * 2 - 1
    angle, zoom = draw(0.25, count), 1 + draw(0.2, count)
    tall, shift = zoom * (1 + draw(0.12, count)), draw(0.12, count, 2)
    rows = [torch.stack([mirror * zoom * angle.cos(), -tall * angle.sin(), shift[:, 0]], 1),
            torch.stack([mirror * zoom * angle.sin(), tall * angle.cos(), shift[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    white = 255.0
    moved = functional.grid_sample(pixels.float() - white, grid, align_corners=False) + white
    values = (moved / 255.0 - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    values = values * (1 + draw(0.3, count, 3, 1, 1)) + draw(0.3, count, 3, 1, 1)
    grey = torch.rand(count, generator=generator) < 0.15 * strength
    return torch.where(grey[:, None, None, None], values.mean(1, keepdim=True), values)
