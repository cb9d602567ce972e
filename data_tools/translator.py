"""The stage `translator`: a small Marian model, trained on parallel text where no translation model is at hand.

    text-only subsets -> pairs of sentences (data_tools.bitext) -> byte-level BPE -> encoder-decoder -> <run>/model

`<run>/model` is a plain transformers folder, which the engine `marian` loads ("parent:ROLE" in a grid). What is
measured at the end: chrF on held-out sentences and on the human translations of the texts kept apart, each beside a
copy of the source, and how many of the latter pass the quality gates. Translating is `data_tools.translate`'s.
"""
from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from core.config import Engine, TranslateRuntime, TranslatorConfig, structured
from core.errors import Stopped
from core.files import replacing_folder
from core.run import Run
from core.states import newest_state, save_state
from data_tools import engines
from data_tools.bitext import Pair, answers, bitext
from data_tools.quality import Gates

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
POSITIONS = 192           # tokens of a sentence
MEASURED = 500            # pairs that each measurement takes at most
_SORTED_TOGETHER = 4096   # pairs among which those of like length are put into a batch


def translator(run: Run) -> dict[str, Any]:
    """Train, write `<run>/model`, and return the loss and the measurements.

    A run that was stopped goes on at the exact step. Raises UserError for missing data, Stopped when asked to stop."""
    config = structured(TranslatorConfig, run.config)
    torch.set_num_threads(config.runtime.threads)
    started = time.perf_counter()
    languages, root = (config.source_language, config.target_language), config.runtime.data_root
    apart = answers(config.apart, root, languages)
    pairs = bitext(config.sources, root, languages, config.held_out, config.characters, apart)
    training = Training(config, pairs.train)
    if state := newest_state(run):
        training.load_state_dict(state)
    training.train(run)
    run.check_fence()
    training.save(run.path / "model")
    metrics = measure(config, run.path / "model", pairs.held_out, apart)
    return {"steps": training.step, "seconds": time.perf_counter() - started, "loss": training.loss,
            "pairs": {"train": len(pairs.train), "held out": len(pairs.held_out), "apart": len(apart)},
            "parameters": sum(p.numel() for p in training.model.parameters()), "metrics": metrics}


