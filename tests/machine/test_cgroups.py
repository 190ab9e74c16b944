"""Control groups as they were seen: version 1 and 2, both at once, within containers and without."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.machine import cgroups
from harness.machine.cgroups import available_bytes

MIB = 1 << 20
DOCKER = "/docker/9f2c"

TREES = {
    # A login shell of systemd 249, unified hierarchy.
    "2 host": {
        "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-3.scope",
        "proc/self/mountinfo": "34 24 0:29 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate",
        "sys/fs/cgroup/user.slice/user-1000.slice/memory.max": str(100 * MIB),
        "sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope/memory.max": "max",
        "sys/fs/cgroup/user.slice/cpu.max": "150000 100000",
        "sys/fs/cgroup/user.slice/memory.pressure": "some avg10=9.00 avg60=1.0 avg300=0.2 total=5\n"
        "full avg10=4.50 avg60=0.5 avg300=0.1 total=3",
    },
    # Docker 24 with a cgroup namespace: the container's own group is the root of what it sees.
    "2 container": {
        "proc/self/cgroup": "0::/",
        "proc/self/mountinfo": "1200 1190 0:29 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate",
        "sys/fs/cgroup/memory.max": str(100 * MIB),
        "sys/fs/cgroup/cpu.max": "150000 100000",
        "sys/fs/cgroup/memory.pressure": "full avg10=4.50 avg60=0.5 avg300=0.1 total=3",
    },
    # Docker 19 on version 1 without a namespace: the path is the host's, the mount begins at the container's group.
    "1 container": {
        "proc/self/cgroup": f"11:memory:{DOCKER}\n4:cpu,cpuacct:{DOCKER}\n1:name=systemd:{DOCKER}",
        "proc/self/mountinfo": f"703 699 0:31 {DOCKER} /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
        f"711 699 0:38 {DOCKER} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(100 * MIB),
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "proc/pressure/memory": "full avg10=4.50 avg60=0.5 avg300=0.1 total=3",
    },
    # systemd's hybrid: controllers in version 1, version 2 beside them without any, under a mount point with a space.
    "both": {
        "proc/self/cgroup": "9:memory:/job/7\n3:cpu:/job\n0::/job/7",
        "proc/self/mountinfo": "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "35 31 0:32 / /sys/fs/c\\040groups/memory rw - cgroup cgroup rw,memory",
        "sys/fs/c groups/memory/job/memory.limit_in_bytes": str(100 * MIB),
        "sys/fs/c groups/memory/job/7/memory.limit_in_bytes": str(2**63 - 4096),
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "150000",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
        "proc/pressure/memory": "full avg10=4.50 avg60=0.5 avg300=0.1 total=3",
    },
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize("tree", TREES)
def test_limits_of_every_group_around_are_found(tree: str, tmp_path: Path) -> None:
    root = write(tmp_path, TREES[tree])
    assert min(cgroups.memory_limits(root)) == 100 * MIB
    assert cgroups.cpu_quotas(root) == [1.5]
    assert cgroups.memory_pressure(root) == 0.045


def test_a_system_without_groups_has_no_limits(tmp_path: Path) -> None:
    assert cgroups.memory_limits(tmp_path) == cgroups.cpu_quotas(tmp_path) == []
    assert cgroups.memory_pressure(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2"),
    ],
)
def test_kills_are_counted_in_both_versions(name: str, content: str, tmp_path: Path) -> None:
    assert cgroups.oom_kills(tmp_path) == 0
    assert cgroups.oom_kills(write(tmp_path, {name: content})) == 2


def test_cached_files_are_available_but_for_what_must_be_written_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stat = {"anon": 500, "inactive_file": 300, "active_file": 7000, "file_dirty": 40, "slab_reclaimable": 10}
    files = {
        "memory.max": str(8192 * MIB),
        "memory.current": str(7800 * MIB),
        "memory.stat": "\n".join(f"{name} {size * MIB}" for name, size in stat.items()),
    }
    machine = SimpleNamespace(total=64 << 30, available=60 << 30)
    monkeypatch.setattr(cgroups.psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(cgroups, "control_groups", lambda controller: [write(tmp_path, files)])
    assert available_bytes() == (8192 - 7800 + 300 + 7000 + 10 - 40) * MIB


def group(folder: Path, limit: str, used: int, cached: int, version: int) -> Path:
    """The files of a group."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    total = "" if version == 2 else f"total_inactive_file {cached}\n"
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached if version == 2 else 1}\n{total}")
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_around_the_harness_leaves_less_than_the_machine(
    version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = SimpleNamespace(total=1000 * MIB, available=900 * MIB)
    monkeypatch.setattr(cgroups.psutil, "virtual_memory", lambda: machine)
    around = group(tmp_path, str(100 * MIB), 80 * MIB, 30 * MIB, version)
    monkeypatch.setattr(cgroups, "control_groups", lambda controller: [around, tmp_path / "absent"])
    assert available_bytes() == 50 * MIB


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_a_group_without_a_limit_leaves_what_the_machine_has(
    limit: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroups.psutil, "virtual_memory", lambda: SimpleNamespace(total=1000, available=900))
    monkeypatch.setattr(cgroups, "control_groups", lambda controller: [group(tmp_path, limit, 80, 30, 2)])
    assert available_bytes() == 900
