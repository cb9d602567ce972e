"""How large a run's model is, from the configuration files of pretrained folders, and the runtime that a site gives it.

Reads config.json and nothing else; a part that another run will make first has no size yet, and such a run keeps the
runtime that its grid states."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.files import read_json
from experiments.expand import Desired
from experiments.store import run_path, site_config
from slurm.profile import Profile
from slurm.resources import Shape, fit

REMEDY = "remedy.json"       # in a run directory: runtime values that a failed attempt taught


def overlay(profile: Profile, run: Desired) -> dict[str, Any]:
    """What of `runtime` the site decides for this run: nodes, ranks, micro-batch, ZeRO stage; and learned remedies."""
    learned = read_json(run_path(run) / REMEDY, {})
    found = shape(run) if profile.fit else None
    batch = _section(run, "train").get("global_batch")
    if found is None or not batch:
        return learned
    tokens = int(_section(run, "pack").get("tokens", 2048))
    checkpointed = bool(run.runtime.get("gradient_checkpointing"))
    return {**fit(profile, int(batch), found, tokens, checkpointed).overlay(), **learned}


def shape(run: Desired) -> Shape | None:
    """Size of the run's backbone, all of it trained or only what `train.trained` names; None where it is not known, as
    of a model whose config.json has other keys than Llama's."""
    name = _section(run, "model").get("backbone")
    if not isinstance(name, str) or not name or name.startswith("parent:"):
        return None
    config = read_json(Path(site_config(run)["runtime"]["models_root"]) / name / "config.json")
    if not config:
        return None
    config = config.get("text_config") or config
    if not {"hidden_size", "num_hidden_layers"} <= set(config):
        return None
    whole = parameters(config)
    trained = whole if "backbone" in _section(run, "train").get("trained", []) else 0.01 * whole
    return Shape(whole, trained, int(config["hidden_size"]), int(config["num_hidden_layers"]),
                 int(config.get("vocab_size", 0)))


def _section(run: Desired, name: str) -> Mapping[str, Any]:
    """A mapping of the run's configuration; empty where a stage has none of that name."""
    found = run.config.get(name)
    return found if isinstance(found, Mapping) else {}


def parameters(config: Mapping[str, Any]) -> float:
    """Parameters of a Llama-like model by its config.json: attention, gated feed-forward, norms, embeddings."""
    hidden, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
    heads = int(config.get("num_attention_heads", 1))
    share = int(config.get("num_key_value_heads") or heads) / heads
    middle = int(config.get("intermediate_size") or 4 * hidden)
    layer = hidden * hidden * (2 + 2 * share) + 3 * hidden * middle + 2 * hidden
    tables = 1 if config.get("tie_word_embeddings") else 2
    return layers * layer + tables * int(config.get("vocab_size", 0)) * hidden + hidden
