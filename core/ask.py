"""Ask a trained model one question about one image: what `begira ask` prints.

Everything goes through the model's own processor, so the folder that `begira export` writes gives the same answer with
transformers alone. Not here: asking many (core.evaluate).
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

from core.encode import DATE, IMAGE
from core.errors import UserError
from core.pixels import open_image


def ask(run_dir: Path | str, image_path: Path | str, question: str, max_new_tokens: int = 64) -> str:
    """The greedy answer of a finished align or finetune run. Raises UserError for a missing run or a bad image."""
    from core.model import load_run_model

    if not question.strip():
        raise UserError("the question is empty: ask something, in quotes")
    if question.count(IMAGE) > 1:
        raise UserError(f"the question holds {question.count(IMAGE)} {IMAGE}: there is one image, leave them out")
    image = read(image_path)
    net, processor = load_run_model(run_dir)
    return answer(net, processor, image, question, max_new_tokens)


def answer(net: Any, processor: Any, image: Any, question: str, max_new_tokens: int = 64) -> str:
    """The greedy answer of `net`. The image stands behind the question, as in training, unless `question` places it."""
    import torch

    text = question if IMAGE in question else f"{question}\n{IMAGE}"
    prompt = processor.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True,
                                           date_string=DATE)
    inputs = processor(images=image, text=prompt, add_special_tokens=False, return_tensors="pt").to(net.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(net.dtype)
    with torch.inference_mode():
        ids = net.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False,
                           pad_token_id=processor.tokenizer.pad_token_id)
    return processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip()


def read(path: Path | str) -> Any:
    """The RGB image in a file. Raises UserError."""
    try:
        return open_image(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"no image {path}: name a PNG, JPEG or WebP file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}): name a PNG, JPEG or WebP file") from error
