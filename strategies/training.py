"""A training under construction, and then its step: what strategies change and ranks run."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from strategies import dropout
from strategies.engine import Engine, clean
from strategies.facts import Facts
from strategies.knob import Settings
from strategies.optimizer import OptimizerConfig

Batch = Mapping[str, torch.Tensor]
"""Name -> tensor whose first dimension is the sample."""
Weighed = tuple[torch.Tensor, torch.Tensor | float]
"""A sum over predictions, a scalar, and how many they are."""
Loss = Callable[[torch.Tensor, Batch], Weighed]
"""(outputs, batch) -> sum of the losses of all predictions, their number."""
Metric = Callable[[torch.Tensor, Batch], Weighed | None]
"""(outputs, batch) -> sum, number, or None."""
Initial = Callable[[str, tuple[int, ...], torch.device], torch.Tensor]
"""(parameter name, its full shape, device) -> its initial value, in fp32 unless the model's is no number."""
Optimizer = Callable[[list[dict[str, object]]], torch.optim.Optimizer]
"""Parameter groups -> optimizer."""

MESH_AXES = ("pp", "dp", "tp")
"""Axes of the device mesh, outermost first: neighbouring ranks share a tensor-parallel group."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step returned on this rank; tensors stay on the device."""

    loss: torch.Tensor | None
    """Such that the mean over data-parallel ranks is the step's loss; None on pipeline stages that do not see it."""
    metric: torch.Tensor | None
    """Mean of the workload's metric over this rank's predictions, if it has one."""
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
        inputs: names of what the model is called with, in order.
        loss: sum of the losses of a micro-batch.
        predictions: of each sample, if all have as many; None: they are counted in every step.
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
        inputs: Sequence[str],
        loss: Loss,
        predictions: float | None,
        metric: Metric | None,
        optimizer: OptimizerConfig,
    ) -> None:
        self.plan, self.facts, self.device = plan, facts, device
        self.initial, self.loss, self.metric, self.config = initial, loss, metric, optimizer
        self.inputs = tuple(inputs)
        self._step = 0
        self.tally = Tally(device, counting=predictions is None)
        """What the micro-batches of a step added up to."""
        self._expected = facts.global_batch_size * (predictions or facts.seq_len)
        self.parts: list[nn.Module] = [model]
        """The parts of the model this rank holds, in order; one unless a pipeline gives it several stages."""
        named = list(model.named_parameters(remove_duplicate=False))
        self.full_shapes = {name: tuple(p.shape) for name, p in named}
        """Parameter name -> shape in the undivided model."""
        first: dict[nn.Parameter, str] = {}
        self._whole_names = {name: first.setdefault(p, name) for name, p in named}
        self.slices: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        """Parameter name -> how to cut this rank's share out of the full tensor, where it is divided."""
        self.outputs = facts.model.outputs
        """Shape of what the last part returns for one sample, where a pipeline must know it."""
        self.copies: set[str] = set()
        """Parameters that both ends of a pipeline hold: each has a copy, and the sum of both gradients."""
        self.ends: dist.ProcessGroup | None = None
        """The ranks that hold them."""
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

    def given(self, batch: Batch) -> dict[str, torch.Tensor]:
        """What the model is called with, in order."""
        return {name: batch[name] for name in self.inputs}

    def micro_batch(self, batch: Batch, number: int) -> Batch:
        """One of the micro-batches of this rank's samples."""
        size = int(self.plan["micro_batch_size"])
        return {name: tensor[number * size : (number + 1) * size] for name, tensor in batch.items()}

    def micro_loss(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What the backward pass of a micro-batch begins with; its numbers are added to the step's.

        Engines average over data-parallel ranks. A sum over predictions is divided by how many a step is expected to
        have, and `update` corrects what follows from the difference: gradients are linear in it.
        """
        total, weight = self.loss(outputs, batch)
        loss = total.detach() * self._share
        self.tally.add(loss, weight, self.metric(outputs.detach(), batch) if self.metric else None)
        return total * self.seed

    @property
    def _share(self) -> float:
        return self.degree("dp") / self._expected

    @property
    def seed(self) -> float | torch.Tensor:
        """What a sum of losses is multiplied by where a backward pass begins."""
        return self._share if self.loss_scale is None else self.loss_scale.value * self._share

    def place(self, number: int) -> dropout.Place:
        """Which samples one of the micro-batches has, for what must know them."""
        size = int(self.plan["micro_batch_size"])
        first = self.sample_indices.start + number * size
        return dropout.Place(self._step, first, size, self.coordinate("tp"), self.degree("tp"))

    def _accumulate(self, batch: Batch) -> None:
        for i in range(self.accumulation):
            some = self.micro_batch(batch, i)
            with self.engine.micro_batch(last=i == self.accumulation - 1), dropout.at(self.place(i)):
                self.micro_loss(self.parts[0](*self.given(some).values()), some).backward()

    # -- parameters

    def units(self, part: nn.Module) -> list[tuple[str, nn.Module]]:
        """The modules that are sharded, prefetched and compiled one by one: (name, block), in forward order."""
        return [(name, part.get_submodule(name)) for name in self.facts.model.blocks if holds(part, name)]

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
        full = self.initial(self.whole_name(name), self.full_shapes[name], self.device)
        cut = self.slices.get(name, lambda tensor: tensor)
        # What are no numbers, such as bytes of quantised weights, stay as they are.
        dtype = self.param_dtype if meta.dtype.is_floating_point else meta.dtype
        value = cut(full).to(dtype).clone(memory_format=torch.contiguous_format)
        return nn.Parameter(value, requires_grad=meta.requires_grad)

    def whole_name(self, name: str) -> str:
        """The first of a parameter's names in the undivided model."""
        return self._whole_names[clean(name)]

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
        replicas = (1 if sharded else self.degree("dp")) * (1 + (self.whole_name(name) in self.copies))
        return 1.0 / (replicas * (1 if name in self.slices else self.degree("tp")))

    def _fused_adamw(self, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)

    # -- the step

    def step(self, step: int, batch: Batch) -> StepResult:
        """One optimizer step on this replica's share of the global batch.

        Args:
            step: number of the step, for the learning rate.
            batch: the samples of `sample_indices`.
        """
        self._step = step
        self.engine.set_lr(self.config.lr_at(step))
        self.tally.clear()
        self.forward_backward(batch)
        self.engine.finish_gradients()
        self._add_copies()
        counted = self._counted()
        grad_norm = self.update(counted)
        loss = self.tally.loss
        return StepResult(loss if loss is None or counted is None else loss / counted, self.tally.metric, grad_norm)

    def _counted(self) -> torch.Tensor | None:
        """Predictions of the step over all ranks, over those that were expected; None if they are known to be these."""
        if not self.tally.counting:
            return None
        weight = self.tally.weight / self.degree("tp")  # whose ranks all see the same
        if self.facts.world_size > 1:
            dist.all_reduce(weight)
        return weight / self._expected

    def _add_copies(self) -> None:
        if self.ends is not None:
            for gradient in self.engine.gradients_of(self.copies):
                dist.all_reduce(gradient, group=self.ends)

    def update(self, counted: torch.Tensor | None = None) -> torch.Tensor:
        """Clip the gradients, update the parameters; the norm of the gradient before clipping.

        Args:
            counted: by what the gradients are too large still.
        """
        scale: float | torch.Tensor = self.loss_scale.value if self.loss_scale else 1.0
        scale = scale if counted is None else counted * scale
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


class Tally:
    """What the micro-batches of a step add up to on this rank; tensors stay on the device.

    Args:
        device: that of this rank.
        counting: whether predictions are counted.
    """

    def __init__(self, device: torch.device, *, counting: bool) -> None:
        self._device, self.counting = device, counting
        self.clear()

    def clear(self) -> None:
        """Begin a step."""
        self._losses: list[torch.Tensor] = []
        self._metrics: list[Weighed] = []
        self.weight = torch.zeros((), device=self._device)

    def add(self, loss: torch.Tensor, weight: torch.Tensor | float, metric: Weighed | None) -> None:
        """One more micro-batch."""
        self._losses.append(loss)
        if self.counting:
            self.weight = self.weight + weight
        if metric is not None:
            self._metrics.append(metric)

    @property
    def loss(self) -> torch.Tensor | None:
        """Sum of the losses; None where none was seen."""
        return torch.stack(self._losses).sum() if self._losses else None

    @property
    def metric(self) -> torch.Tensor | None:
        """Mean over predictions; None where there are none."""
        if not self._metrics:
            return None
        total, weight = (sum(values) for values in zip(*self._metrics, strict=True))
        return torch.as_tensor(total / weight)


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


def holds(part: nn.Module, name: str) -> bool:
    """Whether a part of a model has parameters of the submodule with a dotted name."""
    with contextlib.suppress(AttributeError):
        return next(part.get_submodule(name).parameters(), None) is not None
    return False
