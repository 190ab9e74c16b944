"""What one pass with tensors that have no content tells of a model that nobody described."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.errors import InputError
from harness.workloads import staging
from harness.workloads.staging import Row
from strategies import dropout as dropping
from strategies.facts import Counted, ModelFacts


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found."""

    parameters: int
    """Number of parameters, tied ones counted once."""
    frozen: int
    """How many of them are not trained."""
    tied: bool
    """Whether a parameter has several names."""
    blocks: tuple[str, ...]
    """Names of the repeated blocks."""
    unused: tuple[str, ...]
    """Parameters that have no part in the loss; they are frozen, or no rank would know when gradients are whole."""
    dropout: tuple[str, ...]
    """Modules whose dropout was set to 0."""
    kept: Mapping[str, tuple[dropping.Shape, ...]]
    """Modules that drop -> of one sample, the shapes of what they drop from; empty if none may."""
    flops: float
    """Of one sample, forward and backward."""
    forward_flops: float
    """Of one sample, forward."""
    blocks_flops: float
    """Of the forward pass of all blocks for one sample."""
    outputs: int
    """Numbers that the model returns for one sample."""
    block_flops: float
    """Of the forward pass of the first block for one sample; 0 without blocks."""
    head_flops: float
    """Of what follows the blocks, where they stand in a row; else 0."""
    shared_blocks: bool
    """Whether a block shares a parameter with another, or with what is around the blocks."""
    row: Row
    """How it can be cut into stages."""
    counted: Counted | None = None
    """What a sample takes, if `harness.workloads.counting` looked."""
    head: str
    """Name of the linear layer whose outputs the model returns as they are; "" if there is none."""

    def facts(self, **known: Any) -> ModelFacts:
        """What strategies may know: this, and what is known of the model beside it."""
        return ModelFacts(
            parameters=self.parameters,
            frozen=self.frozen,
            blocks=self.blocks,
            block_flops=self.block_flops or 1.0,
            head_flops=self.head_flops,
            stem=self.row.stem,
            tail=self.row.tail,
            stream=self.row.stream,
            outputs=self.row.outputs,
            whole_because=self.row.against,
            tied=self.tied,
            shared_blocks=self.shared_blocks,
            keeps_dropout=bool(self.kept),
            counted=self.counted,
            **known,
        )


