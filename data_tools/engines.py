"""Translation engines: a list of texts in, as many translations or failures out, in the same order.

marian: any seq2seq folder that transformers loads, e.g. HiTZ/mt-hitz-en-eu; sentences, batched by length.
llm: an OpenAI-compatible endpoint, e.g. vLLM; whole texts, several requests at a time, repeated while it is busy.
apertium: a rule-based pair that is installed, e.g. Debian's apertium-eu-en; to translate back with.
dictionary: word by word from a JSON file, for tests. What is sent and what is kept is `data_tools.translate`'s.
"""
from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from core.chat import Chat, Failure
from core.config import Engine, TranslateRuntime
from core.errors import UserError


def load(engine: Engine, runtime: TranslateRuntime, source: str, target: str) -> Any:
    """The engine: an object with `translate(texts)`, `sentences` (wants single sentences) and `label`."""
    kinds = {"marian": Marian, "llm": Endpoint, "apertium": Apertium, "dictionary": Dictionary}
    if engine.kind not in kinds:
        raise UserError(f"unknown translation engine '{engine.kind}': choose one of {', '.join(kinds)}")
    return kinds[engine.kind](engine, runtime, source, target)


class Dictionary:
    """Words from a JSON object, others unchanged; upper-case initials are kept."""

    sentences = True

    def __init__(self, engine: Engine, runtime: TranslateRuntime, source: str, target: str):
        path = Path(engine.model) if Path(engine.model).is_absolute() else Path(runtime.models_root) / engine.model
        try:
            self.words = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"dictionary {path} cannot be read ({error}): give a JSON object of words") from error
        self.label = f"dictionary:{engine.model}"

    def translate(self, texts: Sequence[str]) -> list[str]:
        return [re.sub(r"[^\W\d_]+", self._word, text) for text in texts]

    def _word(self, match: re.Match[str]) -> str:
        word = self.words.get(match[0].lower(), match[0])
        return word[:1].upper() + word[1:] if match[0][:1].isupper() else word


class Apertium:
    """The program `apertium` with the pair that `model` names. Words that it does not know stay as they are."""

    sentences = False

    def __init__(self, engine: Engine, runtime: TranslateRuntime, source: str, target: str):
        self.pair, self.label = engine.model or f"{source}-{target}", f"apertium:{engine.model}"
        program = shutil.which("apertium")
        known = subprocess.run([program, "-l"], capture_output=True, text=True).stdout.split() if program else []
        if self.pair not in known:
            raise UserError(f"engine apertium: no pair {self.pair} is installed ({', '.join(known) or 'none'}): "
                            "install it, e.g. Debian's apertium-eu-en")

    def translate(self, texts: Sequence[str]) -> list[str]:
        """All texts in one call of the program, a line each: line breaks inside a text become spaces."""
        lines = "".join(" ".join(text.split()) + "\n" for text in texts)
        made = subprocess.run(["apertium", "-u", self.pair], input=lines, capture_output=True, text=True)
        said = made.stdout.splitlines()
        if made.returncode or len(said) != len(texts):
            why = f"apertium gave {len(said)} lines for {len(texts)}: {made.stderr.strip()[:100]}"
            return [Failure(why)] * len(texts)
        return said


