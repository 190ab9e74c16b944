"""One trial on a real accelerator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]

RUN = [
    sys.executable,
    "-m",
    "harness",
    "run",
    "--json",
    "--world-size",
    "1",
    "--workload",
    "gpt-mini",
    "--measure",
    "1s",
]


@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast", "bf16_params", "bf16", "fp16"])
def test_one_device_trains_and_passes_the_numerics(tmp_path: Path, precision: str) -> None:
    ended = subprocess.run(
        [*RUN, "--set", f"precision={precision}", "--set", "micro_batch_size=8"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    row = json.loads(ended.stdout)
    assert row["outcome"] == "ok"
    assert row["numerics"] == "pass"
    assert row["peak_reserved_bytes"] >= row["peak_memory_bytes"] > row["memory_params_bytes"]


def test_a_memory_limit_of_a_device_ends_in_oom_device(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*RUN, "--set", "micro_batch_size=16", "--memory-limit", "500MiB"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["outcome"] == "oom_device"
