"""Do architectures of transformers follow one process under every strategy?

The configurations of tests/families.py (5 layers, 6 heads, 2 key-value heads where they are grouped, a vocabulary of
257) and a file of the user's, with tokens drawn, 8 samples a step. A cell is the largest relative difference of losses,
or a tenth of that of gradient norms, over 8 steps on 2 ranks (4 where two axes are divided), or the sentence that
refuses the plan. Goal: at most 1e-4 in fp32, and at least 85 % of the cells run. Exit status 1 if a plan that runs does
not follow.

--match WORD: families whose name contains it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from harness.workloads.workload import Workload
    from tests.tiny import Laboratory

ROOT = common.HERE.parent
PLANS: dict[str, dict[str, Any]] = {
    "ddp": {"dp": 2, "data_parallel": "ddp"},
    "zero1": {"dp": 2, "data_parallel": "zero1"},
    "zero1 torch": {"dp": 2, "data_parallel": "zero1", "zero1_impl": "torch"},
    "zero2": {"dp": 2, "data_parallel": "zero2"},
    "zero2 fsdp2": {"dp": 2, "data_parallel": "zero2", "zero2_impl": "fsdp2"},
    "zero3": {"dp": 2, "data_parallel": "zero3"},
    "tp": {"tp": 2},
    "tp, sequence": {"tp": 2, "sequence_parallel": True},
    "pp": {"pp": 2},
    "tp x dp": {"tp": 2, "dp": 2, "data_parallel": "zero1"},
    "recomputed": {"dp": 2, "data_parallel": "ddp", "activation_checkpoint": "full"},
    "bf16": {"dp": 2, "data_parallel": "ddp", "precision": "bf16_params"},
    "LoRA": {"dp": 2, "data_parallel": "zero3"},
}


def main() -> int:
    """Run the cells and print the table."""
    given = common.arguments(__doc__, match="")
    sys.path.insert(0, str(ROOT))
    from harness import launchers
    from harness.rank import preload_for
    from tests.families import FAMILIES
    from tests.tiny import Laboratory

    names = [name for name in (*FAMILIES, "own file") if given.match in name]
    rows, ran, exact, cells, reasons = [], 0, 0, 0, []
    with (
        tempfile.TemporaryDirectory() as text,
        launchers.create("local", (*preload_for("hf:"), "tests.tiny")) as launcher,
    ):
        folder = Path(text)
        laboratory = Laboratory(launcher, folder / "results")
        for name in names:
            row = [name]
            for plan, settings in PLANS.items():
                cell, why = _cell(laboratory, name, plan, settings, folder)
                row.append(cell)
                cells, ran = cells + 1, ran + (not why)
                exact += not why and (plan == "bf16" or float(cell) <= 1e-4)
                if why:
                    reasons.append(f"{name}, {plan}: {why}")
                print(f"{name}, {plan}: {why or cell}", file=sys.stderr)
            rows.append(row)
    said = f"{ran} of {cells} cells run ({100 * ran / cells:.0f} %; goal 85 %), {exact} of them within 1e-4 or in bf16."
    common.print_table(("family", *PLANS), rows, said)
    print("\n".join(f"- {reason}" for reason in reasons))
    return 0 if exact == ran else 1


def _workload(name: str, plan: str, folder: Path) -> Workload:
    from harness.workloads import create
    from tests.families import written

    if name == "own file":
        made = create(f"{ROOT}/tests/example_model/mixer.py:workload", cache=folder, global_batch_size=8)
    else:
        fields = ",lora=4" if plan == "LoRA" else ""
        length = None if name == "vit" else 32
        made = create(f"hf:{written(name, folder)}{fields}", cache=folder, seq_len=length, global_batch_size=8)
    made.prepare()
    return made


def _cell(laboratory: Laboratory, name: str, plan: str, settings: dict[str, Any], folder: Path) -> tuple[str, str]:
    """(what stands in the table, why the plan is refused)."""
    from tests.tiny import why_not

    if name == "own file" and plan == "LoRA":
        return "refused", "adapters are for models of transformers"
    workload, way = _workload(name, plan, folder), {"micro_batch_size": 2, **settings}
    if reason := why_not(way, workload):
        return "refused", reason
    row = laboratory.run(way, workload)
    if row["outcome"] != "ok":
        return str(row["outcome"]), str(row["outcome_reason"])
    return f"{row['numerics_max_rel_error']:.0e}", ""


if __name__ == "__main__":
    sys.exit(main())
