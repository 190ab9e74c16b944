from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.sweeps.config import load_config
from harness.sweeps.derived import Line, examine
from harness.sweeps.experiment import prepare

EXAMPLE = Path(__file__).parents[1] / "example_model" / "mixer.py"


def lines(workload: str, folder: Path) -> list[Line]:
    options = {"workload": workload, "world_size": 2, "results": folder / "results", "reports": folder / "reports"}
    found = list(examine(prepare(load_config(None, options))))
    assert not (folder / "results").exists()  # nothing is written
    return found


def test_a_file_is_told_what_was_derived_and_what_is_refused(tmp_path: Path) -> None:
    found = lines(f"{EXAMPLE}:workload", tmp_path)
    derived = {line.name: line.found for line in found if line.state == "derived"}
    assert derived["parameters"] == "34,301, 49 of them frozen"
    assert derived["blocks"] == "layers.0, layers.1, layers.2, layers.3, layers.4"
    assert derived["predictions"] == "counted in every step"
    assert derived["dropout"] == f"set to 0 in {', '.join(f'layers.{i}.dropout' for i in range(5))}"
    assert derived["without use"] == "left_over.weight, left_over.bias: frozen"
    refused = {line.name: line.found for line in found if line.state == "refused"}
    assert refused["tp=2, sequence_parallel=True"].startswith("layers of mixer may need every token")
    assert derived["stages"] == "after stem"
    assert {line.name for line in found if line.state == "ok"} >= {"batches", "loss", "tp=2", "data_parallel=ddp, dp=2"}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (('reduction="sum"', 'reduction="mean"'), "the loss of 2 samples must be the sum of theirs"),
        (('(batch["labels"] >= 0).sum()\n\n\ndef accuracy', "1\n\n\ndef accuracy"), "the number of predictions of 2"),
        (
            ("step * 17) % ROWS", "step * len(indices)) % ROWS"),
            "in step 1 a sample is another one when it is asked for alone",
        ),
    ],
)
def test_a_contract_that_is_not_kept_is_named(changed: tuple[str, str], sentence: str, tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert changed[0] in text
    path = tmp_path / "broken.py"
    path.write_text(text.replace(*changed).replace("chosen % 7 == 0", "chosen < 0"))
    with pytest.raises(InputError, match=sentence):
        lines(f"{path}:workload", tmp_path)
