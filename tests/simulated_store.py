"""Run directories as a real study leaves them, with known truth: nothing is trained, answers are drawn.

Every number follows from one seed. `Truth` holds what a statistic should find; the layout is that of core.run and the
columns those of core.evaluate's items.parquet."""
from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.evaluate import COLUMNS
from core.files import write_json, write_text

RATIOS = (0.0, 0.05, 0.2, 0.5, 1.0)
BACKBONES = ("llama", "latxa")
TEXT_ONLY = ("none", "english", "target")
STYLES = {"eval-dev": "fluent", "eval-emojione": "emojione", "eval-openmoji": "openmoji"}
TASKS = ("naming", "naming_hard", "category", "keywords")
CONSUMED_TOKENS, SAMPLES = 24, 16000


@dataclass
class Truth:
    """What the drawn answers come from: probabilities of a right answer at each ratio, and shifts of them."""

    target: dict[float, float] = field(default_factory=lambda: {0.0: .26, .05: .34, .2: .46, .5: .52, 1.0: .60})
    base: dict[float, float] = field(default_factory=lambda: {0.0: .62, .05: .61, .2: .60, .5: .55, 1.0: .33})
    unseen: float = 0.25             # share of the gain over ratio 0 that reaches set B
    adapted: float = 0.0             # shift of the second backbone in the target language
    text_target: float = 0.0         # shift by text-only data in the target language
    text_english: float = 0.0        # shift by the English control
    doubled: float = 0.0             # gain in the target language by twice as many samples at an equal ratio
    run: float = 0.01                # standard deviation between runs of one condition
    item: float = 0.25               # standard deviation between items


def simulate(root: Path, study: str = "simulated", ratios=RATIOS, backbones=BACKBONES, text_only=TEXT_ONLY,
             seeds=(0, 1, 2), items: int = 120, styles=tuple(STYLES), tasks=TASKS,
             truth: Truth | None = None, target: str = "eu", seed: int = 0, generate: bool = True,
             samples=(SAMPLES,), ids=None) -> Path:
    """Write a whole study below `root` and return its directory. Several numbers of `samples` make an axis. ids: run
    id by `analysis.stores.place`, for evaluations that stand where a grid's would."""
    truth = truth or Truth()
    folder = Path(root) / study
    rng = np.random.default_rng(seed)
    encoder = _run(folder, "encoder", {}, {}, {"seconds": 181.0, "steps": 2000}, "core.encoder:encoder")
    first = _run(folder, "backbone", {}, {}, {"seconds": 102.0, "steps": 500}, "core.backbone:backbone")
    parts = {"llama": first}
    for name in backbones[1:]:
        parts[name] = _run(folder, "adapt", {}, {"initial": ("backbone", first)}, {"seconds": 83.0, "steps": 400},
                           "core.backbone:backbone")
    table = _table(items, styles, tasks, target, seed, generate)
    difficulty = {key: rng.normal(0, truth.item, items) for key in itertools.product(tasks, styles, ("en", target))}
    for backbone in backbones:
        align = _run(folder, "align", {}, {"encoder": ("encoder", encoder), "backbone": ("backbone", parts[backbone])},
                     {"seconds": 20.0, "steps": 100}, "core.train:align", salt=backbone)
        for ratio, text, number, count in itertools.product(ratios, text_only, seeds, samples):
            axes = {"target_ratio": ratio, "backbone": backbone, "text_only": text, "seed": number,
                    **({"samples": count} if len(samples) > 1 else {})}
            fine = _run(folder, "finetune", axes, {"align": ("align", align)}, _trained(ratio, text, target, count),
                        "core.train:finetune", config={"mixture": {"target_language": target, "base_language": "en",
                                                                   "target_ratio": ratio, "seed": number}})
            run = _run(folder, "evaluate", axes, {"finetune": ("finetune", fine)}, {}, "core.evaluate:evaluate",
                       config={"languages": ["en", target], "tasks": [{"data": f"emoji-{target}", "subset": name}
                                                                      for name in styles],
                               "runtime": {"data_root": "data"}}, ids=ids)
            _evaluated(folder / "evaluate" / run, table, truth, axes, difficulty, target, rng)
    write_json(folder / "study.yaml", {"name": study})
    return folder


