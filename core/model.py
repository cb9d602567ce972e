"""The model of a run on disk: what training leaves behind, how it is put together again, and the export that needs
neither.

A product holds the trained parts and names the others by source and hash (layout: core.parts). Not here: how two
folders become a model (core.assemble), checkpoints to go on from (core.checkpoint). """
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from core import parts
from core.assemble import DTYPES, Assembled, assemble
from core.config import Model, structured
from core.connector import plain_tensors
from core.errors import UserError
from core.files import replacing_folder, sha256, write_json

CONNECTOR = "model.multi_modal_projector."
TOWER = "model.vision_tower."
LANGUAGE = "model.language_model."
FILE = "connector.safetensors"


def save_product(folder: Path, assembled: Assembled, state: dict[str, torch.Tensor], options: Model,
                 sources: dict[str, parts.Source]) -> None:
    """Write what a run trained into `folder`, complete or not at all. One process calls it.

    state: the parameters of the connector and of every trained part, whole, by their names in `assembled.net`.
    sources: the folders of vision and backbone that the model was built from; a part that was not trained is recorded
    by them."""
    with replacing_folder(folder) as temporary:
        _write_product(temporary, assembled, state, options, sources)


def _write_product(folder: Path, assembled: Assembled, state: dict[str, torch.Tensor], options: Model,
                   sources: dict[str, parts.Source]) -> None:
    net = assembled.net
    tensors = {name.removeprefix(CONNECTOR): value for name, value in state.items() if name.startswith(CONNECTOR)}
    tensors = plain_tensors(net.model.multi_modal_projector.linear_1, tensors)
    parts.save_tensors(folder / FILE, tensors)
    entries: dict[str, Any] = {"connector": {"file": FILE, "sha256": sha256(folder / FILE)}}
    for part, prefix, owner in (("vision", TOWER, net.model.vision_tower), ("backbone", LANGUAGE, assembled.language)):
        own = _own_names(state, part, prefix, owner)
        if own:
            buffers = {name: value for name, value in owner.named_buffers() if name in owner.state_dict()}
            owner.save_pretrained(folder / part, state_dict={**buffers, **own})
            helper = assembled.processor.image_processor if part == "vision" else assembled.processor.tokenizer
            helper.save_pretrained(folder / part)
            entries[part] = {"folder": part, "sha256": parts.weights_hash(folder / part)}
        else:
            entries[part] = {"source": sources[part].link, "sha256": parts.weights_hash(sources[part].folder)}
    net.config.save_pretrained(folder)
    assembled.processor.save_pretrained(folder)
    write_json(folder / "parts.json", {"schema": parts.SCHEMA, "parts": entries, "model": asdict(options),
                                       "dtype": str(net.dtype).removeprefix("torch.")})


def _own_names(state: dict[str, torch.Tensor], part: str, prefix: str, owner: Any) -> dict[str, torch.Tensor]:
    """The tensors of one part under the names of its own class (a causal LM's body may be called otherwise in net)."""
    if part == "vision":
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    body = f"{owner.base_model_prefix}."
    own = {body + name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    head = {name: value for name, value in state.items() if name.startswith("lm_head.")}
    if own and not head:  # tied: one tensor, listed once
        head = {"lm_head.weight": own[f"{body}embed_tokens.weight"]}
    return {**own, **head}


def load_product(run_dir: Path | str, models_root: Path | str | None = None, dtype: str | None = None) -> Assembled:
    """The model that a finished align or finetune run left, every part checked against its hash; on the CPU, eval mode.

    models_root: where pretrained folders lie; by default as the run's configuration says. dtype: "float32" or
    "bfloat16"; by default as trained. Raises UserError if a part is missing or has changed."""
    run_dir = Path(run_dir)
    folder = run_dir / "model"
    manifest = parts.read_manifest(folder)
    entries = manifest["parts"]
    places = {}
    for part in ("vision", "backbone"):
        entry = entries[part]
        places[part] = folder / entry["folder"] if "folder" in entry else \
            parts.resolve(entry["source"], run_dir, models_root or _models_root(run_dir))
        parts.check(places[part], entry["sha256"], part)
    kind = DTYPES[dtype or manifest["dtype"]]
    assembled = assemble(places["vision"], places["backbone"], structured(Model, manifest["model"]), kind,
                         tokenizer=folder)
    tensors, _ = load_connector(run_dir)
    assembled.net.model.multi_modal_projector.load_state_dict({k: v.to(kind) for k, v in tensors.items()})
    return assembled


def load_connector(run_dir: Path) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, torch.Tensor] | None]:
    """The plain tensors of a product's connector, and the (mean, deviation) it was trained with, if any."""
    folder = Path(run_dir) / "model"
    entry = parts.read_manifest(folder)["parts"]["connector"]
    tensors = parts.load_tensors(folder / entry["file"], entry["sha256"])
    mean, deviation = tensors.pop("standardise.mean", None), tensors.pop("standardise.deviation", None)
    return tensors, None if mean is None else (mean, deviation)


def load_run_model(run_dir: Path | str, models_root: Path | str | None = None, dtype: str | None = None
                   ) -> tuple[Any, Any]:
    """(LlavaForConditionalGeneration in eval mode on the CPU, LlavaProcessor) of a run; see load_product."""
    assembled = load_product(run_dir, models_root, dtype)
    return assembled.net, assembled.processor


def export(run_dir: Path | str, out: Path | str, models_root: Path | str | None = None) -> Path:
    """Write a plain transformers folder: AutoModelForImageTextToText and AutoProcessor load it without begira.

    Raises UserError if `out` holds files already."""
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there and not an empty folder: name a new one")
    net, processor = load_run_model(run_dir, models_root)
    with replacing_folder(out) as temporary:
        net.save_pretrained(temporary)
        processor.save_pretrained(temporary)
    return out


def _models_root(run_dir: Path) -> str:
    from core.run import Run

    return Run(run_dir).config.get("runtime", {}).get("models_root", "models")