class Marian:
    """A local encoder-decoder; greedy or beam search, bfloat16 on a GPU."""

    sentences = True

    def __init__(self, engine: Engine, runtime: TranslateRuntime, source: str, target: str):
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        folder = Path(engine.model) if Path(engine.model).is_absolute() else Path(runtime.models_root) / engine.model
        if not (folder / "config.json").exists():
            raise UserError(f"engine marian: no model in {folder}: put a seq2seq folder there, e.g. mt-hitz-en-eu's")
        self.torch, self.engine, self.label = torch, engine, f"marian:{_named(engine.model)}"
        cuda = runtime.device == "cuda" or (runtime.device == "auto" and torch.cuda.is_available())
        self.device = "cuda" if cuda else "cpu"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        except ImportError as error:
            if "sentencepiece" not in str(error).lower():
                raise
            raise UserError(f"engine marian: the tokenizer in {folder} needs sentencepiece: `pip install "
                            "begira[translate]` brings it") from None
        self.model = AutoModelForSeq2SeqLM.from_pretrained(
            str(folder), dtype=torch.bfloat16 if cuda else torch.float32).to(self.device).eval()

    def translate(self, texts: Sequence[str]) -> list[str]:
        """Batches hold texts of like length, at most `batch_tokens` tokens with padding; the order does not matter."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self._longest())["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: (len(encoded[i]), texts[i]))
        results: list[str] = [""] * len(texts)
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) + 1) * len(encoded[i]) > self.engine.batch_tokens:
                self._run(batch, encoded, results)
                batch = []
            batch.append(i)
        if batch:
            self._run(batch, encoded, results)
        return results

    def _longest(self) -> int:
        return min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None) or 512)

    def _run(self, batch: list[int], encoded: list[list[int]], results: list[str]) -> None:
        inputs = self.tokenizer.pad({"input_ids": [encoded[i] for i in batch]}, return_tensors="pt").to(self.device)
        limit = min(self._longest(), 3 * max(len(encoded[i]) for i in batch) + 10)
        with self.torch.inference_mode():
            made = self.model.generate(**inputs, num_beams=self.engine.beams, do_sample=False, max_length=None,
                                       max_new_tokens=limit)
        ends = {self.model.generation_config.eos_token_id} if isinstance(
            self.model.generation_config.eos_token_id, int) else set(self.model.generation_config.eos_token_id or ())
        for i, row in zip(batch, made.tolist(), strict=True):
            finished = bool(ends & set(row[1:]))
            text = self.tokenizer.decode(row, skip_special_tokens=True).strip()
            results[i] = text if finished else Failure("the model did not come to an end")


def _named(model: str) -> str:
    """What translations say they are by: the model as configured; of a run's product stage and id, not this machine's
    path."""
    path = Path(model)
    return "/".join(path.parts[-3:-1]) if path.is_absolute() and path.name == "model" else model


class Endpoint:
    """Chat completions of an OpenAI-compatible server, with the prompt of a versioned file."""

    sentences = False

    def __init__(self, engine: Engine, runtime: TranslateRuntime, source: str, target: str):
        if not runtime.endpoint:
            raise UserError("engine llm: set runtime.endpoint to the server's address, up to and with /v1")
        self.engine, self.runtime, self.label = engine, runtime, f"llm:{engine.model}:{engine.prompt}"
        self.chat = Chat(runtime.endpoint, runtime.timeout, runtime.tries)
        prompt = load_prompt(engine.prompt)
        names = {code: prompt["languages"].get(code, code) for code in (source, target)}
        system = prompt["system"].format(source=names[source], target=names[target])
        self.head = [{"role": "system", "content": system}]
        for example in prompt.get("examples", {}).get(target, ()) if source == "en" else ():
            self.head += [{"role": "user", "content": example[0]}, {"role": "assistant", "content": example[1]}]

    def translate(self, texts: Sequence[str]) -> list[str]:
        """Raises UserError if the server cannot be reached at all; a text that fails on its own is a Failure."""
        with ThreadPoolExecutor(max(1, self.runtime.requests)) as pool:
            return list(pool.map(self._one, texts))

    def _one(self, text: str) -> str:
        body = {"model": self.engine.model, "temperature": self.engine.temperature, "seed": 0,
                "max_tokens": 64 + len(text), "messages": [*self.head, {"role": "user", "content": text}]}
        answer = self.chat.ask(body)
        return answer if isinstance(answer, Failure) else answer.text


def load_prompt(name: str) -> dict[str, Any]:
    import yaml

    folder = Path(__file__).with_name("engines_prompts")
    if not (folder / f"{name}.yaml").exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise UserError(f"engine llm: no prompt '{name}': there is {known}")
    return yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
