"""DeepSpeed behind five verbs: forward, backward, norms, update, discard. ZeRO 0 to 3, fp32 and bf16, CPU and GPU.

What differs between ZeRO stages and would otherwise leak into the training loop ends here: where a stage keeps the
reduced gradients, how they are clipped, how a step is thrown away. The gradient norm per part and the clipping are
ours, so that all stages do the same arithmetic and a non-finite gradient is seen before it reaches the weights. Not
here: the loop (core.loop), the files of a checkpoint (core.checkpoint). """
from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from core.config import Train
from core.distributed import World
from core.errors import UserError
from core.parts import NAMES


class Engine:
    """A model under DeepSpeed. `parts` are the parameter groups in order; each has its own learning rate.

    All methods but `forward` are collectives in effect: every rank calls them, in the same order."""

    def __init__(self, model: torch.nn.Module, train: Train, world: World, stage: int, micro_batch: int,
                 universal: bool = False):
        """`universal`: a checkpoint in DeepSpeed's universal format is going to be loaded."""
        import deepspeed

        _skip_operator_builds(world)
        self.world, self.train = world, train
        self.accumulation = train.global_batch // (world.size * micro_batch)
        self.stage = effective_stage(stage, train.dtype)
        groups = parameter_groups(model, train)
        self.parts = [group["part"] for group in groups]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=tuple(train.betas), fused=True)
        kinds = {name: buffer.dtype for name, buffer in model.named_buffers()}
        self.deepspeed, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, dist_init_required=False,
            config={**_settings(train, self.stage, micro_batch, self.accumulation, world),
                    "checkpoint": {"load_universal": universal}})
        check_buffers(self.deepspeed.module, kinds, deepspeed.__version__)
        if self.stage == 0 and world.size == 1:  # or every gradient would be copied into a bucket and back for nobody
            self.deepspeed.enable_backward_allreduce = False
        self.device = world.device

    @property
    def model(self) -> Any:
        return self.deepspeed.module

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The AdamW that holds the moments, below whatever ZeRO wraps round it."""
        return self.deepspeed.basic_optimizer

    def forward(self, *inputs: Any) -> Any:
        return self.deepspeed(*inputs)

    def backward(self, loss_sum: torch.Tensor, tokens: float) -> None:
        """Add the gradient of loss_sum / tokens, `tokens` being the supervised tokens of the whole step on all ranks.

        DeepSpeed averages over ranks and micro-batches, so both counts are multiplied in: the sum over everything
        divided once by the true count, however unequal the ranks are."""
        self.deepspeed.backward(loss_sum * (self.world.size * self.accumulation / max(tokens, 1.0)))
        if not self.deepspeed.is_gradient_accumulation_boundary():
            self.deepspeed.step()  # only counts the micro-batch

    def norms(self) -> dict[str, float]:
        """L2 norm of the step's gradient per part, the same on every rank; not finite if any rank's gradient is not."""
        squares = torch.zeros(len(self.parts), dtype=torch.float64, device=self.device)
        for group, gradients in self._gradients():
            squares[group] = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
        if self._sharded:
            self.world.sum_tensor(squares)
        by_part: dict[str, float] = {}
        for part, square in zip(self.parts, squares.tolist(), strict=True):
            by_part[part] = by_part.get(part, 0.0) + square
        return {part: math.sqrt(square) if square >= 0 else math.nan for part, square in by_part.items()}

    def update(self, rates: dict[str, float], norm: float) -> None:
        """Clip by the global norm and let AdamW take the step at these learning rates (by part)."""
        if self.train.clip > 0 and norm > self.train.clip:
            for _, gradients in self._gradients():
                torch._foreach_mul_(gradients, self.train.clip / (norm + 1e-6))
        for part, group in zip(self.parts, self.optimizer.param_groups, strict=True):
            group["lr"] = rates[part]
        self.deepspeed.step()

    def discard(self) -> None:
        """Forget the accumulated gradient; weights and moments stay as they are."""
        optimizer = self.deepspeed.optimizer
        self.deepspeed.zero_grad()
        if self._kind != "plain":
            optimizer.zero_grad(set_to_none=True)
        if self._kind == "sharded":
            optimizer.averaged_gradients = {} if self.stage == 3 else dict.fromkeys(optimizer.averaged_gradients)
            if self.stage < 3:
                optimizer.all_grad_tensors = dict.fromkeys(optimizer.all_grad_tensors)
        self.deepspeed.micro_steps += 1

    def state(self) -> dict[str, torch.Tensor]:
        """The connector and every part that is trained, whole, on the CPU, by parameter names in the model; empty on
        all ranks but the first. Every rank calls it."""
        import deepspeed

        state = {}
        for name, parameter in self.model.named_parameters():
            if part_of(name) not in ("connector", *self.train.trained):
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                if self.world.first:
                    state[name] = parameter.detach().cpu().clone()
        return state

    def destroy(self) -> None:
        """Take DeepSpeed's hooks off the model; needed before another engine is made in this process."""
        self.deepspeed.destroy()

    @property
    def _kind(self) -> str:
        if self.stage == 0:
            return "plain"  # gradients in .grad, reduced on every rank
        return "sharded" if hasattr(self.deepspeed.optimizer, "averaged_gradients") else "bf16"  # whole, flat fp32

    @property
    def _sharded(self) -> bool:
        return self._kind == "sharded"

    def _gradients(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Per parameter group the reduced gradients that this rank holds, all fp32; changes in place count. Groups of
        which it holds none are left out."""
        optimizer, found = self.deepspeed.optimizer, {}
        if self._kind == "plain":
            found = {i: [p.grad for p in group["params"]] for i, group in enumerate(optimizer.param_groups)}
        elif self._kind == "bf16":
            found = {i: [gradient] for i, gradient in enumerate(optimizer.fp32_groups_gradients_flat)}
        else:
            for index, tensors in optimizer.averaged_gradients.items():
                group = optimizer.sub_group_to_group_id[index] if self.stage == 3 else index
                found.setdefault(group, []).extend(tensors or [])
        for group, gradients in found.items():
            held = [gradient for gradient in gradients if gradient is not None and gradient.numel()]
            if held:
                yield group, held


def check_buffers(model: torch.nn.Module, kinds: dict[str, torch.dtype], version: str) -> None:
    """Raises UserError if a buffer has lost the precision it had: rotary frequencies in bf16 are off by radians after
    some hundred positions, which nothing else would show (DeepSpeed before 0.19 did that to bf16 models)."""
    for name, buffer in model.named_buffers():
        if name in kinds and buffer.dtype != kinds[name]:
            raise UserError(f"DeepSpeed {version} turned the buffer {name} from {kinds[name]} into {buffer.dtype}: "
                            "install deepspeed>=0.19.8")


def effective_stage(stage: int, dtype: str) -> int:
    """ZeRO 1 in place of 0 for bf16: without ZeRO DeepSpeed takes one AdamW step on zero gradients when it starts."""
    return max(stage, 1) if dtype == "bfloat16" else stage


def parameter_groups(model: torch.nn.Module, train: Train) -> list[dict[str, Any]]:
    """Trained parameters by part (core.parts.NAMES), weight decay on matrices only. Every rank makes the same order."""
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = train.weight_decay > 0 and parameter.dim() > 1
            groups.setdefault((part_of(name), decayed), []).append(parameter)
    order = sorted(groups, key=lambda key: (NAMES.index(key[0]), key[1]))
    return [{"params": groups[part, decayed], "part": part, "name": f"{part}{'' if decayed else ', no decay'}",
             "weight_decay": train.weight_decay if decayed else 0.0} for part, decayed in order]


def part_of(name: str) -> str:
    """The part that a parameter of PackedModel belongs to, by its name."""
    if "vision_tower." in name:
        return "vision"
    return "connector" if "multi_modal_projector." in name else "backbone"


def _settings(train: Train, stage: int, micro_batch: int, accumulation: int, world: World) -> dict[str, Any]:
    bf16 = train.dtype == "bfloat16"
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if stage in (2, 3):
        zero["overlap_comm"] = world.device.type == "cuda"
    return {
        "train_micro_batch_size_per_gpu": micro_batch, "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * world.size,
        "zero_optimization": zero, "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bf16}, "data_types": {"grad_accum_dtype": "fp32"},
        "gradient_clipping": 0.0, "steps_per_print": 1 << 60, "wall_clock_breakdown": False,
    }


def _skip_operator_builds(world: World) -> None:
    """On a CPU DeepSpeed would compile a shared-memory operator for about a minute; a killed build blocks later
    runs."""
    import deepspeed
    import deepspeed.ops

    if world.device.type == "cpu":
        deepspeed.ops.__dict__["__compatible_ops__"] = {}
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if world.device.type == "cuda" else "gloo",
                                   auto_mpi_discovery=False, verbose=False)
