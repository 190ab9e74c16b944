"""Step time and memory of published runs, predicted by closed forms that were never fitted to them.

`--reference` is a folder with four tables (columns as `harness.predict.table` reads them):

    a100_megatron_multi_node.csv          step times of two GPTs on 64 and 512 A100-80G
    a100_megatron_single_node.csv         of small GPTs on 1 to 8, composed of profiled pieces
    megatron_a100_80g_weak_scaling.csv    TFLOP/s of ten GPTs on 32 to 3,072 A100-80G
    torchtitan_llama31_8b_h100.csv        tokens/s and reserved memory of Llama-3.1-8B on 8 and 128 H100

Multi-node rows of each model are predicted from a fit to the other model's and the single-node rows, single-node rows
of each width from a fit to the other width's and the multi-node rows; weak scaling from a fit to both. Of H100, one
constant (the share of its peak that matrix products reach) is fitted to the rows of 8 devices.

Rows that lie beside this script, in `published`: eight Megatron runs of 22 B to 1 T parameters, to which nothing is
fitted (Korthikanti et al. 2022, arXiv:2205.05198, table 5), and MPT trained with FSDP (LLM-foundry's table of
benchmarks, 2023) on A100 and on H100 at 700 W, to which the share of the peak that fused attention reaches is fitted,
and on H100 that of matrix products: each size is predicted from a fit to the other ones, A100-40 from a fit to A100-80.

What a layer takes can be read off the single-node rows, as they are put together from pieces: a table of its own.
The last table has the constants fitted to all rows of the first two files: what `harness/predict/devices` ships.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from harness.predict.devices import Device
    from harness.predict.fit import Floats, Observed
    from harness.predict.table import Run

LITTLE = 0.3
"""Trust in the priors of constants that are fitted to these rows alone."""
COMPOSED = 0.5
"""Weight of single-node residuals: these rows are put together from pieces that several of them share."""
HEADER = ("rows", "fitted on", "n", "MAPE", "median", "P95", "Kendall tau", "regret of the top choice", "constant MFU")


def read(folder: Path, name: str) -> list[Run]:
    """The runs of one file; ends the script with a sentence if it cannot be read."""
    from harness.errors import InputError
    from harness.predict.table import read_table

    try:
        return read_table(folder / name)
    except InputError as error:
        sys.exit(str(error))


def observed(runs: Sequence[Run], weight: float = 1.0) -> Observed:
    """Runs as the fit takes them."""
    import numpy as np

    from harness.predict.fit import Observed
    from harness.predict.table import stacked

    shape, setup = stacked(runs)
    return Observed(shape=shape, setup=setup, seconds=np.array([run.seconds for run in runs]), weight=weight)


def split(runs: Sequence[Run], key: Callable[[Run], str]) -> dict[str, list[Run]]:
    """Runs by what `key` says of them."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def held_out(
    device: Device,
    groups: Mapping[str, list[Run]],
    weight: float = 1.0,
    always: Sequence[Observed] = (),
    **options: Any,
) -> tuple[list[Run], Floats]:
    """All runs, and what fits to the other groups predict of each; options are those of `harness.predict.fit`."""
    import numpy as np

    from harness.predict.fit import leave_out

    predicted = leave_out(device, {name: observed(runs, weight) for name, runs in groups.items()}, always, **options)
    return [run for runs in groups.values() for run in runs], np.concatenate([predicted[name] for name in groups])


def line(name: str, fitted: str, runs: Sequence[Run], predicted: Any) -> list[str]:
    """One line of the table of errors."""
    from harness.predict.fit import constant_mfu, errors, kendall_tau, regret
    from harness.predict.table import mean_over_groups

    seen = observed(runs)
    off = errors(predicted, seen.seconds)
    work = seen.setup.global_batch * seen.shape.seq_len * seen.shape.flops_per_token / seen.setup.world_size
    baseline = errors(constant_mfu(work, seen.seconds), seen.seconds).mape
    tau = kendall_tau(predicted, seen.seconds)
    lost = mean_over_groups(runs, predicted, seen.seconds, regret)
    percents = [f"{value:.1%}" for value in (off.mape, off.median, off.p95)]
    return [
        name,
        fitted,
        str(len(runs)),
        *percents,
        "" if tau is None else f"{tau:.2f}",
        "" if lost is None else f"{lost:.1%}",
        f"{baseline:.1%}",
    ]