def _run(folder: Path, stage: str, axes: dict, parents: dict, result: dict, function: str, config: dict | None = None,
         salt: str = "", ids: dict | None = None) -> str:
    body = json.dumps([stage, axes, parents, salt], sort_keys=True)
    name = (ids or {}).get((stage, frozenset(axes.items())), hashlib.sha256(body.encode()).hexdigest()[:10])
    path = folder / stage / name
    label = "-".join([stage, *(f"{k[0]}{v}" for k, v in axes.items())]) if axes else f"{stage}-{salt}".rstrip("-")
    links = {role: {"stage": s, "id": i} for role, (s, i) in parents.items()}
    write_json(path / "spec.json", {"id": name, "name": label, "study": folder.name, "stage": stage,
                                    "function": function, "axes": axes, "parents": links})
    write_text(path / "config.yaml", json.dumps(config or {}))
    seconds = result.get("seconds", 9.0)
    write_json(path / "attempts" / "0001.json",
               {"attempt": 1, "started": 1.7e9, "ended": 1.7e9 + seconds + 3, "backend": "local", "job": "7",
                "host": "a", "nodes": 1, "world_size": 1, "pid": 9, "first_step": 0,
                "last_step": result.get("steps", 0), "outcome": "done", "reason": None, "error": None})
    write_json(path / "result.json", result)
    (path / "DONE").touch()
    return name


def _trained(ratio: float, text: str, target: str, samples: int) -> dict:
    share = round(samples * ratio)
    consumed = [{"source": "emoji/name", "language": language, "modality": "image", "samples": n,
                 "tokens": n * CONSUMED_TOKENS, "loss_tokens": n * 5, "epochs": n / 3000}
                for language, n in (("en", samples - share), (target, share)) if n]
    if text != "none":
        language = target if text == "target" else "en"
        consumed.append({"source": "emoji/text", "language": language, "modality": "text", "samples": 4000,
                         "tokens": 80000, "loss_tokens": 76000, "epochs": 1.0})
    return {"steps": 400, "seconds": 49.0, "loss": 1.5, "tokens_per_second": 9000.0, "fingerprint": "f" * 16,
            "consumed": consumed, "realised_ratio": {"sample": share / samples, "token": min(1.0, ratio * 1.01),
                                                     "loss_token": min(1.0, ratio * 1.02)}}


def _table(items: int, styles, tasks, target: str, seed: int, generate: bool) -> list[dict]:
    """What all models are asked: one block of columns per task, style and language."""
    rng = np.random.default_rng(seed + 1)
    unseen, likeness = rng.random(items) < 0.2, rng.random(items) * 55
    names = {"en": [f"thing {i}" for i in range(items)], target: [f"gauza {i}" for i in range(items)]}
    blocks = []
    tasks = [*tasks, *(["describe"] if generate else [])]
    for task, subset, language in itertools.product(tasks, styles, ("en", target)):
        style = STYLES.get(subset, subset)
        blocks.append({"task": task, "subset": subset, "style": style, "language": language, "unseen": unseen,
                       "likeness": likeness, "concept": [f"c{i}" for i in range(items)],
                       "item": [f"{style}/c{i}/{task}" for i in range(items)],
                       "options": [[names[language][(i + k) % items] for k in range(4)] for i in range(items)],
                       "answer": rng.integers(0, 4, items).tolist()})
    return blocks


