"""Finetune runs of a tiny model on a toy data set: their directories, and `train`, which executes one on this rank and
writes down which samples every step was given."""
import contextlib
import json
import os
import signal
import time
from pathlib import Path

import toydata
from small import vision_folder

from core import train as stages
from core.checkpoint import latest
from core.errors import Stopped
from core.run import Run

STEPS = 12


def site(root: Path) -> Path:
    """Data and the two parents, shared by all runs below `root`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    toydata.toy(root / "data", images=120, texts=60)
    words = toydata.tokenizer()
    torch.manual_seed(0)
    backbone = directory(root, "backbone", "b", {}, {}) / "model"
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                 num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
                                 tie_word_embeddings=True)).save_pretrained(backbone)
    words.save_pretrained(backbone)
    vision_folder(directory(root, "encoder", "e", {}, {}) / "model")
    return root


def directory(root: Path, stage: str, name: str, parents: dict, config: dict) -> Path:
    path = root / "runs" / "study" / stage / name
    path.mkdir(parents=True)
    spec = {"id": name, "name": name, "study": "study", "stage": stage, "function": f"core.train:{stage}", "axes": {},
            "parents": parents}
    (path / "spec.json").write_text(json.dumps(spec))
    (path / "config.yaml").write_text(json.dumps(config))
    return path


def finetune_run(root: Path, name: str, **runtime) -> Path:
    """12 steps of 4 packs: images and texts in two languages."""
    parents = {"encoder": {"stage": "encoder", "id": "e"}, "backbone": {"stage": "backbone", "id": "b"}}
    trained = runtime.pop("trained", ["connector", "backbone"])
    config = {
        "model": {"standardise": True},
        "mixture": {"target_ratio": 0.5, "samples": 120, "sources": [{"data": "toy", "subset": "image"}],
                    "text_only": {"language": "target", "share": 0.2, "sources": [{"data": "toy", "subset": "text"}]}},
        "pack": {"tokens": 120, "max_tokens": 100, "window": 2, "images": 8},
        "train": {"trained": trained, "global_batch": 4, "dtype": runtime.pop("dtype", "float32"),
                  "lr": dict.fromkeys(trained, 3e-3), "weight_decay": 0.1, **runtime.pop("train", {})},
        "runtime": {"data_root": str(root / "data"), "micro_batch": 1, "save_every": 4, "log_every": 1, **runtime}}
    return directory(root, "finetune", name, parents, config)


def change(path: Path, **runtime) -> None:
    """Change the runtime of a run between two attempts."""
    config = json.loads((path / "config.yaml").read_text())
    config["runtime"].update(runtime)
    (path / "config.yaml").write_text(json.dumps(config))


def train(path, stop_at=None, stop_rank=0, spoil=None):
    """Run `finetune` on this rank; ledger-<rank>.jsonl gets the keys of every step as the loop takes it.

    stop_at: rank `stop_rank` is asked to stop once it has taken that step. spoil(step, rank, micro_batches) may change
    what the loop is given, or raise. Returns the result, or "stopped at <step>"."""
    run, rank = Run(path), int(os.environ.get("RANK", "0"))
    taken = {"step": 0}
    plain = stages._batches

    if rank == 0:
        point = latest(run)
        forget_after(path, point.state.step if point else 0)

    def recorded(config, plan, subsets, encoder, world):
        def feed(start):
            for step, micros in enumerate(plain(config, plan, subsets, encoder, world)(start), start + 1):
                taken["step"] = step
                if spoil is not None:
                    spoil(step, rank, micros)
                with open(path / f"ledger-{rank}.jsonl", "a") as ledger:
                    ledger.write(json.dumps([step, [micro.keys for micro in micros]]) + "\n")
                yield micros
        return feed

    stages._batches = recorded
    if stop_at is not None and rank == stop_rank:
        run.stop_requested = lambda: "test" if taken["step"] > stop_at else None
    try:
        return stages.finetune(run)
    except Stopped as stopped:
        return f"stopped at {stopped.step}"


def killed(path, after, victim):
    """The same; a process of its own (no handler that could wait) kills rank `victim` `after` seconds from now."""
    if int(os.environ["RANK"]) == victim:
        own = os.getpid()
        if os.fork() == 0:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(own, signal.SIGKILL)
            os._exit(0)
    return train(path)


def forget_after(path, step) -> None:
    """Cut the ledgers back to a step: what was taken after the checkpoint was never trained on."""
    for file in path.glob("ledger-*.jsonl"):
        kept = [line for line in file.read_text().splitlines() if line.endswith("]") and json.loads(line)[0] <= step]
        file.write_text("".join(line + "\n" for line in kept))


def ledger(path) -> dict[int, list]:
    """step -> sorted keys over all ranks, as last taken."""
    found: dict[int, dict[str, list]] = {}
    for file in sorted(path.glob("ledger-*.jsonl")):
        for line in file.read_text().splitlines():
            step, keys = json.loads(line)
            found.setdefault(step, {})[file.name] = [key for micro in keys for key in micro]
    return {step: sorted(key for keys in ranks.values() for key in keys) for step, ranks in found.items()}


def curve(path) -> list[dict]:
    """The records of metrics.jsonl without what depends on the clock."""
    clock = ("tokens_per_second", "padded_tokens_per_second", "samples_per_second", "seconds_per_step", "data_wait",
             "memory_gib")
    return [{k: v for k, v in json.loads(line).items() if k not in clock}
            for line in (path / "metrics.jsonl").read_text().splitlines()]


def weights(path) -> dict:
    from core.model import load_run_model

    return load_run_model(path)[0].state_dict()