def a100(folder: Path, device: Device) -> tuple[list[list[str]], Device]:
    """Lines of the three A100 tables, and the device fitted to all rows of the first two."""
    from harness.predict.devices import device as described
    from harness.predict.fit import fit

    multi, single = read(folder, "a100_megatron_multi_node.csv"), read(folder, "a100_megatron_single_node.csv")
    lines = []
    by_model = split(multi, lambda run: f"{run.shape.parameters / 1e9:.1f} B")
    for name, runs in by_model.items():
        others = {n: r for n, r in by_model.items() if n != name}
        known = fit(device, [*(observed(r) for r in others.values()), observed(single, COMPOSED)])
        lines.append(line(f"multi-node, {name}", "other model, single node", runs, observed(runs).predicted(known)))
    runs, predicted = held_out(device, by_model, always=[observed(single, COMPOSED)])
    lines.append(line("multi-node, both", "other model, single node", runs, predicted))
    by_width = split(single, lambda run: f"width {run.shape.width}")
    runs, predicted = held_out(device, by_width, COMPOSED, [observed(multi)])
    lines.append(line("single node", "other width, multi-node", runs, predicted))
    everything = fit(device, [observed(multi), observed(single, COMPOSED)])
    weak = read(folder, "megatron_a100_80g_weak_scaling.csv")
    wide = replace(described("A100-80"), efficiency=everything.efficiency)
    lines.append(line("weak scaling", "multi-node, single node", weak, observed(weak).predicted(wide)))
    return lines, everything


def beside(efficiency: Any) -> tuple[list[list[str]], list[list[str]]]:
    """Lines of the tables beside this script, and the constants that are fitted to them."""
    from harness.predict.devices import device as described
    from harness.predict.fit import fit

    folder = common.HERE / "published"
    large, hopper = (replace(described(name), efficiency=efficiency) for name in ("A100-80", "H100"))
    megatron = read(folder, "megatron_a100_80g_recompute.csv")
    lines = [line("Megatron, A100-80", "never", megatron, observed(megatron).predicted(large))]
    constants = []
    for device, name, free in (
        (large, "mpt_a100_80g.csv", ["attention_share"]),
        (hopper, "mpt_h100.csv", ["attention_share", "matmul_share"]),
    ):
        runs = read(folder, name)
        by_size = split(runs, lambda run: str(run.shape.width))
        fitted = f"{' and '.join(free)} on other sizes"
        lines.append(line(f"MPT, {device.name}", fitted, *held_out(device, by_size, names=free, trust=LITTLE)))
        own = fit(device, [observed(runs)], free, trust=LITTLE).efficiency
        constants += [[device.name, constant, f"{float(getattr(own, constant)):.3g}"] for constant in free]
        if device is large:
            few = read(folder, "mpt_a100_40g.csv")
            small = replace(described("A100-40"), efficiency=own)
            lines.append(line("MPT, A100-40", "A100-80", few, observed(few).predicted(small)))
    return lines, constants


