"""predict and replay on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from harness.cli.app import app
from harness.machine.hardware import detect
from harness.store.store import Store
from tests.predict.test_this_machine import calibration

HEADER = "hidden_size,heads,layers,seq_len,gpus,tp,dp,pp,micro_batch,global_batch,step_time_ms\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def harness(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str) -> dict[str, object]:
    found = harness(*arguments, "--json")
    assert found.exit_code == 0, found.output
    return dict(json.loads(found.stdout.splitlines()[-1]))


def grid(path: Path) -> Path:
    """Two groups of invented times."""
    rows = []
    for layers in (8, 16):
        for tp, dp, pp in ((1, 8, 1), (2, 4, 1), (4, 2, 1), (8, 1, 1), (1, 4, 2)):
            for micro in (1, 2):
                milliseconds = layers * (1 + 0.4 * tp + 0.2 * pp + 0.3 / micro)
                rows.append(f"1024,16,{layers},1024,8,{tp},{dp},{pp},{micro},16,{milliseconds}")
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


def test_plans_of_a_cluster_are_ranked_with_memory_shares_and_where_the_error_is_from() -> None:
    found = answer("predict", "--workload", "124m", "--cluster", "8xH100", "--top", "3")
    plans = found["plans"]
    assert isinstance(plans, list)
    assert len(plans) == 3
    assert plans[0]["tokens_per_s"] >= plans[1]["tokens_per_s"]
    assert sum(plans[0]["memory_bytes"].values()) == pytest.approx(plans[0]["needed_bytes"])
    assert found["devices"] == 8
    assert found["error_band"]["p95"] > found["error_band"]["median"]  # type: ignore[index]
    assert plans[0]["tokens_per_s_low"] < plans[0]["tokens_per_s"] < plans[0]["tokens_per_s_high"]


def test_the_text_names_each_plan_once() -> None:
    printed = harness("predict", "--workload", "124m", "--cluster", "8xH100", "--top", "2").stdout.splitlines()
    assert printed[0].startswith("workload  gpt-124m, global batch")
    assert "plain PyTorch" in printed[3]
    assert len(printed) == 8


def test_one_plan_can_be_asked_for() -> None:
    settings = ("data_parallel=zero3", "tp=2", "micro_batch_size=1", "activation_checkpoint=full")
    given = [word for pair in settings for word in ("--set", pair)]
    found = answer("predict", "--workload", "124m", "--cluster", "8xH100", *given)
    plans = found["plans"]
    assert isinstance(plans, list)
    assert {(plan["plan"]["data_parallel"], plan["plan"]["tp"]) for plan in plans} == {("zero3", 2)}


MIXTRAL = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
"""Mixtral-8x7B."""


def test_every_device_is_told_how_many_of_it_train_a_model_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    options = ("--workload", "hf:config.json", "--seq-len", "1024", "--set", "data_parallel=zero3", "--set", "tp=8")
    found = answer("predict", "--fits", *options)
    rows = {row["device"]: row for row in found["devices"]}  # type: ignore[attr-defined]
    assert {"H100", "H200", "RTX 4090"} <= set(rows)
    assert rows["H200"]["number"] <= rows["H100"]["number"]
    h100 = rows["H100"]
    assert h100["nodes"] == h100["number"] // 8
    assert sum(h100["needed_by_category"].values()) == pytest.approx(h100["needed_bytes"])
    assert h100["needed_bytes"] <= h100["memory_bytes"]
    assert any("8 experts, of which a token goes through 2" in note for note in found["notes"])  # type: ignore[attr-defined]
    printed = harness("predict", "--fits", *options, "--set", "micro_batch_size=2048", "--global-batch", "4096").stdout
    assert "no described device trains it, not even 1,024 of them" in printed


def test_the_first_plan_is_traced_on_request() -> None:
    found = answer("predict", "--workload", "gpt-nano", "--cluster", "2x8xH100", "--top", "1", "--trace")
    traced = found["trace"]
    assert isinstance(traced, dict)
    assert traced["peak_tensor_bytes"] == pytest.approx(sum(traced["tensor_bytes"].values()), rel=1e-6)
    assert traced["operators"] > 100
    assert traced["collectives"]


def test_the_page_stands_alone(tmp_path: Path) -> None:
    found = answer("predict", "--workload", "124m", "--cluster", "2x8xA100-80", "--top", "3", "--page")
    text = Path(str(found["page"])).read_text()
    assert "nothing was measured here" in text
    assert 'id="degrees"' in text


def test_a_table_is_predicted_row_by_row(tmp_path: Path) -> None:
    found = answer("predict", "--table", str(grid(tmp_path / "runs.csv")), "--hardware", "A100-80")
    rows = found["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 20
    assert {"mape_step_time", "mape_constant_mfu", "kendall_tau", "top1_regret"} <= set(found)
    printed = harness("predict", "--table", "runs.csv", "--hardware", "A100-80").stdout
    assert "mape_step_time" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("predict --cluster 64x8xH10", "unknown device 'H10': did you mean 'H100'? valid are"),
        ("predict --cluster 2x9xH100", "a node of H100 has 8 devices"),
        ("predict --workload gtp --cluster 8xH100", "unknown workload 'gtp'"),
        ("predict --workload 1.3b --cluster 8xH100 --set tp=3", "tp may only be 3"),
        ("predict --table none.csv --hardware A100-80", "cannot read the table none.csv"),
        ("predict --table none.csv", "--table needs --hardware"),
        ("predict --vocab 100", "--vocab is for a described cluster"),
        ("predict --workload 124m --cluster 8xH100 --vocab 100 --trace", "leave --vocab out"),
        (
            "predict --fits --cluster 8xH100 --trace",
            "--fits looks at every described device by itself; leave --cluster,",
        ),
        ("predict --workload hf:none --cluster 8xH100", "none is no folder"),
        ("predict --trace", "so nothing can be predicted here"),
        ("predict --cluster 8xH100 --hardware H100", "--hardware names what a --table was measured on"),
        ("predict", "so nothing can be predicted here; run: python -m harness doctor --calibrate"),
        ("replay", "give either --table FILE.csv with --hardware NAME, or --sweep NAME"),
        ("replay --table runs.csv --hardware A100-80 --samplers guidedd", "unknown sampler 'guidedd'"),
        ("replay --table runs.csv", "--table needs --hardware"),
        ("replay --sweep nobody", "unknown sweep 'nobody'"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments: str, sentence: str, tmp_path: Path) -> None:
    grid(tmp_path / "runs.csv")
    found = harness(*arguments.split())
    assert found.exit_code == 2, found.output
    assert sentence in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_calibration_of_other_hardware_is_named(tmp_path: Path) -> None:
    Store(tmp_path / "results").write_peaks("cpu-elsewhere-000000", {"interconnect": {"2": calibration()}})
    found = harness("predict")
    assert found.exit_code == 2
    assert "only of cpu-elsewhere-000000" in found.stderr


def test_this_machine_is_predicted_from_its_calibration(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.write_peaks(detect().hardware_id, {"interconnect": {"2": calibration()}})
    options = ("--world-size", "2", "--set", "bucket_mb=25", "--set", "precision=fp32", "--set", "quantization=none")
    found = answer("predict", "--top", "4", *options)
    plans = found["plans"]
    assert isinstance(plans, list)
    assert len(plans) == 4
    assert found["constants"] == "measured on this machine, corrected by 0 recorded trials"
    assert found["error_band"] is None
    assert plans[0]["step_time_s"] <= plans[1]["step_time_s"]


def test_samplers_are_replayed_on_each_group_of_a_table(tmp_path: Path) -> None:
    options = ("--samplers", "guided,random", "--budget", "4", "--repeats", "2")
    found = answer("replay", "--table", str(grid(tmp_path / "runs.csv")), "--hardware", "A100-80", *options)
    assert (found["groups"], found["plans"]) == (2, [10, 10])
    samplers = found["samplers"]
    assert isinstance(samplers, list)
    assert [one["sampler"] for one in samplers] == ["guided", "random"]
    assert all(len(one["regret_after"]) == 4 for one in samplers)
    printed = harness("replay", "--table", "runs.csv", "--hardware", "A100-80", *options).stdout
    assert printed.splitlines()[0].startswith("2 groups with 20 plans")
