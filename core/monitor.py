"""What a training run tells about itself: metrics.jsonl, TensorBoard, the heartbeat, a card before step 1.

Losses are sums over tokens and counts of tokens, added up between two records and divided when one is written (where
every step between was skipped a record has no loss); the sums travel with the checkpoint, so that the records of a
resumed run equal those of an undisturbed one, and what was written after the checkpoint is cut off first: no step
appears twice. Not here: what is measured (core.loop), curves (analysis). """
from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from core.encode import IMAGE
from core.files import write_json, write_text
from core.pixels import open_image
from core.run import Run
from core.validation import Sample

log = logging.getLogger("begira")
SIDE = 224               # pixels of a sample image in TensorBoard
# dense bf16
PEAK_FLOPS = {"H100 PCIe": 756e12, "A100": 312e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "A30": 165e12,
              "L40": 181e12, "L40S": 362e12, "MI250X": 191.5e12}  # dense bf16, of one device (half an MI250X)


@dataclass
class Sums:
    """Since the last record. loss: {"language/eu": [nats, tokens], "source/emoji-eu/name": ..., "all": ...}."""

    loss: dict[str, list[float]] = field(default_factory=dict)
    steps: int = 0


class Monitor:
    """Only the first rank has one that writes. `flops` is the work of one token of a pack, all ranks, forward and
    back."""

    def __init__(self, run: Run, total: int, log_every: int, writes: bool = True, flops: float = 0.0, devices: int = 1):
        self.run, self.total, self.every, self.writes = run, total, log_every, writes
        self.flops, self.peak = flops, peak_flops() * devices
        self.sums, self._board = Sums(), None
        self.loss: float | None = None  # of the last record
        self._since = self._clock()

    def card(self, card: Mapping[str, Any]) -> None:
        """Log the set-up card and leave it as setup.json."""
        if self.writes:
            write_json(self.run.path / "setup.json", dict(card))
            log.info("set-up\n%s", "\n".join(f"  {key}: {value}" for key, value in card.items()))

    def resume(self, step: int, extra: Mapping[str, Any]) -> None:
        """Go on after `step`: take up the sums of the checkpoint and cut off records of later steps."""
        self.sums = Sums(**extra) if extra else Sums()
        if self.writes:
            cut(self.run, step)
            self._board = None

    def state(self) -> dict[str, Any]:
        return asdict(self.sums)

    def step(self, step: int, losses: Mapping[str, list[float]], values: Mapping[str, float], work: Mapping[str, float],
             waited: float) -> None:
        """Take in a finished step and write a record if one is due. losses: as Sums.loss, summed over ranks; values:
        written as they are (lr, grad_norm, ...); work: tokens, padded, samples of this step over all ranks; waited: the
        seconds this rank waited for data."""
        for name, (nats, tokens) in losses.items():
            pair = self.sums.loss.setdefault(name, [0.0, 0.0])
            pair[0] += nats
            pair[1] += tokens
        self.sums.steps += 1
        for key, value in {**work, "waited": waited}.items():
            self._since[key] = self._since.get(key, 0.0) + value
        if self.writes:
            nats, tokens = losses["all"]
            self.run.heartbeat(step, self.total, loss=round(nats / tokens, 4) if tokens else None,
                               force=step == self.total)
        if step % self.every == 0 or step == self.total:
            self._record(step, values)

    def event(self, step: int, **values: Any) -> None:
        """Something out of the ordinary (a skipped step, a checkpoint): a line of its own in events.jsonl, and the
        log."""
        if self.writes:
            from core.files import append_line

            append_line(self.run.path / "events.jsonl", json.dumps({"step": step, "time": time.time(), **values}))
            log.info("step %d: %s", step, values)

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Answers as a table and the images that were asked about, for TensorBoard."""
        if not self.writes or not samples:
            return
        board, files = self._writer(step), list(dict.fromkeys(one.image for one in samples))
        for number, image in enumerate(files, 1):
            board.add_image(f"validation/image {number}", thumbnail(image), step, dataformats="HWC")
        rows = [f"| {files.index(one.image) + 1} | {one.language} | "
                + " | ".join(" ".join(text.replace("|", "¦").split()) for text in
                             (one.question.replace(IMAGE, ""), one.answer, one.reference)) + " |" for one in samples]
        head = "| image | language | question | answer | reference |\n|---|---|---|---|---|\n"
        board.add_text("validation/answers", head + "\n".join(rows), step)

    def pause(self, seconds: float) -> None:
        """Leave out of the speed of the next record what was no training."""
        self._since["start"] += seconds

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        seconds = max(time.monotonic() - self._since["start"], 1e-9)
        means = {name: nats / tokens for name, (nats, tokens) in self.sums.loss.items() if tokens}
        self.loss = means.pop("all", None)
        record: dict[str, Any] = {"step": step} if self.loss is None else {"step": step, "loss": self.loss}
        record.update({f"loss/{name}": value for name, value in sorted(means.items())})
        record.update(values)
        tokens, padded = self._since.get("tokens", 0.0), self._since.get("padded", 0.0)
        record.update(tokens_per_second=tokens / seconds, padded_tokens_per_second=padded / seconds,
                      samples_per_second=self._since.get("samples", 0.0) / seconds,
                      seconds_per_step=seconds / self.sums.steps, data_wait=self._since["waited"] / seconds,
                      memory_gib=memory() / 2 ** 30)
        if self.peak and self.flops:
            record["mfu"] = tokens * self.flops / seconds / self.peak
        if self.writes:
            self.run.log(record)
            self._to_board(record)
        self.sums, self._since = Sums(), self._clock()

    def _to_board(self, record: Mapping[str, Any]) -> None:
        board = self._writer(record["step"])
        for name, value in record.items():
            if name != "step":
                board.add_scalar(name, value, record["step"])

    def _writer(self, step: int) -> Any:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.run.path / "tb"), purge_step=step, flush_secs=10)
        return self._board

    @staticmethod
    def _clock() -> dict[str, float]:
        return {"start": time.monotonic(), "waited": 0.0}


def cut(run: Run, step: int) -> None:
    """Remove the records of metrics.jsonl after `step`, and a last line that a kill cut short."""
    path = run.path / "metrics.jsonl"
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("step", 0) <= step:
            kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))


def thumbnail(image: bytes) -> np.ndarray:
    """(height, width, 3) uint8, at most SIDE pixels on the longer side."""
    picture = open_image(image)
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def memory() -> int:
    """Peak bytes: of the GPU where there is one, else resident memory of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_flops() -> float:
    """Dense bf16 peak of this machine's GPU in FLOP/s; 0 where there is none."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return peak_of(torch.cuda.get_device_name())


def peak_of(device: str) -> float:
    """Dense bf16 peak of a GPU by its name, in FLOP/s; 0 where it is not known, and then no MFU is reported."""
    words = re.findall(r"\w+", device)
    return next((peak for key, peak in PEAK_FLOPS.items() if set(key.split()) <= set(words)), 0.0)