def read_off(folder: Path, device: Device) -> list[list[str]]:
    """Milliseconds of a layer and of the rest of a micro-batch: single-node rows without a pipeline are linear in both.

    Rows of one model, micro-batch and layout differ in the number of micro-batches, so their slope is what one takes;
    over the depths of the model, the slope of that is a layer. Beside each stands what a fit to the other width and to
    the multi-node rows predicts.
    """
    import numpy as np

    from harness.predict.costs import head_seconds, layer_seconds
    from harness.predict.fit import fit

    multi = observed(read(folder, "a100_megatron_multi_node.csv"))
    by_width = split(read(folder, "a100_megatron_single_node.csv"), lambda run: str(run.shape.width))
    lines = []
    for width, runs in by_width.items():
        others = [run for name, more in by_width.items() if name != width for run in more]
        known = fit(device, [multi, observed(others, COMPOSED)])
        alone = [run for run in runs if run.setup.pp == 1]
        for name, alike in sorted(split(alone, lambda run: f"{run.setup.tp} {run.setup.micro_batch}").items()):
            slopes = []
            for same in split(alike, lambda run: f"{run.shape.layers} {run.setup.dp}").values():
                counts = {float(run.setup.micro_batches): run.seconds for run in same}
                if len(counts) > 1:
                    slopes.append((float(same[0].shape.layers), np.polyfit([*counts], [*counts.values()], 1)[0]))
            if len({layers for layers, _ in slopes}) < 2:
                continue
            layer, rest = np.polyfit(*zip(*slopes, strict=True), 1)
            one = alike[0]
            predicted = (layer_seconds(one.shape, one.setup, known).total, head_seconds(one.shape, one.setup, known))
            cells = (layer, predicted[0], rest, predicted[1])
            lines.append([width, *name.split(), *(f"{1e3 * float(seconds):.2f}" for seconds in cells)])
    return lines


def h100(folder: Path, efficiency: Any) -> tuple[list[list[str]], list[list[str]], float]:
    """Lines of the H100 table: tokens/s with and without its own constant, reserved memory; and that constant."""
    from harness.predict.devices import device as described
    from harness.predict.fit import fit
    from harness.predict.memory import peak_memory
    from harness.predict.table import GIB, stacked

    runs = read(folder, "torchtitan_llama31_8b_h100.csv")
    shipped = described("H100")
    share = replace(efficiency, attention_share=shipped.efficiency.attention_share)
    plain = replace(shipped, efficiency=share)
    few = [run for run in runs if run.gpus == 8]
    own = fit(plain, [observed(few)], ["matmul_share"], trust=0.1)
    lines = []
    for gpus, chosen in split(runs, lambda run: str(run.gpus)).items():
        seen = observed(chosen)
        lines.append(line(f"{gpus} H100", "A100's constants", chosen, seen.predicted(plain)))
        fitted = "A100's, one constant on these" if gpus == "8" else "A100's, one constant on 8 H100"
        lines.append(line(f"{gpus} H100", fitted, chosen, seen.predicted(own)))
    predicted = peak_memory(*stacked(runs)).reserved / GIB
    memory = []
    for run, gib in zip(runs, predicted, strict=True):
        measured = run.reserved_gib or 0.0
        kind = f"{run.gpus} H100{', compiled' if run.setup.compile else ''}, {run.setup.quantization}"
        memory.append([kind, f"{measured:.1f}", f"{gib:.1f}", f"{gib / measured - 1:+.1%}"])
    return lines, memory, float(own.efficiency.matmul_share)


def main() -> None:
    """Print the tables."""
    options = common.arguments(__doc__, reference="")
    if not options.reference:
        sys.exit("--reference must name the folder with the four tables")
    from harness.predict.devices import Efficiency
    from harness.predict.devices import device as described

    folder = Path(options.reference)
    lines, fitted = a100(folder, described("A100-80-4xHDR"))
    more, memory, share = h100(folder, fitted.efficiency)
    published, own = beside(fitted.efficiency)
    common.print_table(HEADER, [*lines, *more, *published])
    common.print_table(("run", "reserved, GiB", "predicted", "error"), memory)
    parts = ("width", "tp", "micro-batch", "a layer, ms", "predicted", "rest of a micro-batch, ms", "predicted")
    common.print_table(parts, read_off(folder, described("A100-80-4xHDR")), "Read off the single-node rows.")
    common.print_table(("device", "constant", "fitted to MPT"), own)
    names = [
        f.name for f in fields(Efficiency) if f.name != "attention_share"
    ]  # which no run of these says anything of
    constants = [[name, f"{getattr(fitted.efficiency, name):.3g}"] for name in names]
    common.print_table(("constant", "fitted to all A100 rows"), constants, f"matmul_share of H100: {share:.3g}")


if __name__ == "__main__":
    main()
