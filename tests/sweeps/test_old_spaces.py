"""The default sweep still searches the space that its recorded predecessors searched."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from harness.search.ledger import _differences
from harness.search.spaces import Spaces
from harness.sweeps.config import load_config
from harness.sweeps.experiment import prepare

STUDIES = sorted((Path(__file__).parents[2] / "results" / "reference" / "studies").glob("*/*.log"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_of_an_earlier_version_can_go_on(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    begun = optuna.load_study(study_name=path.stem, storage=JournalStorage(JournalFileBackend(str(copy)))).user_attrs
    (space,) = begun["space"].values()
    monkeypatch.chdir(tmp_path)
    config = load_config(None, {"world_size": space["world_size"], "strategies": tuple(space["strategies"])})
    now = json.loads(json.dumps(Spaces(prepare(config).spaces()).describe()))
    # Options of that sweep fixed some knobs to a value; whatever was drawn from a range still is.
    assert [found for found in _differences(begun["space"], now, {}) if "from " in str(found[1])] == []
    assert any("from " in str(domain) for domain in space.values()) or path.stem == "grid"
