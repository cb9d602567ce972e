"""Stage `backbone`: the miniature's language models, small Llamas trained on plain text.

    text-only subsets -> tokenizer -> Llama from scratch -> <run>/model                      ("llama")
    parent `initial`  -> the same, trained on in the target language -> <run>/model         ("latxa")

The loop, plan and checkpoints are those of the other training stages; the mixture holds text-only sources and every
token is supervised. The product is a plain transformers folder with its tokenizer. Where a pretrained LLM is at hand
this stage is left out. Not here: the tokenizer's training and its chat template (core.tokenizer).
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core import parts
from core.assemble import DTYPES, load_backbone
from core.config import BackboneConfig, structured
from core.distributed import World, joined
from core.encode import Encoder
from core.errors import UserError
from core.files import replacing_folder
from core.forward import PackedModel
from core.run import Run


def backbone(run: Run) -> dict[str, Any]:
    """Train the backbone and write `<run>/model`. Raises UserError for what does not fit, Stopped when asked to."""
    from core.loop import fit
    from core.stream import Loader, prepare

    config = structured(BackboneConfig, run.config)
    _check(config)
    with joined(config.runtime.threads) as world:
        net, tokenizer = _initial(run, config) if config.initial else _fresh(run, config, world)
        encoder = Encoder(tokenizer, max_tokens=config.pack.max_tokens, supervise="all")
        plan, subsets = world.first_then_others(lambda: prepare(
            config.mixture, config.pack, config.train.global_batch, config.runtime.data_root, encoder))
        runtime = config.runtime
        result, state = fit(run, world, PackedModel(net), plan,
                            lambda start: Loader(plan, subsets, encoder, world.rank, world.size, start, runtime.workers,
                                                 runtime.micro_batch), config.train, runtime)
        world.alone(lambda: _save(run, net, state, tokenizer))
    return result


def _save(run: Run, net: Any, state: dict[str, torch.Tensor], tokenizer: Any) -> None:
    run.check_fence()
    save(net, state, tokenizer, run.path / "model")


def save(net: Any, state: dict[str, torch.Tensor], tokenizer: Any, folder: Path) -> None:
    """A plain causal-LM folder, complete or not at all. state: the trained tensors by their names in PackedModel."""
    own = {name.removeprefix("net."): value.to(net.dtype) for name, value in state.items()}
    if net.config.tie_word_embeddings:
        own = {name: value for name, value in own.items() if not name.startswith("lm_head.")}
        own.update({"lm_head.weight": own[f"{net.base_model_prefix}.embed_tokens.weight"]})
    with replacing_folder(folder) as temporary:
        net.save_pretrained(temporary, state_dict={**net.state_dict(), **own})
        tokenizer.save_pretrained(temporary)


def _fresh(run: Run, config: BackboneConfig, world: World) -> tuple[Any, Any]:
    """A Llama with weights from the seed, and a tokenizer trained on the configured text, kept in the run directory so
    that a run that goes on reads it and does not count on training it again to the same result."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from core.tokenizer import study_texts, train

    folder = run.path / "tokenizer"

    def learn() -> None:
        if folder.exists():
            return
        run.heartbeat(0, 0, "tokenizer", force=True)
        mixture = config.mixture
        texts = study_texts(config.tokenizer, config.runtime.data_root, mixture.base_language, mixture.target_language)
        tokenizer = train(texts, config.tokenizer.vocabulary)
        with replacing_folder(folder) as temporary:
            tokenizer.save_pretrained(temporary)

    world.alone(learn)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=config.hidden, intermediate_size=config.intermediate,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.heads,
        max_position_embeddings=2048, initializer_range=config.initializer_range, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        net = LlamaForCausalLM(shape).to(DTYPES[config.train.dtype])
    return net, tokenizer


def _initial(run: Run, config: BackboneConfig) -> tuple[Any, Any]:
    """The backbone that this one goes on from, with its tokenizer."""
    from transformers import AutoTokenizer

    source = parts.find(config.initial, "backbone", run, config.runtime.models_root)
    net = load_backbone(source.folder, DTYPES[config.train.dtype])
    return net, AutoTokenizer.from_pretrained(source.folder)


def _check(config: BackboneConfig) -> None:
    if config.train.trained != ["backbone"]:
        raise UserError(f"train.trained is {config.train.trained}: a backbone run trains ['backbone']")
    if config.mixture.sources:
        raise UserError("mixture.sources names image-text subsets: a backbone reads mixture.text_only.sources alone")
    if config.mixture.supervise != "all":
        raise UserError(f"mixture.supervise is '{config.mixture.supervise}': a backbone is trained with 'all'")
    if not config.initial and not config.tokenizer.sources:
        raise UserError("tokenizer.sources is empty: name the text-only subsets that the tokenizer is trained on")
