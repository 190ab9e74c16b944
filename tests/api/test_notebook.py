"""A sweep in a real kernel: what the user defined in cells is trained, what is shown is what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from harness.store.store import Store

CELLS = (
    """
import torch
from torch import nn
import harness

WIDTH = 8

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
    def forward(self, x):
        return self.b(self.a(x).relu())

def batch(step, indices):
    rows = torch.from_numpy(indices).float() + step
    return rows[:, None] * torch.ones(3), rows.long() % 2
""",
    """
result = harness.sweep(
    model=lambda: Net(), batch=batch,
    loss=lambda out, b: (nn.functional.cross_entropy(out, b["y"], reduction="sum"), len(b["y"])),
    trials=2, name="mine", world_size=2, strategies="ddp,zero1", sampler="random", relaunches=0, measure="0.3s",
)
result
""",
    "print(*result.frame['trial_id'], result.winner.label, result.page.exists(), sep='\\n')",
)
INTERRUPTED = """
import signal
from harness.sweeps.display import SweepDisplay
usual = SweepDisplay.recorded
def recorded(self, result):
    usual(self, result)
    signal.raise_signal(signal.SIGINT)
SweepDisplay.recorded = recorded
ended = harness.sweep(
    model=Net, batch=batch, name="ended", trials=50, world_size=2, strategies="ddp", sampler="random",
    loss=lambda out, b: (nn.functional.cross_entropy(out, b["y"], reduction="sum"), len(b["y"])), measure="0.3s",
)
print(ended.interrupted, len(ended.frame))
"""


def text(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.launching
def test_a_notebook_sweeps_what_its_cells_define_and_resumes_and_outlives_an_interrupt(tmp_path: Path) -> None:
    first, sweep, printed = CELLS
    again = sweep.replace("trials=2", "trials=3")  # the same workload in another line of another cell
    sources = (first, sweep, printed, again, printed, INTERRUPTED, "print('alive')")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=resources).execute()

    shown = next(o.data for o in notebook.cells[1].outputs if o.output_type == "execute_result")
    *ids, label, there = text(notebook.cells[2]).split("\n")[:-1]
    assert there == "True"
    assert label in shown["text/html"]
    assert "mine" in shown["text/plain"]
    *more, _, _ = text(notebook.cells[4]).split("\n")[:-1]
    assert more[: len(ids)] == ids
    recorded = Store(tmp_path / "results").trials("mine")
    assert list(recorded["trial_id"]) == more
    assert (recorded["study_trial"].nunique(), set(recorded["outcome"])) == (3, {"ok"})
    assert recorded["workload_id"].nunique() == 1
    assert text(notebook.cells[5]).splitlines()[-1] == "True 1"
    assert text(notebook.cells[6]) == "alive\n"
