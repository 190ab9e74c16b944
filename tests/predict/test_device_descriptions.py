from pathlib import Path

import pytest

from harness.errors import InputError, UnknownNameError
from harness.predict.devices import FOLDER, device, names, parse_cluster

EXPECTED = {"A100-40", "A100-80", "H100", "H200", "B200", "GH200", "MI300X", "L40S", "RTX 4090"}


def test_the_devices_of_the_documentation_are_described() -> None:
    assert set(names()) >= EXPECTED


@pytest.mark.parametrize("name", names())
def test_every_description_has_plausible_figures_and_their_source(name: str) -> None:
    found = device(name)
    assert 20e9 < found.memory_bytes < 300e9
    assert found.peak_flops["bf16"] > found.peak_flops["fp32"] > 1e12
    assert found.memory_bandwidth > found.link_bandwidth
    assert 0 < found.efficiency.matmul_share <= 1
    assert "data sheet" in found.source or "whitepaper" in found.source
    assert found.fitted


def test_a_name_is_found_in_any_case() -> None:
    assert device("rtx 4090") is device("RTX 4090")


@pytest.mark.parametrize(("other", "name"), [("A100", "A100-80"), ("a100-40GB", "A100-40"), ("RTX4090", "RTX 4090")])
def test_a_device_is_found_by_other_names_that_people_use(other: str, name: str) -> None:
    assert device(other) is device(name)


def test_an_unknown_device_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'H100'.*A100-80"):
        device("H10O")


@pytest.mark.parametrize(
    ("text", "nodes", "devices"),
    [("64x8xH100", 64, 512), ("8xH100", 1, 8), ("H100", 1, 8), ("2x4xRTX 4090", 2, 8), ("16 x 8 x mi300x", 16, 128)],
)
def test_a_cluster_is_nodes_times_devices(text: str, nodes: int, devices: int) -> None:
    cluster = parse_cluster(text)
    assert (cluster.nodes, cluster.devices) == (nodes, devices)


def test_half_a_node_has_half_the_network() -> None:
    whole, half = parse_cluster("4x8xH100").device, parse_cluster("4x4xH100").device
    assert half.network_bandwidth == whole.network_bandwidth / 2
    assert half.devices_per_node == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("512xH100", "a node of H100 has 8 devices.*so write 64x8xH100"),
        ("2x12xH100", "a node of H100 has 8 devices, but '2x12xH100' asks for 12"),
        ("0x8xH100", "at least one node"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_cluster(text)


def test_a_file_of_ones_own_describes_a_device(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text((FOLDER / "h100.toml").read_text().replace('name = "H100"', 'name = "mine"'))
    assert parse_cluster(f"3x2x{mine}").device.name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("memory_gib = 79.11", "", "lacks memory_gib"),
        ("memory_gib = 79.11", 'memory_gib = "much"', "memory_gib is 'much'"),
        ("memory_gib = 79.11", "memory_gib = -1", "memory_gib is -1"),
        ("[fitted]", "fitted]", "is no TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text((FOLDER / "h100.toml").read_text().replace(old, new))
    with pytest.raises(InputError, match=sentence):
        device(str(mine))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        device(str(tmp_path / "none.toml"))


def test_products_in_a_format_a_device_lacks_are_refused() -> None:
    with pytest.raises(InputError, match="A100-80 has no peak for float8"):
        device("A100-80").peak("float8")
    assert device("A100-80").gain("float8") == 1
    assert device("H100").gain("float8") == pytest.approx(2, rel=0.01)
