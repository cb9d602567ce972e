"""A tiny LLaVA that sees: it learnt in seconds to name the colour of an image in two languages. With evaluation items
to ask it, and a blind twin whose connector gives the same for every image."""
import io
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
import toydata
from PIL import Image

from core import parts
from core.assemble import assemble
from core.config import Model, resolve
from core.encode import Encoder
from core.files import write_json, write_text
from core.forward import PackedModel
from core.model import save_product
from core.pixels import open_image
from core.run import Run
from core.stream import Document, collate
from data_tools.dataset import Sample, building

COLOURS = {"red": ("gorri", (220, 30, 30)), "green": ("berde", (30, 200, 30)), "blue": ("urdin", (30, 30, 220)),
           "small": ("txiki", (128, 128, 128))}
OPTIONS = Model(vision="tiny/vision", backbone="tiny/backbone", vision_layer=-1)


def picture(name, shade=0):
    colour = np.clip(np.array(COLOURS[name][1]) + shade, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(np.tile(colour, (16, 16, 1))).save(stream, "PNG")
    return stream.getvalue()


def turns(name):
    return {language: [{"role": "user", "content": f"{toydata.QUESTIONS[language]}\n<image>"},
                       {"role": "assistant", "content": answer}]
            for language, answer in (("en", name), ("eu", COLOURS[name][0]))}


def parts_in(models):
    """Folders tiny/vision and tiny/backbone with fixed random weights."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    tokenizer = toydata.tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = CLIPVisionModel(CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                                 image_size=16, num_attention_heads=2, patch_size=8))
        language = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
            bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id))
    side = {"height": 16, "width": 16}
    tower.save_pretrained(models / "tiny/vision")
    CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(models / "tiny/vision")
    language.save_pretrained(models / "tiny/backbone")
    tokenizer.save_pretrained(models / "tiny/backbone")
    return models


@cache
def trained_state():
    """Weights of connector and language model after a hundred steps on the four colours, by their names in the net."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        assembled = build(parts_in(Path(folder)))
    model = PackedModel(assembled.net)
    encoder = Encoder(assembled.processor.tokenizer, assembled.processor.image_processor, assembled.image_tokens)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("vision_tower" not in name and "linear_2" not in name)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3)
    documents = [Document(encoder.encode({"id": name, "turns": turns(name)}, language, picture(name)), 0, name)
                 for name in COLOURS for language in ("en", "eu")]
    batch = collate([documents], encoder.pad_id)
    model.train()
    for _ in range(100):
        loss, _ = model(batch.input_ids, batch.position_ids, batch.labels, batch.pixels)
        optimizer.zero_grad()
        (loss / batch.loss_tokens).backward()
        optimizer.step()
    return {name: p.detach().clone() for name, p in assembled.net.named_parameters() if p.requires_grad}


def build(models):
    return assemble(models / "tiny/vision", models / "tiny/backbone", OPTIONS)


def finetuned(root, blind=False):
    """A finished finetune run below `root`/runs with its parts below `root`/models; returns the Run."""
    models = root / "models"
    if not models.exists():
        parts_in(models)
    assembled = build(models)
    state = dict(trained_state())
    if blind:
        state["model.multi_modal_projector.linear_1.weight"] = torch.zeros_like(
            state["model.multi_modal_projector.linear_1.weight"])
    assembled.net.load_state_dict(state, strict=False)
    connector = {name: value for name, value in assembled.net.state_dict().items() if "multi_modal_projector" in name}
    run = directory(root, "finetune", "blind" if blind else "seeing", "core.train:finetune",
                    {"model": asdict(OPTIONS), "runtime": {"models_root": str(models)}}, {})
    sources = {part: parts.Source(models / f"tiny/{part}", {"model": f"tiny/{part}"})
               for part in ("vision", "backbone")}
    save_product(run.path / "model", assembled, {**connector, **state}, OPTIONS, sources)
    return run


def evaluation(root, name, finetune, data, **changes):
    """A run of stage evaluate that asks everything in `data`/toy/eval."""
    values = {"tasks": [{"data": "toy", "subset": "eval"}], "unit": 4, "max_new_tokens": 6,
              "runtime": {"data_root": str(data), "models_root": str(root / "models")}, **changes}
    return directory(root, "evaluate", name, "core.evaluate:evaluate", values,
                     {"finetune": {"stage": "finetune", "id": finetune.path.name}})


def directory(root, stage, name, function, values, parents):
    folder = root / "runs" / "study" / stage / name
    write_json(folder / "spec.json", {"id": name, "name": name, "study": "study", "stage": stage, "function": function,
                                      "axes": {}, "parents": parents})
    write_text(folder / "config.yaml", json.dumps(resolve(function, values)))
    return Run(folder)


def items(broken=()):
    """Two shades of each colour, asked as a choice of four and freely; `broken` are names whose image is no image."""
    names = list(COLOURS)
    samples = []
    for number, name in enumerate(names):
        for shade in (0, 10):
            for kind in ("choice", "generate"):
                options = names[number:] + names[:number]
                record = {
                    "id": f"{kind}/{name}/{shade}", "source": "test", "license": "CC0", "kind": kind,
                    "task": {"choice": "naming", "generate": "describe"}[kind],
                    "prompt": {k: f"{q}\n<image>" for k, q in toydata.QUESTIONS.items()},
                    "options": {"en": options, "eu": [COLOURS[o][0] for o in options]},
                    "references": {"en": [name], "eu": [COLOURS[name][0]]}, "answer": 0,
                    "meta": {"concept": name, "set": "B" if name == "small" else "A", "style": f"shade{shade}",
                             "category": "colour", "likeness": 60.0 if name == "blue" else 0.0}}
                if kind == "choice":
                    order = [1, 2, 0, 3] if shade else [2, 0, 3, 1]
                    record["options"] = {k: [o[i] for i in order] for k, o in record["options"].items()}
                    record["answer"] = order.index(0)
                image = b"no image" if name in broken else picture(name, shade)
                samples.append(Sample(record, image))
    return samples


def write_items(root, broken=(), samples=None):
    with building(root / "toy", "toy", ["en", "eu"]) as writer:
        writer.subset("eval", "evaluation", items(broken) if samples is None else samples)
        writer.finish([])
    return root


def colour_pixels(encoder, name):
    return encoder.pixels(open_image(picture(name)))
