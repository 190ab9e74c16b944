from pathlib import Path

import pytest

from harness.errors import InputError
from harness.predict.devices import device
from harness.predict.table import predict_table, read_table

A100 = device("A100-80")
HEADER = "hidden_size,layers,heads,seq_len,gpus,tp,pp,micro_batch,global_batch,step_time_ms"
ROWS = ("1024,12,16,1024,8,1,1,4,64,170", "1024,12,16,1024,8,2,1,4,64,210", "2048,12,16,1024,8,2,1,4,64,300")


def table(folder: Path, *lines: str) -> Path:
    path = folder / "runs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_row_is_predicted_and_judged(tmp_path: Path) -> None:
    found = predict_table(table(tmp_path, HEADER, *ROWS), A100)
    assert [row["row"] for row in found["rows"]] == [1, 2, 3]
    for row in found["rows"]:
        assert row["error_step_time"] == pytest.approx(row["step_time_s"] / row["measured_step_time_s"] - 1)
        assert 0 < row["mfu"] < 1
        assert row["peak_memory_bytes"] > row["peak_reserved_bytes"] > 0
    mean = sum(abs(row["error_step_time"]) for row in found["rows"]) / 3
    assert found["mape_step_time"] == pytest.approx(mean)
    assert found["mape_constant_mfu"] > 0
    assert -1 <= found["kendall_tau"] <= 1
    assert found["top1_regret"] >= 0


def test_degrees_that_are_not_given_follow_from_the_devices(tmp_path: Path) -> None:
    run = read_table(table(tmp_path, HEADER, "1024,12,16,1024,64,2,4,4,64,170"))[0]
    assert (run.setup.dp, run.setup.micro_batches, run.shape.vocab) == (8, 2, 51200)


def test_a_table_without_measurements_is_predicted_all_the_same(tmp_path: Path) -> None:
    found = predict_table(table(tmp_path, "params_billion,gpus,micro_batch,tp", "39.1,512,2,8", "3.6,64,2,1"), A100)
    assert len(found["rows"]) == 2
    assert found["mape_step_time"] is None
    assert found["top1_regret"] is None


def test_a_size_alone_names_a_published_gpt(tmp_path: Path) -> None:
    run = read_table(table(tmp_path, "params_billion,gpus,micro_batch", "39.1,512,2"))[0]
    assert (run.shape.width, run.shape.layers, run.shape.heads) == (8192, 48, 64)
    assert run.shape.parameters == pytest.approx(39.1e9, rel=0.01)


def test_tokens_a_second_and_flops_a_second_are_step_times_in_another_unit(tmp_path: Path) -> None:
    columns = "model,gpus,micro_batch,data_parallel,activation_checkpointing,tokens_per_s_per_gpu,peak_reserved_gib"
    run = read_table(table(tmp_path, columns, "llama-3.1-8b,16,1,fsdp(zero3),selective,4096,50"))[0]
    assert run.seconds == pytest.approx(2.0)
    assert run.setup.data_parallel == "zero3"
    assert run.setup.activation_checkpoint == "half"
    columns = "hidden_size,layers,heads,seq_len,vocab,gpus,micro_batch,global_batch,recompute,tflops_per_gpu"
    run = read_table(table(tmp_path, columns, "2304,24,24,2048,51200,32,16,512,full,137"))[0]
    h, length, layers, vocab = 2304, 2048, 24, 51200
    flops = 96 * 512 * length * layers * h * h * (1 + length / (6 * h) + vocab / (16 * layers * h))
    assert run.seconds == pytest.approx(flops / (137e12 * 32))


def test_reserved_memory_is_judged_where_it_was_measured(tmp_path: Path) -> None:
    columns = "model,gpus,micro_batch,data_parallel,activation_checkpointing,peak_reserved_gib"
    found = predict_table(table(tmp_path, columns, "llama-3.1-8b,8,1,zero3,full,50"), device("H100"))
    row = found["rows"][0]
    assert found["mape_reserved"] == pytest.approx(abs(row["peak_reserved_bytes"] / (50 * 2**30) - 1))


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((HEADER.replace("gpus,", ""), "1024,12,16,1024,1,1,4,64,170"), "row 1: column gpus is missing"),
        ((HEADER, ROWS[0], "1024,12,16,1024,8,one,1,4,64,9"), "row 2: column tp must be a positive number.*'one'"),
        ((HEADER, "1024,12,16,1024,8,-1,1,4,64,9"), "row 1: column tp must be a positive number"),
        ((HEADER, "1024,12,16,1024,8,1.5,1,4,64,9"), "row 1: column tp must be a whole number"),
        ((HEADER, "1024,12,16,1024,8,3,1,4,64,9"), "row 1: tp x dp x pp must be 8 devices, but 3 x 2 x 1 is 6"),
        ((HEADER, "1024,,16,1024,8,1,1,4,64,9"), "row 1: column layers is missing"),
        ((HEADER, "1024,12,16,1024,8,1,1,4,64,nan"), "row 1: column step_time_ms must be a positive number"),
        (("gpus,micro_batch", "8,1"), "row 1: column hidden_size is missing"),
        (("params_billion,gpus,micro_batch", "4.4,8,1"), "row 1: no published GPT has 4.4 billion parameters"),
        (("model,gpus,micro_batch", "llama-3.1-8c,8,1"), "unknown model in row 1 'llama-3.1-8c': did you mean"),
        (("params_billion,gpus,micro_batch,recompute", "1.3,8,1,some"), "row 1: column recompute must be one of"),
        (("params_billion,gpus,micro_batch,compile", "1.3,8,1,perhaps"), "row 1: column compile must be yes or no"),
        ((HEADER,), "has no rows"),
    ],
)
def test_a_wrong_row_is_refused_with_its_number_and_column(
    tmp_path: Path, lines: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        predict_table(table(tmp_path, *lines), A100)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the table"):
        read_table(tmp_path / "none.csv")
