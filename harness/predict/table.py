"""Predicts every row of a table of published runs, and says how far off it is.

Columns, of which most have a value where they are missing:

    model                           an architecture of MODELS; or hidden_size, layers, heads; or params_billion alone
    seq_len, vocab                  2048 and 51200, those of the model if it is named
    ffn_hidden_size, kv_heads       4 x hidden_size and heads
    gpus, tp, pp, dp                devices; degrees of 1; dp follows from the others
    micro_batch, global_batch       global_batch is micro_batch x dp
    data_parallel                   ddp, zero1, zero2 or zero3 anywhere in the text, fsdp is zero3; ddp
    recompute                       full, selective (attention's core), none, as Megatron-LM has it; full
    activation_checkpointing        full, selective (every second matrix product), none, as torchtitan has it
    precision, float8, compile      "float8" or "fp32" in the text; yes or no; yes or no
    flash_attention                 yes or no; yes in tables with activation_checkpointing
    sequence_parallel               yes or no; no
    virtual_stages                  stages of each rank of an interleaved schedule; 1
    step_time_ms | tflops_per_gpu | tokens_per_s_per_gpu, peak_reserved_gib      what was measured, if anything was
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError, UnknownNameError
from harness.predict.devices import Device
from harness.predict.fit import constant_mfu, errors, kendall_tau, regret
from harness.predict.memory import MemoryUse, peak_memory
from harness.predict.setup import PRECISIONS, Setup, check_product, format_fields
from harness.predict.shape import Shape
from harness.predict.time import step_time

GIB = 2**30


def _llama(width: int, layers: int, heads: int, kv_heads: int, hidden: int, vocab: int, seq_len: int) -> dict[str, Any]:
    given = {"width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads, "hidden": hidden, "vocab": vocab}
    return {**given, "seq_len": seq_len, "gated": True, "tied": False, "positions": False}


MODELS: dict[str, dict[str, Any]] = {
    "llama-2-7b": _llama(4096, 32, 32, 32, 11008, 32000, 4096),
    "llama-2-13b": _llama(5120, 40, 40, 40, 13824, 32000, 4096),
    "llama-2-70b": _llama(8192, 80, 64, 8, 28672, 32000, 4096),
    "llama-3.1-8b": _llama(4096, 32, 32, 8, 14336, 128256, 8192),
    "llama-3.1-70b": _llama(8192, 80, 64, 8, 28672, 128256, 8192),
    "llama-3.1-405b": _llama(16384, 126, 128, 8, 53248, 128256, 8192),
}
"""Published architectures (Touvron et al. 2023, arXiv:2307.09288; Grattafiori et al. 2024, arXiv:2407.21783)."""

GPT: dict[float, tuple[int, int, int]] = {
    0.125: (768, 12, 12), 0.35: (1024, 24, 16), 0.76: (1536, 24, 16), 1.3: (2048, 24, 16), 1.7: (2304, 24, 24),
    2.7: (2560, 32, 32), 3.6: (3072, 30, 32), 6.7: (4096, 32, 32), 7.5: (4096, 36, 32), 13.0: (5120, 40, 40),
    18.4: (6144, 40, 48), 22.0: (6144, 48, 64), 39.1: (8192, 48, 64), 76.1: (10240, 60, 80), 145.6: (12288, 80, 96),
    175.0: (12288, 96, 96), 310.1: (16384, 96, 128), 529.6: (20480, 105, 128), 1008.0: (25600, 128, 160),
}  # fmt: skip
"""Billions of parameters -> (hidden_size, layers, heads) of GPTs (Brown et al. 2020, arXiv:2005.14165, table 2.1;
Narayanan et al. 2021, arXiv:2104.04473, table 1; Korthikanti et al. 2022, arXiv:2205.05198, table 3)."""

TARGETS = ("step_time_ms", "tflops_per_gpu", "tokens_per_s_per_gpu")
TITAN = "activation_checkpointing"


class Row:
    """Cells of one row, read with sentences for what is wrong with them."""

    def __init__(self, number: int, cells: Mapping[str, str]) -> None:
        self.number, self.cells = number, cells

    def number_of(self, column: str, default: float | None = None) -> float:
        """A positive number.

        Raises:
            InputError: it is missing and there is no default, or it is none.
        """
        text = self.text(column)
        if not text:
            if default is None:
                raise InputError(f"row {self.number}: column {column} is missing")
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not 0 < value < float("inf"):
            raise InputError(f"row {self.number}: column {column} must be a positive number, but is {text!r}")
        return value

    def count(self, column: str, default: float | None = None) -> int:
        """A positive whole number."""
        value = self.number_of(column, default)
        if value != int(value):
            raise InputError(f"row {self.number}: column {column} must be a whole number, but is {value:g}")
        return int(value)

    def flag(self, column: str, default: bool = False) -> bool:
        """yes or no."""
        text = self.text(column).lower()
        if text in ("", "yes", "no", "true", "false", "1", "0"):
            return default if not text else text in ("yes", "true", "1")
        raise InputError(f"row {self.number}: column {column} must be yes or no, but is {text!r}")

    def one_of(self, column: str, values: Mapping[str, str], default: str) -> str:
        """What a word stands for."""
        text = self.text(column).lower() or default
        if text not in values:
            raise InputError(f"row {self.number}: column {column} must be one of {', '.join(values)}, but is {text!r}")
        return values[text]

    def text(self, column: str) -> str:
        """The cell without blanks around it; "" if there is none."""
        return (self.cells.get(column) or "").strip()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row: what ran, and what was measured of it."""

    shape: Shape
    setup: Setup
    gpus: int
    seconds: float | None
    """Measured step time."""
    reserved_gib: float | None
    """Measured peak of reserved memory."""


