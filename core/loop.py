"""The one training loop: every step of a plan, from the newest checkpoint, with all ranks agreed on what happens next.

    agree -> (stop: save, leave) -> forward and backward per micro-batch -> norms -> update or discard -> record -> save

Two small sums over ranks a step carry all agreement: before the first backward pass the number of supervised tokens,
stop requests, broken data and failures of any rank; after it the losses and the norms. So no rank divides by another
count, stops alone, or applies an update that another skips. Used for LLaVA models and for plain causal LMs. """
from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from core import checkpoint, monitor
from core.card import card, count, flops_per_token
from core.config import Runtime, Train
from core.distributed import World
from core.engine import Engine, effective_stage
from core.errors import Stopped, UserError
from core.files import append_line
from core.forward import PackedModel
from core.mixture import Plan, check_world
from core.run import SPENT, Run
from core.stream import Damage, Packed
from core.validation import Validator

Batches = Callable[[int], Iterable[list[Packed]]]


def fit(run: Run, world: World, model: PackedModel, plan: Plan, batches: Batches, train: Train, runtime: Runtime,
        validator: Validator | None = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train what of `model` requires a gradient, over the whole plan; go on from the newest checkpoint if there is one.

    batches(k) iterates over the micro-batches of this rank for steps k, k+1, ... of the plan (core.stream.Loader).
    validator: looks at other items at its own intervals.
    Every rank calls it, inside core.distributed.joined. Returns the content of result.json and, on the first rank,
    the tensors of the trained parts by their names in `model` (Engine.state). Raises Stopped after saving when a rank
    was asked to stop; UserError if the configuration does not fit the world or the checkpoint, or the data is broken;
    FloatingPointError if too many steps were not finite."""
    loop = Loop(run, world, model, plan, train, runtime, validator)
    try:
        loop.resume()
        loop.steps(batches)
        return loop.result(), loop.engine.state()
    finally:
        loop.close()


class Loop:
    """The state of `fit` between steps; `fit` is what stages call."""

    def __init__(self, run: Run, world: World, model: PackedModel, plan: Plan, train: Train, runtime: Runtime,
                 validator: Validator | None = None):
        self.run, self.world, self.plan, self.train, self.runtime = run, world, plan, train, runtime
        self.validator = validator
        check_world(train.global_batch, world.size, runtime.micro_batch)
        self.point = world.share(checkpoint.latest(run) if world.first else None)
        self._check_plan()
        counts = count(model)
        config = model.language.config
        total = consumed(plan, plan.steps)
        flops = flops_per_token(counts["backbone"], config.num_hidden_layers, config.hidden_size,
                                sum(row["tokens"] for row in total) / max(sum(row["samples"] for row in total), 1),
                                0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size)
        self.monitor = monitor.Monitor(run, plan.steps, runtime.log_every, world.first, flops, world.size)
        if self.point is None:
            self.monitor.card(card(counts, plan.steps, plan.tokens_per_step, train.dtype, world.size,
                                   effective_stage(runtime.zero_stage, train.dtype), train.global_batch,
                                   runtime.micro_batch, flops, self.monitor.peak))
        model = model.train().to(world.device)
        universal = self.point is not None and self.point.needs_universal(world.size)
        self.engine = Engine(model, train, world, runtime.zero_stage, runtime.micro_batch, universal)
        self.damage, self.agreed_damage = Damage(), (0, 0, 0)
        self.start, self.skipped, self.elapsed, self.begun = 0, 0, 0.0, time.monotonic()
        self.spent = dict.fromkeys(SPENT, 0.0)
        self.names = [stream.name for stream in plan.streams]

    def resume(self) -> None:
        extra: dict[str, Any] = {}
        if self.point is not None:
            checkpoint.load(self.point, self.engine, self.world)
            self.start, extra = self.point.state.step, dict(self.point.state.extra)
            self.skipped, self.elapsed = extra.pop("skipped"), extra.pop("elapsed")
            self.spent.update(extra.pop("spent", {}))
            self.agreed_damage = tuple(extra.pop("damage"))
            if self.world.first:  # the sums over ranks go on from one rank's account
                self.damage.restore(*self.agreed_damage)
        self.monitor.resume(self.start, extra.get("monitor", {}))
        self.run.heartbeat(self.start, self.plan.steps, force=True) if self.world.first else None
        self.begun = time.monotonic()

    def steps(self, batches: Batches) -> None:
        feed = iter(batches(self.start))
        for step in range(self.start + 1, self.plan.steps + 1):
            micros, waited, failure = _next(feed)
            self._spend("data", waited)
            tokens = self._agree(step, micros, failure)
            losses, norms = self._accumulate(step, micros, tokens)
            rates = self._apply(step, micros, losses, norms)
            work = {"tokens": losses.pop("work/tokens")[0], "padded": losses.pop("work/padded")[0],
                    "samples": losses.pop("work/samples")[0]}
            values = {**self._values(step, norms, rates), **self._validate(step)}
            self.monitor.step(step, losses, values, work, waited)
            if step % self.runtime.save_every == 0 and step < self.plan.steps:
                self.save(step)

    def save(self, step: int) -> None:
        begun = time.monotonic()
        extra = {"monitor": self.monitor.state(), "skipped": self.skipped, "damage": self.agreed_damage,
                 "spent": self._spent(), "elapsed": self.elapsed + time.monotonic() - self.begun}
        state = checkpoint.State(step, self.plan.fingerprint, self.plan.describe(), consumed=consumed(self.plan, step),
                                 extra=extra)
        if self.world.first:  # a phase of its own: saving is no hang
            self.run.heartbeat(step, self.plan.steps, "save", force=True)
        checkpoint.save(self.run, self.engine, self.world, state, self.runtime.keep_checkpoints)
        self._spend("checkpoints", time.monotonic() - begun)
        self.monitor.event(step, checkpoint_seconds=round(time.monotonic() - begun, 3))

    def result(self) -> dict[str, Any]:
        seconds = self.elapsed + time.monotonic() - self.begun
        total = consumed(self.plan, self.plan.steps)
        return {"steps": self.plan.steps, "seconds": round(seconds, 2), "consumed": total,
                "spent": {name: round(value, 2) for name, value in self._spent().items()},
                "realised_ratio": self.plan.realised(self.plan.steps), "loss": self.monitor.loss,
                "tokens_per_second": round(sum(row["tokens"] for row in total) / max(seconds, 1e-9), 1),
                "fingerprint": self.plan.fingerprint, "skipped_steps": self.skipped,
                "corrupt_samples": self.agreed_damage[1]}

    def close(self) -> None:
        self.monitor.close()
        self.engine.destroy()

    def _agree(self, step: int, micros: Sequence[Packed], failure: Exception | None) -> float:
        """Supervised tokens of this step over all ranks; or the end, on every rank alike."""
        reason = self.run.stop_requested()
        lines = self.damage.add(micros)
        if lines:
            append_line(self.run.path / "corrupt.log", "\n".join(f"step {step}: {line}" for line in lines))
        samples, corrupt, longest = self.damage.counts()
        longest_by_rank = [0] * self.world.size
        longest_by_rank[self.world.rank] = longest
        tokens, stops, failures, samples, corrupt, *runs = self.world.sum(
            [sum(m.loss_tokens for m in micros), reason is not None, failure is not None, samples, corrupt,
             *longest_by_rank])
        finished, self.agreed_damage = self.agreed_damage, (int(samples), int(corrupt), int(max(runs)))
        if failures:
            raise failure or RuntimeError(f"{int(failures)} other rank(s) failed to load step {step}: see their logs")
        verdict = self.damage.verdict(*self.agreed_damage)
        if verdict:
            raise UserError(f"{verdict} at step {step}: {self.run.path / 'corrupt.log'} names them; run "
                            "`begira data check` on the data set")
        if stops:
            if step - 1 > self.start:
                self.agreed_damage = finished  # the samples of this step are read again
                self.save(step - 1)
            raise Stopped(reason or "another rank was asked to stop", step - 1)
        return tokens

    def _accumulate(self, step: int, micros: Sequence[Packed], tokens: float
                    ) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Forward and backward over the micro-batches: summed losses (see _named) and gradient norms by part."""
        device = self.world.device
        nats = torch.zeros(len(self.names), dtype=torch.float64, device=device)
        counts = torch.zeros_like(nats)
        torch.manual_seed(hash((self.train.seed, step, self.world.rank)) % 2 ** 63)  # for models with dropout
        for packed in micros:
            loss, by_token = self.engine.forward(*(_to(value, device) for value in (
                packed.input_ids, packed.position_ids, packed.labels, packed.pixels)))
            self.engine.backward(loss, tokens)
            streams = packed.streams.to(device)
            nats.index_add_(0, streams, by_token.double())
            counts.index_add_(0, streams, torch.ones_like(by_token, dtype=torch.float64))
        work = torch.tensor([float(sum(m.tokens for m in micros)),
                             float(sum(m.input_ids.numel() for m in micros)),
                             float(sum(m.samples for m in micros))], dtype=torch.float64, device=device)
        sums = self.world.sum_tensor(torch.cat([nats, counts, work])).tolist()
        return _named(self.names, sums), self.engine.norms()

    def _apply(self, step: int, micros: Sequence[Packed], losses: dict[str, list[float]], norms: dict[str, float]
               ) -> dict[str, float]:
        """Update, or discard a step that is not finite; the learning rates by part."""
        norm = math.sqrt(sum(value * value for value in norms.values()))
        factor = schedule(step - 1, self.plan.steps, self.train)
        rates = {part: getattr(self.train.lr, part) * factor for part in norms}
        if math.isfinite(norm) and math.isfinite(losses["all"][0]):
            self.engine.update(rates, norm)
            return rates
        self.engine.discard()
        self.skipped += 1
        keys = [key for packed in micros for key in packed.keys]
        append_line(self.run.path / "skipped.jsonl", json.dumps({"step": step, "rank": self.world.rank, "keys": keys}))
        self.monitor.event(step, skipped="the loss or the gradient is not finite", total=self.skipped)
        if self.skipped > self.train.skip_bad_steps:
            raise FloatingPointError(f"{self.skipped} steps were not finite, the last is step {step}; skipped.jsonl "
                                     "names their samples: lower train.lr or mend the data")
        for pair in losses.values():
            pair[:] = 0.0, 0.0
        return rates

    def _values(self, step: int, norms: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
        if step % self.runtime.log_every and step != self.plan.steps:
            return {}
        norm = math.sqrt(sum(value * value for value in norms.values()))
        values = {"lr": max(rates.values()), "grad_norm": norm, "skipped_steps": self.skipped}
        values.update({f"lr/{part}": rate for part, rate in rates.items()})
        values.update({f"grad_norm/{part}": value for part, value in norms.items()})
        values.update({f"realised_ratio/{unit}": share for unit, share in self.plan.realised(step).items()})
        return values

    def _validate(self, step: int) -> dict[str, float]:
        if self.validator is None or (step % self.validator.settings.every and step != self.plan.steps):
            return {}
        if self.world.first:
            self.run.heartbeat(step, self.plan.steps, "evaluate", force=True)
        begun = time.monotonic()
        found, samples = self.validator.losses(self.engine), self.validator.samples(self.engine)
        self.monitor.samples(step, samples)
        self._spend("validation", time.monotonic() - begun)
        self.monitor.pause(time.monotonic() - begun)
        return found

    def _spend(self, what: str, seconds: float) -> None:
        self.spent[what] += seconds * self.world.size

    def _spent(self) -> dict[str, float]:
        """With the time since this attempt began, whatever number of ranks the ones before it had."""
        return {**self.spent, "all": self.spent["all"] + (time.monotonic() - self.begun) * self.world.size}

    def _check_plan(self) -> None:
        fingerprint = self.plan.fingerprint
        if self.world.sum([self.world.share(fingerprint) != fingerprint])[0]:  # one node may see other bytes
            raise UserError("the ranks found different data: `begira data check` on each node says what is broken")
        if self.point is not None and self.point.state.fingerprint != self.plan.fingerprint:
            changes = "; ".join(self.plan.difference(self.point.state.plan)[:5])
            raise UserError(f"{self.point.folder} belongs to another plan ({changes}): restore data and configuration, "
                            "or remove the run's checkpoints to start over")


def schedule(done: int, steps: int, train: Train) -> float:
    """Factor on the learning rate of the step after `done` finished ones: linear warm-up, then cosine to zero or
    constant."""
    warmup = round(train.warmup * steps)
    if done < warmup:
        return (done + 1) / (warmup + 1)
    if train.schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (done - warmup) / max(steps - warmup, 1)))