def probability(truth: Truth, axes: dict, language: str, unseen: np.ndarray) -> np.ndarray:
    """Chance of a right answer of an item of mean difficulty, (items,)."""
    if language == "en":
        return np.full(len(unseen), truth.base[axes["target_ratio"]])
    zero, seen = truth.target[min(truth.target)], truth.target[axes["target_ratio"]]
    shift = truth.adapted * (axes["backbone"] == "latxa")
    shift += truth.doubled * np.log2(axes.get("samples", SAMPLES) / SAMPLES)
    shift += truth.text_target * (axes["text_only"] == "target") + truth.text_english * (axes["text_only"] == "english")
    return np.where(unseen, zero + truth.unseen * (seen - zero), seen) + shift


def _evaluated(path: Path, blocks: list[dict], truth: Truth, axes: dict, difficulty: dict, target: str, rng) -> None:
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    metrics = []
    run_shift = {language: rng.normal(0, truth.run) for language in ("en", target)}
    for block in blocks:
        language, task = block["language"], block["task"]
        chance = probability(truth, axes, language, block["unseen"]) + run_shift[language]
        chance = np.clip(chance + difficulty.get((task, block["subset"], language), 0), 0.02, 0.98)
        right = rng.random(len(chance)) < chance
        _fill(columns, block, right, rng)
        metrics += _metrics(block, right)
    kinds = {"string": pa.string(), "bool": pa.bool_(), "int32": pa.int32(), "double": pa.float64()}
    types = {name: pa.list_(kinds[of[5:-1]]) if of.startswith("list<") else kinds[of] for name, of in COLUMNS.items()}
    table = pa.table({name: pa.array(columns[name], types[name]) for name in COLUMNS})
    pq.write_table(table, path / "items.parquet", compression="zstd")
    write_json(path / "result.json", {"metrics": metrics, "seconds": 7.5})


def _fill(columns: dict[str, list], block: dict, right: np.ndarray, rng) -> None:
    n = len(right)
    answer = np.asarray(block["answer"])
    predicted = np.where(right, answer, (answer + rng.integers(1, 4, n)) % 4)
    scores = rng.normal(-8, 1, (n, 4))
    scores[np.arange(n), predicted] = -3
    choice = block["task"] != "describe"
    constant = {"subset": block["subset"], "task": block["task"], "kind": "choice" if choice else "generate",
                "language": block["language"], "style": block["style"], "category": "objects",
                "prompt": "What is this?\n<image>", "language_detected": block["language"], "status": "ok",
                "error": "", "exact": False, "chrf": 0.0, "correct_uncalibrated": False}
    for name, value in constant.items():
        columns[name] += [value] * n
    columns["item"] += block["item"]
    columns["concept"] += block["concept"]
    columns["set"] += np.where(block["unseen"], "B", "A").tolist()
    columns["likeness"] += block["likeness"].tolist()
    columns["options"] += block["options"]
    columns["references"] += [[options[k]] for options, k in zip(block["options"], answer, strict=True)]
    columns["answer"] += answer.tolist()
    columns["scores"] += scores.tolist()
    columns["scores_blank"] += rng.normal(-6, 1, (n, 4)).tolist()
    columns["tokens"] += [[2, 3, 2, 3]] * n
    columns["prediction"] += [options[k] for options, k in zip(block["options"], predicted, strict=True)]
    columns["predicted"] += predicted.tolist()
    columns["correct"] += right.tolist()
    columns["score"] += right.astype(float).tolist()
    if not choice:
        columns["exact"][-n:] = right.tolist()
        columns["chrf"][-n:] = np.where(right, 100.0, 20.0).tolist()


def _metrics(block: dict, right: np.ndarray) -> list[dict]:
    rows = []
    slices = {"all": np.ones(len(right), bool), "A": ~block["unseen"], "B": block["unseen"],
              "no cognates": block["likeness"] < 50, "unlike": block["likeness"] < 20}
    for metric, scale in (("accuracy", 1.0),) if block["task"] != "describe" else (("exact", 1.0), ("chrf", 100.0)):
        rows += [{"benchmark": block["task"], "subset": block["subset"], "language": block["language"],
                  "metric": metric, "slice": name, "value": float(right[mask].mean() * scale), "n": int(mask.sum())}
                 for name, mask in slices.items() if mask.any()]
    return rows