def look(
    model: nn.Module,
    inputs: Sequence[str],
    loss: Callable[[torch.Tensor, Mapping[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor | float]],
    batch: Mapping[str, torch.Tensor],
    pattern: str | None,
    keep_dropout: bool = False,
) -> Survey:
    """What one pass over one sample tells.

    Args:
        model: without content; not to be used again.
        inputs: names of what it is called with.
        loss: (outputs, batch) -> (sum, number).
        batch: some samples.
        pattern: of the names of the blocks; None: they are looked for.
        keep_dropout: whether its dropout is kept.

    Raises:
        InputError: the model cannot be trained so that plans can be compared, or something returns a wrong type.
    """
    model.train()
    _refuse_batch_norm(model)
    blocks = _matching(model, pattern) if pattern else _lists(model)
    dropout = () if keep_dropout else without_dropout(model)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cpu"):
        without_content(model)
        one = {name: torch.empty((1, *t.shape[1:]), dtype=t.dtype) for name, t in batch.items()}
        kept = _kept(model, inputs, batch) if keep_dropout else {}
        dropping.keep(model, 0, kept)
        counter = FlopCounterMode(display=False)
        # A CPU's fused attention is not counted.
        with counter, sdpa_kernel(SDPBackend.MATH), dropping.one_sample():
            outputs, head = _called(model, [one[name] for name in inputs])
            if not isinstance(outputs, torch.Tensor):
                raise InputError(f"the model must return one tensor, but returned {type(outputs).__name__}")
            forward = counter.get_flop_counts()
            _sum(loss(outputs, one)).backward()
        named = list(model.named_parameters())
        unused = tuple(name for name, p in named if p.requires_grad and p.grad is None)
        row = staging.find(model, [one[name] for name in inputs], blocks, unused)
    by_module = {name.partition(".")[2]: float(sum(counts.values())) for name, counts in forward.items()}
    return Survey(
        parameters=sum(p.numel() for _, p in named),
        frozen=sum(p.numel() for name, p in named if not p.requires_grad or name in unused),
        tied=len(named) < len(list(model.named_parameters(remove_duplicate=False))),
        blocks=blocks,
        unused=unused,
        dropout=dropout,
        kept=kept,
        flops=float(counter.get_total_flops()),
        forward_flops=by_module[""],
        blocks_flops=sum(by_module.get(name, 0.0) for name in blocks),
        outputs=outputs.numel(),
        block_flops=by_module.get(blocks[0], 0.0) if blocks else 0.0,
        head_flops=_after(by_module, row.before, blocks) if row.stream else 0.0,
        shared_blocks=staging.shared(model, blocks),
        row=row,
        head=head,
    )


def _after(flops: Mapping[str, float], stem: Sequence[str], blocks: Sequence[str]) -> float:
    """FLOPs of what follows the blocks; a stem may name a module and one inside it."""
    outer = [name for name in stem if not any(name.startswith(f"{other}.") for other in stem)]
    return flops[""] - sum(flops.get(name, 0.0) for name in (*outer, *blocks))


def _refuse_batch_norm(model: nn.Module) -> None:
    if batch_norm := [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]:
        raise InputError(
            f"{batch_norm[0]} normalises over its micro-batch, so that plans with other micro-batches train something "
            "else; use GroupNorm or LayerNorm"
        )


def _sum(found: Any) -> torch.Tensor:
    """Of what a loss returned."""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], torch.Tensor):
        raise InputError("loss must return (sum over all predictions, their number)")
    if found[0].ndim:
        raise InputError(f"loss must return the sum as a scalar, but its shape is {list(found[0].shape)}")
    return found[0]


def _called(model: nn.Module, given: Sequence[torch.Tensor]) -> tuple[Any, str]:
    """(what the model returns, name of the linear layer that made it)."""
    made: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: made.update({name: output}))
        for name, module in model.named_modules()
        if type(module) is nn.Linear
    ]
    try:
        outputs = model(*given)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, next((name for name, output in made.items() if output is outputs), "")


def pure(
    samples: Callable[[int, np.ndarray], Mapping[str, torch.Tensor]], step: int, size: int
) -> Mapping[str, torch.Tensor]:
    """The first samples of a step's batch, after a look at whether each is a function of (step, index).

    Args:
        samples: (step, indices) -> name -> `[samples, ...]`.
        step: which one.
        size: how many.

    Raises:
        InputError: they are not, or are no tensors of this length on the CPU.
    """
    found = samples(step, np.arange(size))
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0 or len(tensor) != size:
            got = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise InputError(f"a batch was asked for {size} samples and must be [{size}, ...], but {name} is {got}")
        if tensor.device.type != "cpu":
            raise InputError(f"a batch must be on the CPU, from where ranks send it, but {name} is elsewhere")
    for indices, sentence in (
        (np.arange(size), "two calls with the same indices differ"),
        (np.array([size - 1]), "a sample is another one when it is asked for alone"),
    ):
        again = samples(step, indices)
        if any(not torch.equal(again[name], tensor[torch.from_numpy(indices)]) for name, tensor in found.items()):
            raise InputError(f"a batch must depend on (step, index) alone, but in step {step} {sentence}")
    return found