def consumed(plan: Plan, step: int) -> list[dict[str, Any]]:
    """The plan's exact account of the first `step` steps, as rows."""
    return [{"source": source, "language": language, "modality": modality, **row}
            for (source, language, modality), row in plan.consumed(step).items()]


def _next(feed: Iterator[list[Packed]]) -> tuple[list[Packed], float, Exception | None]:
    begun = time.monotonic()
    try:
        micros, failure = next(feed), None
    except Exception as error:  # told to the other ranks before it is raised, or they would wait for this one
        micros, failure = [], error
    return micros, time.monotonic() - begun, failure


def _named(names: Sequence[tuple[str, str, str]], sums: Sequence[float]) -> dict[str, list[float]]:
    """[nats, tokens] for everything, per language, per source and per modality, from the sums per stream."""
    result: dict[str, list[float]] = {"all": [0.0, 0.0]}
    n = len(names)
    for (source, language, modality), nats, tokens in zip(names, sums[:n], sums[n:2 * n], strict=True):
        for key in ("all", language, source, modality):
            pair = result.setdefault(key, [0.0, 0.0])
            pair[0] += nats
            pair[1] += tokens
    tokens, padded, samples = sums[2 * n:]
    return {**result, "work/tokens": [tokens, 1.0], "work/padded": [padded, 1.0], "work/samples": [samples, 1.0]}


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if torch.is_tensor(value) else value