def read_table(path: Path) -> list[Run]:
    """The runs of a table of comma-separated values.

    Raises:
        InputError: the file cannot be read or has no rows; a row lacks a column or has a value that cannot be, or its
            degrees do not multiply to its devices.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            cells = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the table {path}: {error}") from None
    if not cells:
        raise InputError(f"the table {path} has no rows under its first line")
    return [read_row(Row(number, row)) for number, row in enumerate(cells, start=1)]


def read_row(row: Row) -> Run:
    """The run of one row.

    Raises:
        InputError: as `read_table`.
    """
    gpus, tp, pp = row.count("gpus"), row.count("tp", 1), row.count("pp", 1)
    dp = row.count("dp", max(1, gpus // (tp * pp)))
    check_product(f"row {row.number}", gpus, tp=tp, dp=dp, pp=pp)
    shape, micro = _shape(row), row.count("micro_batch")
    setup = _setup(row, tp=tp, dp=dp, pp=pp, micro=micro, batch=row.count("global_batch", micro * dp))
    reserved = row.number_of("peak_reserved_gib") if row.text("peak_reserved_gib") else None
    return Run(shape=shape, setup=setup, gpus=gpus, seconds=_seconds(row, shape, setup, gpus), reserved_gib=reserved)


def _shape(row: Row) -> Shape:
    name = row.text("model").lower() or ("llama-3.1-8b" if row.text(TITAN) and not row.text("hidden_size") else "")
    if name:
        if name not in MODELS:
            raise UnknownNameError(f"model in row {row.number}", name, MODELS)
        known = MODELS[name]
        return Shape(**{**known, "seq_len": row.count("seq_len", known["seq_len"])})
    if row.text("hidden_size"):
        width, layers, heads = (row.count(column) for column in ("hidden_size", "layers", "heads"))
    else:
        width, layers, heads = _by_size(row)
    return Shape(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=row.count("kv_heads", heads),
        hidden=row.count("ffn_hidden_size", 4 * width),
        seq_len=row.count("seq_len", 2048),
        vocab=row.count("vocab", 51200),
        biases=True,
    )


def _by_size(row: Row) -> tuple[int, int, int]:
    if not row.text("params_billion"):
        raise InputError(f"row {row.number}: column hidden_size is missing (or model, or params_billion)")
    size = row.number_of("params_billion")
    nearest = min(GPT, key=lambda known: abs(known - size))
    if abs(nearest / size - 1) > 0.03:
        raise InputError(
            f"row {row.number}: no published GPT has {size:g} billion parameters (the nearest has {nearest:g}); "
            "give hidden_size, layers and heads"
        )
    return GPT[nearest]


def _setup(row: Row, *, tp: int, dp: int, pp: int, micro: int, batch: int) -> Setup:
    titan, precision = bool(row.text(TITAN)), row.text("precision").lower()
    text = row.text("data_parallel").lower()
    kinds = {"zero1": "zero1", "zero2": "zero2", "zero3": "zero3", "fsdp": "zero3"}
    kind = next((kind for word, kind in kinds.items() if word in text), "ddp")
    formats = "fp32" if precision == "fp32" else "fsdp_mixed" if kind == "zero3" else "megatron"
    if titan:
        words = {"none": "none", "no": "none", "full": "full", "selective": "half"}
        recompute = row.one_of(TITAN, words, "none")
    else:
        words = {"none": "none", "no": "none", "full": "full", "selective": "attention"}
        recompute = row.one_of("recompute", words, "full")
    float8 = row.flag("float8") or "float8" in precision or "fp8" in precision
    stages = row.count("virtual_stages", 1)
    return Setup(
        dp=dp,
        tp=tp,
        pp=pp,
        data_parallel=kind if dp > 1 or kind != "ddp" else "none",
        micro_batch=micro,
        global_batch=batch,
        schedule="interleaved" if stages > 1 else "1f1b",
        stages_per_rank=stages,
        activation_checkpoint=recompute,
        quantization="float8" if float8 else "none",
        compile=row.flag("compile"),
        sequence_parallel=row.flag("sequence_parallel"),
        fused_attention=row.flag("flash_attention", titan),
        overlap=kind == "zero3",
        fused_elementwise=not titan,
        scatter_gather=not titan,
        keeps_gathered=titan,
        receives_apart=titan,
        dropout=not titan,
        balanced=False,
        **format_fields(PRECISIONS[formats]),
    )


def _seconds(row: Row, shape: Shape, setup: Setup, gpus: int) -> float | None:
    """The measured step time, from whichever way it was published.

    FLOP/s of Megatron-LM count recomputed ones: B s l h^2 (96 + 16 s / h + 6 V / (l h)), or without full recomputation
    three quarters of the layers' part (Narayanan et al. 2021, arXiv:2104.04473, appendix; Korthikanti et al. 2022).
    """
    target = next((column for column in TARGETS if row.text(column)), None)
    if target is None:
        return None
    value, tokens = row.number_of(target), float(setup.global_batch * shape.seq_len)
    if target == "step_time_ms":
        return value / 1e3
    if target == "tokens_per_s_per_gpu":
        return tokens / (value * gpus)
    passes = 4 if setup.activation_checkpoint == "full" else 3
    layer = passes * (2 * shape.layer_weights + 4 * shape.seq_len * shape.width)
    return float(tokens * (shape.layers * layer + 6 * shape.vocab * shape.width) / (value * 1e12 * gpus))


def stacked(runs: Sequence[Run]) -> tuple[Shape, Setup]:
    """All runs as one shape and one setup of arrays."""
    shape = {f.name: np.array([getattr(run.shape, f.name) for run in runs]) for f in fields(Shape)}
    return Shape(**shape), Setup.stack([run.setup for run in runs])


def predict_table(path: Path, device: Device) -> dict[str, Any]:
    """Predictions for every row of a table.

    Returns:
        rows: the row's number, predicted step time, tokens/s of a device, MFU, shares of bubble and exposed
            communication, memory by category; measured step time and memory, and relative errors, if there are any.
        mape_step_time, mape_constant_mfu, kendall_tau, top1_regret, mape_reserved: over rows that were measured, None
            without any. The constant MFU is that of the other rows. Regret is the mean over groups of the same devices,
            model, seq_len and global_batch.

    Raises:
        InputError: as `read_table`.
    """
    runs = read_table(path)
    shape, setup = stacked(runs)
    time, memory = step_time(shape, setup, device), peak_memory(shape, setup, device)
    n = len(runs)
    columns = {
        "step_time_s": time.total,
        "tokens_per_s_per_device": time.tokens_per_s / setup.world_size,
        "mfu": time.mfu,
        "bubble_share": time.bubble / time.total,
        "exposed_communication_share": time.exposed_communication / time.total,
        "peak_reserved_bytes": memory.reserved,
        "peak_memory_bytes": memory.total,
        **{f"{f.name}_bytes": getattr(memory, f.name) for f in fields(MemoryUse)},
    }
    table = {name: np.broadcast_to(values, n) for name, values in columns.items()}
    rows = [_row(i, run, {name: float(values[i]) for name, values in table.items()}) for i, run in enumerate(runs)]
    return {"rows": rows, **_scores(runs, table["step_time_s"], table["peak_reserved_bytes"], shape)}


def _row(index: int, run: Run, predicted: Mapping[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = {"row": index + 1, **predicted}
    if run.seconds is not None:
        found["measured_step_time_s"] = run.seconds
        found["error_step_time"] = predicted["step_time_s"] / run.seconds - 1
    if run.reserved_gib is not None:
        found["measured_peak_reserved_bytes"] = run.reserved_gib * GIB
        found["error_peak_reserved"] = predicted["peak_reserved_bytes"] / (run.reserved_gib * GIB) - 1
    return found


def _scores(runs: Sequence[Run], step_s: Any, reserved: Any, shape: Shape) -> dict[str, float | None]:
    timed = np.array([run.seconds is not None for run in runs])
    weighed = np.array([run.reserved_gib is not None for run in runs])
    scores: dict[str, float | None] = dict.fromkeys(
        ("mape_step_time", "mape_constant_mfu", "kendall_tau", "top1_regret", "mape_reserved")
    )
    if weighed.any():
        measured = np.array([(run.reserved_gib or 0) * GIB for run in runs])
        scores["mape_reserved"] = errors(reserved[weighed], measured[weighed]).mape
    if not timed.any():
        return scores
    measured, predicted = np.array([run.seconds or 0.0 for run in runs])[timed], np.asarray(step_s)[timed]
    tokens = np.array([run.setup.global_batch * run.shape.seq_len / run.gpus for run in runs])
    baseline = constant_mfu((tokens * shape.flops_per_token)[timed], measured)
    chosen = [run for run, known in zip(runs, timed, strict=True) if known]
    scores["mape_step_time"] = errors(predicted, measured).mape
    scores["mape_constant_mfu"] = errors(baseline, measured).mape
    scores["kendall_tau"] = kendall_tau(predicted, measured)
    scores["top1_regret"] = mean_over_groups(chosen, predicted, measured, regret)
    return scores


def mean_over_groups(
    runs: Sequence[Run], predicted: Any, measured: Any, score: Callable[[Any, Any], float | None]
) -> float | None:
    """The mean of a score over groups of at least two runs that differ only in how the model is trained."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        groups[run.gpus, run.shape, run.setup.global_batch].append(index)
    found = [score(predicted[i], measured[i]) for i in groups.values() if len(i) > 1]
    known = [value for value in found if value is not None]
    return float(np.mean(known)) if known else None