def _kept(
    model: nn.Module, inputs: Sequence[str], batch: Mapping[str, torch.Tensor]
) -> dict[str, tuple[dropping.Shape, ...]]:
    """Where a model drops, under fake tensors: by a pass over one sample, and one over two.

    Raises:
        InputError: nothing does, or something in a way that no mask of ours can stand for.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and module.dropout:
            raise InputError(f"dropout cannot be kept: {name} draws its masks inside a kernel; set its dropout to 0")
    found: list[dict[str, list[dropping.Shape]]] = []
    for samples in (1, 2):
        seen = dropping.Seen(model)
        try:
            with torch.no_grad(), seen:
                model(*(torch.empty((samples, *batch[name].shape[1:]), dtype=batch[name].dtype) for name in inputs))
        except dropping.Unknown as error:
            raise InputError(f"dropout cannot be kept: {error}; set its dropout to 0") from None
        finally:
            seen.remove()
        found.append(seen.shapes)
    one, two = found
    if not one:
        raise InputError("dropout was to be kept, but nothing in the model drops; leave it out")
    for name, shapes in one.items():
        if [(2 * shape[0], *shape[1:]) for shape in shapes] != two.get(name):
            raise InputError(
                f"dropout cannot be kept: samples are not the first dimension of what {name} drops from, "
                f"{list(shapes[0])} with one sample"
            )
    return {name: tuple(shapes) for name, shapes in one.items()}


def with_dropout(model: nn.Module, seed: int, survey: Survey) -> None:
    """Have a model drop as its survey says: by our masks where they are kept, else not."""
    if survey.kept:
        dropping.keep(model, seed, survey.kept)
    else:
        without_dropout(model)


def without_dropout(model: nn.Module) -> tuple[str, ...]:
    """Set every dropout of torch's own modules to 0: its masks would be others in each plan.

    Returns:
        Names of the modules in which it was not.
    """
    found = []
    for name, module in model.named_modules():
        attribute = "p" if isinstance(module, nn.modules.dropout._DropoutNd) else "dropout"
        known = isinstance(module, nn.modules.dropout._DropoutNd | nn.MultiheadAttention | nn.RNNBase)
        if known and getattr(module, attribute):
            setattr(module, attribute, 0.0)
            found.append(name)
    return tuple(found)


def without_content(model: nn.Module) -> None:
    """Under fake tensors: parameters that have shapes alone become ones that can be computed with; ties stay ties."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                fake = made.get(p)
                if fake is None:
                    fake = made[p] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), requires_grad=p.requires_grad)
                module._parameters[name] = fake


def inputs_of(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """The first arguments of forward that the batch has.

    Raises:
        InputError: it lacks the first one, or has one without those before it.
    """
    parameters = list(inspect.signature(model.forward).parameters)
    first = [name for at, name in enumerate(parameters) if all(p in batch for p in parameters[: at + 1])]
    left = [name for name in parameters if name in batch and name not in first]
    if not first or left:
        raise InputError(
            f"the model's forward takes ({', '.join(parameters)}), of which a batch must hold the first ones by name, "
            f"but it holds {', '.join(batch)}"
        )
    return tuple(first)


def _matching(model: nn.Module, pattern: str) -> tuple[str, ...]:
    depth = pattern.count(".")
    names = [name for name, _ in model.named_modules() if name.count(".") == depth]
    found = tuple(name for name in names if fnmatch.fnmatchcase(name, pattern))
    if not found:
        raise InputError(f"blocks={pattern!r} matches no module of the model")
    return found


def _lists(model: nn.Module) -> tuple[str, ...]:
    """The children of those lists of modules of one class that hold at least a quarter of what the largest one holds,
    so that an encoder and a decoder both count."""
    held: dict[str, int] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in held)
        kinds = {type(child) for child in module.children()}
        if isinstance(module, nn.ModuleList | nn.ModuleDict) and len(module) > 1 and len(kinds) == 1 and not inside:
            held[name] = sum(p.numel() for p in module.parameters())
    most = max(held.values(), default=0)
    chosen = [name for name, size in held.items() if size and size * 4 >= most]
    return tuple(f"{name}.{child}" for name in chosen for child, _ in model.get_submodule(name).named_children())
