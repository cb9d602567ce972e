"""Stages `align` (the connector alone) and `finetune` (connector and backbone): from a run directory to a product.

    sources + tokenizer -> model, encoder -> plan -> fit -> <run>/model

Which parts are trained is configuration (train.trained); the two stages differ in nothing else. Not here: the loop
(core.loop), the plan (core.mixture).
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from core import lora, parts
from core.assemble import DTYPES, Assembled, assemble, blank, vision_features
from core.config import FinetuneConfig, Model, structured
from core.connector import standardise
from core.distributed import World, joined
from core.encode import Encoder
from core.engine import part_of
from core.errors import UserError
from core.features import compute
from core.forward import PackedModel
from core.loop import fit
from core.model import load_connector, save_product
from core.pixels import open_image
from core.run import Run
from core.shards import Corrupt
from core.stream import Loader, prepare
from core.validation import Validator

__all__ = ["align", "finetune", "fit"]
SAMPLE = 512             # images that the features are standardised on


def align(run: Run) -> dict[str, Any]:
    """Train the connector between a frozen vision encoder and a frozen backbone."""
    return _train(run)


def finetune(run: Run) -> dict[str, Any]:
    """Train connector and backbone, from the product of the parent `align` where the run has one."""
    return _train(run)


def _train(run: Run) -> dict[str, Any]:
    config = structured(FinetuneConfig, run.config)
    with joined(config.runtime.threads) as world:
        sources = {part: parts.find(getattr(config.model, part), part, run, config.runtime.models_root)
                   for part in ("vision", "backbone")}
        assembled = assemble(sources["vision"].folder, sources["backbone"].folder, config.model,
                             DTYPES[config.train.dtype], config.train.seed)
        assembled.net.to(world.device)
        plan, subsets, encoder = _plan(config, assembled, world)
        _start_connector(run, config, assembled, subsets, encoder)
        if config.runtime.cache_features:
            _cache(config, assembled, subsets, encoder, sources["vision"], world)
        if config.train.lora_rank:
            lora.add(assembled.net.model.language_model, config.train.lora_rank, config.train.seed)
        freeze(assembled, config.train.trained)
        if config.runtime.gradient_checkpointing:
            assembled.net.gradient_checkpointing_enable({"use_reentrant": False})
        if config.runtime.compile:
            assembled.net.model.language_model.compile(dynamic=True)
        batches = _batches(config, plan, subsets, encoder, world)
        result, state = fit(run, world, PackedModel(assembled.net), plan, batches, config.train, config.runtime,
                            _validator(config, assembled, world))
        world.alone(lambda: _save(run, plan.steps, assembled, state, config.model, sources))
    return result


def _save(run: Run, steps: int, assembled: Assembled, state: dict[str, Any], model: Any, sources: Any) -> None:
    run.heartbeat(steps, steps, "save", force=True)
    merged = lora.merge({name.removeprefix("net."): tensor for name, tensor in state.items()})
    run.check_fence()
    save_product(run.path / "model", assembled, merged, model, sources)


def _plan(config: FinetuneConfig, assembled: Assembled, world: World) -> tuple[Any, Any, Any]:
    """Plan, subsets and encoder. The first rank counts token lengths where they have not been counted; all read
    them."""
    processor = assembled.processor
    encoder = Encoder(processor.tokenizer, processor.image_processor, assembled.image_tokens, config.pack.max_tokens,
                      config.mixture.supervise)
    plan, subsets = world.first_then_others(lambda: prepare(
        config.mixture, config.pack, config.train.global_batch, config.runtime.data_root, encoder))
    return plan, subsets, encoder


def _validator(config: FinetuneConfig, assembled: Assembled, world: World) -> Validator | None:
    """With an encoder of its own: the table of cached features holds no image of an evaluation subset."""
    settings, runtime, mixture = config.runtime.validation, config.runtime, config.mixture
    if not settings.every:
        return None
    if settings.every % runtime.log_every:
        raise UserError(f"runtime.validation.every is {settings.every}: choose a multiple of runtime.log_every, "
                        f"{runtime.log_every}")
    processor = assembled.processor
    encoder = Encoder(processor.tokenizer, processor.image_processor, assembled.image_tokens, config.pack.max_tokens)
    return Validator(settings, (mixture.base_language, mixture.target_language), runtime.data_root, encoder, world,
                     runtime.micro_batch)


def _batches(config: FinetuneConfig, plan: Any, subsets: Any, encoder: Any, world: World
             ) -> Callable[[int], Iterator[Any]]:
    return lambda start: iter(Loader(plan, subsets, encoder, world.rank, world.size, start, config.runtime.workers,
                                     config.runtime.micro_batch))


def _cache(config: FinetuneConfig, assembled: Assembled, subsets: Any, encoder: Encoder, vision: parts.Source,
           world: World) -> None:
    """Let the encoder give features in place of pixels. One rank computes what has not been computed."""
    if "vision" in config.train.trained:
        raise UserError("runtime.cache_features needs a frozen encoder: set it to false, or do not train vision")
    model, tower = config.model, assembled.net.model.vision_tower
    weights = parts.weights_hash(vision.folder)
    encoder.read_image = world.first_then_others(lambda: compute(
        subsets, encoder, tower, model.vision_layer, model.vision_select, weights))


def _start_connector(run: Run, config: FinetuneConfig, assembled: Assembled, subsets: Any, encoder: Any) -> None:
    """The connector of the parent `align`, if there is one; standardised features, if asked for or inherited."""
    statistics = None
    inherited = "align" in run.spec.get("parents", {})
    if inherited:
        _check_inherited(config.model, run.parent("align").path)
        tensors, statistics = load_connector(run.parent("align").path)
        projector = assembled.net.model.multi_modal_projector
        try:
            projector.load_state_dict({name: value.to(assembled.net.dtype) for name, value in tensors.items()})
        except RuntimeError as error:
            raise UserError(f"the connector of {run.parent('align').path} does not fit this model: give both runs the "
                            "same encoder and backbone") from error
    elif config.model.standardise:
        statistics = measure(assembled, config, subsets, encoder)
    if statistics is not None:
        standardise(assembled.net, *statistics, unfold=inherited)


def _check_inherited(model: Model, parent: Path) -> None:
    """Raise UserError unless the connector in `parent` was trained as one of this kind, on features like these: its
    tensors may fit all the same."""
    theirs = parts.read_manifest(parent / "model")["model"]
    for key in ("connector", "vision_layer", "vision_select"):
        if theirs[key] != getattr(model, key):
            raise UserError(f"model.{key} is {getattr(model, key)}, the connector of {parent} was trained with "
                            f"{theirs[key]}: give both runs the same")


@torch.no_grad()
def measure(assembled: Assembled, config: FinetuneConfig, subsets: Any, encoder: Any
            ) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation per channel of the features that the connector reads, over SAMPLE images spread evenly over
    the image sources: the same on every rank, at every restart and for every ratio."""
    names = [f"{source.data}/{source.subset}" for source in config.mixture.sources]
    tower, seen = assembled.net.model.vision_tower, 0
    total = torch.zeros(2, tower.config.hidden_size, dtype=torch.float64)
    for name in names:
        for pixels in _images(subsets[name], SAMPLE // len(names), encoder):
            features = vision_features(tower, pixels.to(tower.device, tower.dtype), config.model.vision_layer,
                                       config.model.vision_select).flatten(0, 1).double()
            total += torch.stack([features.sum(0), features.square().sum(0)]).cpu()
            seen += len(features)
    if not seen:
        raise UserError("model.standardise finds no image in mixture.sources: name an image source, or set it to false")
    mean, square = total / seen
    return mean.float(), (square - mean.square()).clamp_min(1e-12).sqrt().clamp_min(1e-3 * mean.abs().max()).float()


def _images(subset: Any, wanted: int, encoder: Any) -> Iterator[torch.Tensor]:
    rows = [i for i in range(len(subset)) if subset.images[i] and not subset.bad[i]]
    chosen = [rows[k * len(rows) // wanted] for k in range(wanted)] if len(rows) > wanted else rows
    for start in range(0, len(chosen), 32):
        batch = []
        for i in chosen[start:start + 32]:
            try:
                batch.append(torch.from_numpy(encoder.pixels(open_image(subset.read(i)[1]))))
            except (Corrupt, OSError, ValueError):
                continue
        if batch:
            yield torch.stack(batch)


def freeze(assembled: Assembled, trained: list[str]) -> None:
    """Let only the named parts take gradients, and of these only what is meant to learn: the identity behind a linear
    connector stays, so do layers of the tower above the hidden state that is read, and weights that have adapters."""
    net = assembled.net
    fixed = {id(p) for p in net.model.multi_modal_projector.parameters() if not p.requires_grad}
    adapted = any(lora.is_adapter(name) for name, _ in net.named_parameters())
    for name, parameter in net.named_parameters():
        part = part_of(name)
        kept = id(parameter) in fixed or (part == "backbone" and adapted and not lora.is_adapter(name))
        parameter.requires_grad_(part in trained and not kept)
    tower = net.model.vision_tower
    if "vision" in trained:
        reached = _reached(tower, net.config)
        for parameter in tower.parameters():
            parameter.requires_grad_(id(parameter) in reached)


def _reached(tower: Any, config: Any) -> set[int]:
    parameters = list(tower.parameters())
    pixels = blank(tower.config, tower.dtype).to(tower.device)
    features = vision_features(tower, pixels, config.vision_feature_layer, "full")
    gradients = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
    return {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
