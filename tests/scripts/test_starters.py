"""Each knobs file to start from is read beside a small configuration of its tool, and what it renders is parsed by the
tool itself where that is installed."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError, InputError
from harness.scripts import key_paths, starters
from harness.scripts.knobs_file import KnobsFile, read
from harness.scripts.rendering import Rendered, render
from harness.search.choosers import at_random
from harness.sweeps.script_space import ScriptSpace
from strategies.knob import Setting

BESIDE: dict[str, dict[str, Any]] = {
    "deepspeed": {
        "ds_config.json": {
            "train_batch_size": 256,
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-3}},
            "zero_optimization": {"stage": 2},
        }
    },
    "accelerate": {
        "accelerate.yaml": {
            "compute_environment": "LOCAL_MACHINE",
            "distributed_type": "MULTI_GPU",
            "num_processes": 8,
            "mixed_precision": "no",
        }
    },
    "lightning": {"config.yaml": {"trainer": {"max_epochs": 1}, "data": {"init_args": {"batch_size": 1}}}},
}
"""Tool -> the files that lie beside its knobs file."""


def started(tool: str, folder: Path) -> KnobsFile:
    for name, content in BESIDE.get(tool, {}).items():
        key_paths.save(content, folder / name)
    assert starters.write(tool, folder / "knobs.toml")
    return read(folder / "knobs.toml")


def changed(tool: str, folder: Path) -> list[tuple[Mapping[str, Setting], Rendered, Path]]:
    """The plan that everything is compared with, and some that are drawn: each whole, what is rendered, and where."""
    script = started(tool, folder)
    space, chooser = ScriptSpace(script), at_random(random.Random(0))
    drawn = [plan for plan in (space.draw(chooser) for _ in range(60)) if space.why_not(plan) is None]
    assert len(drawn) > 10
    found = []
    for number, plan in enumerate([space.baseline, *drawn]):
        trial = folder / f"trial{number}"
        trial.mkdir()
        whole = script.plan(plan)
        found.append((whole, render(script, whole, trial), trial))
    return found


def after(word: str, rendered: Rendered) -> list[str]:
    return list(rendered.command[rendered.command.index(word) + 1 :])


@pytest.mark.parametrize("tool", starters.names())
def test_every_tool_has_a_file_that_is_valid_and_searches_something(tool: str, tmp_path: Path) -> None:
    script = started(tool, tmp_path)
    whole = script.plan({})
    assert script.why_not(whole) is None
    known = script.columns(whole)
    assert {"micro_batch_size", "global_batch_size", "grad_accumulation", "precision", "dp"} - known.keys() <= (
        {"precision"} if tool == "megatron" else set()
    )
    batch = known["micro_batch_size"] * known["grad_accumulation"] * known["dp"]  # type: ignore[operator]
    assert batch == known["global_batch_size"] == script.batch(whole, int(whole["ranks"]))["samples_per_step"]
    assert script.world_size is not None
    assert script.world_size.value(whole) == whole["ranks"]
    assert len([knob for knob in script.free if len(knob.grid) > 1]) >= 3
    assert all(each.because for each in script.require)


@pytest.mark.parametrize("tool", starters.names())
def test_what_does_not_divide_the_global_batch_is_refused_in_a_sentence(tool: str, tmp_path: Path) -> None:
    text = starters.text(tool)
    (line,) = [each for each in text.splitlines() if each.startswith("values") and "optimizer step of all" in each]
    for name, content in BESIDE.get(tool, {}).items():
        key_paths.save(content, tmp_path / name)
    (tmp_path / "knobs.toml").write_text(text.replace(line, "values = [20]"))
    script = read(tmp_path / "knobs.toml")
    assert script.why_not(script.plan({})) == "ranks and micro-batch do not divide the global batch"


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "knobs.toml"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        starters.write("deepspeed", path)
    assert path.read_text() == "mine"
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        starters.write("deepspeed", tmp_path / "nowhere" / "knobs.toml")


def test_a_tool_that_nobody_knows_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="unknown tool 'depspeed': did you mean 'deepspeed'"):
        starters.write("depspeed", tmp_path / "knobs.toml")
    assert not list(tmp_path.iterdir())


def test_the_command_says_which_lines_are_to_be_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.cli.knobs_commands import init

    monkeypatch.chdir(tmp_path)
    assert init("trainer", Path("my knobs.toml")) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = Path("my knobs.toml").read_text().splitlines()
    told = [each.split(None, 2) for each in printed if each.startswith("  line ")]
    assert [int(number) for _, number, _ in told] == [at for at, line in enumerate(lines, 1) if "FILL IN" in line]
    assert all(lines[int(number) - 1].strip() == line for _, number, line in told)
    assert printed[-1].endswith("sweep --knobs 'my knobs.toml'")


# -- what the tools themselves say of what is rendered


def test_accelerate_takes_its_files_and_options(tmp_path: Path) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    launch = pytest.importorskip("accelerate.commands.launch")
    from accelerate.utils import DynamoBackend, PrecisionType

    for plan, rendered, trial in changed("accelerate", tmp_path):
        loaded = config_args.load_config_from_file(str(trial / "config.yaml"))
        options = launch.launch_command_parser().parse_args(after("launch", rendered))
        assert options.training_script == "train.py"
        assert PrecisionType(loaded.mixed_precision)
        assert DynamoBackend(loaded.dynamo_config["dynamo_backend"])
        assert {"fsdp_version"} <= vars(options).keys()
        assert (loaded.fsdp_config or {}).keys() <= vars(options).keys()
        assert (loaded.distributed_type.value == "FSDP") == (plan["data_parallel"] == "FSDP")


def test_the_trainer_takes_its_options(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    parser = transformers.HfArgumentParser(transformers.TrainingArguments)
    for plan, rendered, trial in changed("trainer", tmp_path):
        found = parser.parse_args(after("train.py", rendered))
        assert found.output_dir == f"{trial}/out"
        assert found.bf16 == (plan["precision"] == "bf16_autocast")
        assert bool(found.fsdp) == (plan["data_parallel"] == "zero3")
        assert found.torch_compile == plan["compile"]
        assert bool(found.gradient_checkpointing) == (plan["activation_checkpoint"] == "full")
        assert found.per_device_train_batch_size * found.gradient_accumulation_steps * 8 == 256
        assert transformers.training_args.OptimizerNames(found.optim)


def test_deepspeed_takes_its_file(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for plan, _, trial in changed("deepspeed", tmp_path):
        written = json.loads((trial / "ds.json").read_text())
        zero = DeepSpeedZeroConfig(**written["zero_optimization"])  # refuses what it does not know
        assert zero.stage == plan["zero_stage"]
        assert DeepSpeedBF16Config(**written["bf16"]).enabled == (plan["precision"] == "bf16")
        assert not DeepSpeedFP16Config(**written["fp16"]).enabled
        assert written["train_micro_batch_size_per_gpu"] * written["gradient_accumulation_steps"] * 8 == 256


def test_lightning_takes_its_file(tmp_path: Path) -> None:
    package = pytest.importorskip("lightning.pytorch")
    from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT_STR

    names = inspect.signature(package.Trainer.__init__).parameters
    precisions = str(_PRECISION_INPUT_STR)
    for plan, _, trial in changed("lightning", tmp_path):
        written = key_paths.load(trial / "config.yaml")["trainer"]
        assert written.keys() <= names.keys()
        assert repr(written["precision"]) in precisions
        assert written["strategy"] == plan["data_parallel"]
        assert written["strategy"] in package.strategies.StrategyRegistry.available_strategies()