class Training:
    """Everything that a checkpoint holds: model, optimiser, place. The order of batches follows from the seed."""

    def __init__(self, config: TranslatorConfig, pairs: Sequence[Pair]):
        self.config = config
        self.tokenizer = make_tokenizer([text for pair in pairs for text in pair], config.vocabulary)
        sides = [self.tokenizer([pair[side] for pair in pairs])["input_ids"] for side in (0, 1)]
        self.rows = [row for row in zip(*sides, strict=True) if max(map(len, row)) <= POSITIONS]
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = make_model(config, self.tokenizer)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.loss = 0, float("nan")
        self.steps = sum(len(self.batches(epoch)) for epoch in range(config.epochs))

    def batches(self, epoch: int) -> list[list[int]]:
        """Row numbers of every batch of an epoch: like lengths together, at most `batch_tokens` on the longer side."""
        generator = torch.Generator().manual_seed(self.config.seed * 1000 + epoch)
        order = torch.randperm(len(self.rows), generator=generator).tolist()
        result: list[list[int]] = []
        for start in range(0, len(order), _SORTED_TOGETHER):
            together = sorted(order[start:start + _SORTED_TOGETHER], key=self._length)
            batch: list[int] = []
            for row in together:
                if batch and (len(batch) + 1) * self._length(row) > self.config.batch_tokens:
                    result.append(batch)
                    batch = []
                batch.append(row)
            result.append(batch)
        return [result[i] for i in torch.randperm(len(result), generator=generator).tolist()]

    def _length(self, row: int) -> int:
        return max(map(len, self.rows[row]))

    def rest(self) -> Iterator[list[int]]:
        """The batches from `step` on."""
        before = 0
        for epoch in range(self.config.epochs):
            batches = self.batches(epoch)
            yield from batches[max(0, self.step - before):]
            before += len(batches)

    def train(self, run: Run) -> None:
        self.model.train()
        for batch in self.rest():
            if reason := run.stop_requested():
                save_state(run, self.step, self.state_dict())
                raise Stopped(reason, self.step)
            loss = self.train_step(batch)
            self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
            run.heartbeat(self.step, self.steps, loss=self.loss)
            if self.step % self.config.runtime.log_every == 0:
                run.log({"step": self.step, "loss": self.loss, "lr": self.rate()})
            if self.step % self.config.runtime.save_every == 0:
                save_state(run, self.step, self.state_dict())

    def rate(self) -> float:
        """Learning rate of the next step: linear warm-up over a twentieth of the steps, then a cosine to 0."""
        warm = max(1, self.steps // 20)
        if self.step < warm:
            return self.config.lr * (self.step + 1) / warm
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (self.step - warm) / max(1, self.steps - warm)))

    def train_step(self, batch: Sequence[int]) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        pad, start = self.model.config.pad_token_id, self.model.config.decoder_start_token_id
        source, target = (_padded([self.rows[row][side] for row in batch], pad) for side in (0, 1))
        shown = torch.cat([torch.full((len(batch), 1), start), target[:, :-1]], 1)
        with torch.random.fork_rng():                     # dropout follows from the step: a resumed run is the same run
            torch.manual_seed(self.config.seed * 1_000_003 + self.step)
            logits = self.model(input_ids=source, attention_mask=(source != pad).long(),
                                decoder_input_ids=shown, use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=pad, label_smoothing=0.1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def save(self, folder: Path) -> None:
        with replacing_folder(folder) as temporary:
            self.model.eval().save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step,
                "loss": self.loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.loss = state["step"], state["loss"]


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE of both languages that ends every text with </s>: nothing is unknown to it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, UNKNOWN], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    inner.post_processor = processors.TemplateProcessing(single=f"$A {END}",
                                                         special_tokens=[(END, inner.token_to_id(END))])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
                                   model_max_length=POSITIONS)


def make_model(config: TranslatorConfig, tokenizer: Any) -> Any:
    """A Marian model with random weights; embeddings of both languages and the output layer are one matrix.

    Weights start with the deviation hidden^-0.5; transformers' 0.02 is made for widths in the thousands."""
    from transformers import MarianConfig, MarianMTModel

    sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (
        ("layers", config.layers), ("attention_heads", config.heads), ("ffn_dim", 4 * config.hidden))}
    return MarianMTModel(MarianConfig(
        vocab_size=len(tokenizer), d_model=config.hidden, max_position_embeddings=POSITIONS, scale_embedding=True,
        activation_function="relu", dropout=config.dropout, init_std=config.hidden ** -0.5,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id, forced_eos_token_id=None, **sizes))


def measure(config: TranslatorConfig, folder: Path, held_out: Sequence[Pair], apart: Sequence[Pair]
            ) -> list[dict[str, Any]]:
    """chrF of the model and of a copy of the source, against the human translation; the share that passes the gates."""
    from sacrebleu import corpus_chrf

    engine = engines.load(Engine(kind="marian", model=str(folder.absolute())), TranslateRuntime(device="cpu"),
                          config.source_language, config.target_language)
    gates = Gates(config.source_language, config.target_language)
    result = []
    for name, pairs in (("held-out sentences", held_out), ("texts kept apart", apart)):
        chosen = pairs[::max(1, len(pairs) // MEASURED)][:MEASURED]
        if not chosen:
            continue
        sources, references = zip(*chosen, strict=True)
        made = engine.translate(sources)
        said = ["" if isinstance(text, engines.Failure) else text for text in made]
        values = {"chrF": corpus_chrf(said, [references]).score, "chrF of a copy": corpus_chrf(
            sources, [references]).score, "passed": sum(not gates.check(*pair) for pair in zip(
                sources, said, strict=True)) / len(chosen)}
        result += [{"benchmark": name, "metric": metric, "language": config.target_language, "value": value,
                    "n": len(chosen)} for metric, value in values.items()]
    return result


def _padded(rows: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """Token ids (rows, longest)."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
