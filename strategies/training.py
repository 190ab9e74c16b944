"""A training under construction, and then its step: what strategies change and ranks run."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from strategies.engine import Engine, clean
from strategies.facts import Facts
from strategies.knob import Settings
from strategies.optimizer import OptimizerConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) -> scalar."""
Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]
"""(outputs, targets) -> scalar or None."""
Initial = Callable[[str, tuple[int, ...], torch.device], torch.Tensor]
"""(parameter name, its full shape, device) -> its fp32 initial value."""
Optimizer = Callable[[list[dict[str, object]]], torch.optim.Optimizer]
"""Parameter groups -> optimizer."""

MESH_AXES = ("pp", "dp", "tp")
"""Axes of the device mesh, outermost first: neighbouring ranks share a tensor-parallel group."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step returned on this rank; tensors stay on the device."""

    loss: torch.Tensor | None
    """Mean loss of this rank's samples; None on pipeline stages that do not see it."""
    metric: torch.Tensor | None
    """Mean of the workload's metric, if it has one."""
    grad_norm: torch.Tensor
    """Norm of the gradient over all ranks, before clipping."""


class Training:
    """A model, the plan to train it by, and everything strategies leave behind.

    Args:
        model: built on the meta device.
        plan: the settings; degrees must multiply to the number of ranks.
        facts: what the plan was checked against.
        device: this rank's device.
        initial: initial value of a parameter by name.
        loss: mean loss of a micro-batch.
        metric: a second figure of merit.
        optimizer: AdamW's constants.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        plan: Settings,
        facts: Facts,
        device: torch.device,
        initial: Initial,
        loss: Loss,
        metric: Metric | None,
        optimizer: OptimizerConfig,
    ) -> None:
        self.plan, self.facts, self.device = plan, facts, device
        self.initial, self.loss, self.metric, self.config = initial, loss, metric, optimizer
        self.parts: list[nn.Module] = [model]
        """The parts of the model this rank holds, in order; one unless a pipeline gives it several stages."""
        self.full_shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
        """Parameter name -> shape in the undivided model."""
        self.slices: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        """Parameter name -> how to cut this rank's share out of the full tensor, where it is divided."""
        self.stream_dtype = torch.float32
        """Number format of the activations between blocks."""
        self.param_dtype = torch.float32
        self.reduce_dtype: torch.dtype | None = None
        """Number format in which gradients are summed over ranks; None: that of the parameters."""
        self.master_weights = False
        """Whether the optimizer keeps fp32 copies of lower-precision parameters."""
        self.loss_scale: LossScale | None = None
        self.make_optimizer: Optimizer = self._fused_adamw
        self.engine: Engine
        """Left behind by the data-parallel strategy."""
        self.forward_backward = self._accumulate
        """Runs all micro-batches of a step; a pipeline replaces it by its schedule."""
        # Weak, or each rank would keep the undivided parameters that ZeRO-3 has long replaced by its shards.
        self._made: weakref.WeakValueDictionary[nn.Parameter, nn.Parameter] = weakref.WeakValueDictionary()

    # -- the mesh

    def degree(self, axis: str) -> int:
        """Ranks along an axis of the mesh."""
        return int(self.plan[axis])

    @cached_property
    def mesh(self) -> DeviceMesh:
        """The device mesh, with only the axes longer than one; at least a one-rank "dp" axis."""
        axes = [axis for axis in MESH_AXES if self.degree(axis) > 1] or ["dp"]
        shape = tuple(self.degree(axis) for axis in axes)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=tuple(axes))

    def group(self, axis: str) -> dist.ProcessGroup:
        """The process group along an axis that is longer than one."""
        return self.mesh[axis].get_group()

    def coordinate(self, axis: str) -> int:
        """This rank's place along an axis."""
        return self.mesh[axis].get_local_rank() if self.degree(axis) > 1 else 0

    # -- micro-batches

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step on one data-parallel rank."""
        return self.facts.global_batch_size // (self.degree("dp") * int(self.plan["micro_batch_size"]))

    @property
    def sample_indices(self) -> range:
        """The samples of a global batch that this rank's data-parallel replica trains on."""
        share = self.facts.global_batch_size // self.degree("dp")
        return range(self.coordinate("dp") * share, (self.coordinate("dp") + 1) * share)

    def micro_loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The share of a micro-batch in the loss of the step."""
        return self.loss(outputs, targets) / self.accumulation

    def _accumulate(
        self, inputs: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        size = int(self.plan["micro_batch_size"])
        losses, metrics = [], []
        for i, (x, y) in enumerate(zip(inputs.split(size), targets.split(size), strict=True)):
            with self.engine.micro_batch(last=i == self.accumulation - 1):
                outputs = self.parts[0](x)
                loss = self.micro_loss(outputs, y)
                (loss if self.loss_scale is None else loss * self.loss_scale.value).backward()
            losses.append(loss.detach())
            metrics.append(self.metric(outputs.detach(), y) if self.metric else None)
        return torch.stack(losses).sum(), mean_or_none(metrics)

    # -- parameters

    def units(self, part: nn.Module) -> list[tuple[str, nn.Module]]:
        """The modules that are sharded, prefetched and compiled one by one: (name, block), in forward order."""
        return [(name, part.get_submodule(name)) for name in self.facts.model.blocks if has_submodule(part, name)]

    def materialise(self, module: nn.Module, prefix: str = "") -> None:
        """Give the meta parameters of `module` their initial values, on the device, in `param_dtype`, divided.

        Buffers have their values since the model was built; they follow to the device.

        Args:
            module: a part, or a submodule of it.
            prefix: the submodule's name in the model.
        """
        for path, owner in module.named_modules(prefix=prefix):
            for name, parameter in list(owner._parameters.items()):
                if parameter is None or not parameter.is_meta:
                    continue
                made = self._made.get(parameter)
                if made is None:
                    made = self._made[parameter] = self._initialised(f"{path}.{name}" if path else name, parameter)
                owner._parameters[name] = made  # a tied parameter stays one
            for name, buffer in list(owner._buffers.items()):
                if buffer is not None:
                    owner._buffers[name] = buffer.to(self.device)

    def _initialised(self, name: str, meta: nn.Parameter) -> nn.Parameter:
        full = self.initial(name, self.full_shapes[name], self.device)
        cut = self.slices.get(name, lambda tensor: tensor)
        value = cut(full).to(self.param_dtype).clone(memory_format=torch.contiguous_format)
        return nn.Parameter(value, requires_grad=meta.requires_grad)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(name in the undivided model, parameter) of every parameter this rank holds."""
        return [(clean(name), p) for part in self.parts for name, p in part.named_parameters()]

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Those of them that are not frozen."""
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    def weight_decay(self, name: str) -> float:
        """AdamW's decay of a parameter: vectors are not decayed."""
        return self.config.weight_decay if len(self.full_shapes[name]) > 1 else 0.0

    def share(self, name: str, *, sharded: bool) -> float:
        """The share of a gradient's squared norm that this rank contributes to a sum over all ranks.

        Args:
            name: the parameter.
            sharded: whether each data-parallel rank holds another piece of the gradient.
        """
        replicas = 1 if sharded else self.degree("dp")
        return 1.0 / (replicas * (1 if name in self.slices else self.degree("tp")))

    def _fused_adamw(self, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)

    # -- the step

    def step(self, step: int, inputs: torch.Tensor, targets: torch.Tensor) -> StepResult:
        """One optimizer step on this replica's share of the global batch.

        Args:
            step: number of the step, for the learning rate.
            inputs: `[samples, ...]`, the samples of `sample_indices`.
            targets: `[samples, ...]`.
        """
        self.engine.set_lr(self.config.lr_at(step))
        loss, metric = self.forward_backward(inputs, targets)
        self.engine.finish_gradients()
        return StepResult(loss, metric, self.update())

    def update(self) -> torch.Tensor:
        """Clip the gradients, update the parameters; the norm of the gradient before clipping."""
        scale = self.loss_scale.value if self.loss_scale else 1.0
        grad_norm = self.engine.norm() / scale
        skip = self.loss_scale.adapt(grad_norm) if self.loss_scale else None
        self._clip(grad_norm, scale)
        self.engine.step(skip)
        self.engine.zero_gradients()
        return grad_norm

    def _clip(self, grad_norm: torch.Tensor, scale: float | torch.Tensor) -> None:
        factor = torch.ones_like(grad_norm)
        if self.config.clip_norm > 0:
            factor = torch.clamp(self.config.clip_norm / (grad_norm + 1e-6), max=1.0)
        # Reading the factor of a GPU would stop the host until the device has caught up.
        self.engine.scale((factor / scale).item() if self.device.type == "cpu" else factor / scale)


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018, arXiv:1710.03740).

    The gradient's norm is needed anyway and is not finite exactly if some gradient overflowed, so it decides. All of it
    stays on the device: a host that reads the norm waits in every step.

    Args:
        device: that of this rank.
        initial: the first scale.
        growth_interval: steps without an overflow after which it doubles.
    """

    def __init__(self, device: torch.device, initial: float = 2.0**14, growth_interval: int = 1000) -> None:
        self.value = torch.full((), initial, device=device)
        self._interval, self._good = growth_interval, torch.zeros((), device=device)

    def adapt(self, grad_norm: torch.Tensor) -> torch.Tensor:
        """Halve the scale after an overflow, double it after enough good steps.

        Returns:
            1.0 if the step must not be taken, else 0.0.
        """
        finite = torch.isfinite(grad_norm).float()
        self._good = (self._good + 1) * finite
        grown = (self._good >= self._interval).float()
        self._good = self._good * (1 - grown)
        self.value = self.value * (0.5 + 0.5 * finite + grown)
        return 1 - finite


def has_submodule(module: nn.Module, name: str) -> bool:
    """Whether a dotted name leads to a submodule."""
    with contextlib.suppress(AttributeError):
        return isinstance(module.get_submodule(name), nn.Module)
    return False


def mean_or_none(values: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The mean, None if any value is missing."""
    present = [value for value in values if value is not None]
    return torch.stack(present).float().mean() if present and len(present) == len(values) else None
