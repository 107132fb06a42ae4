"""`hyco-engine doctor` says what is wrong with a machine, and what to do."""

from __future__ import annotations

import json
import resource
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hyco_engine import resources
from hyco_engine.cli import cli, doctor
from hyco_engine.hooks.registry import Registry
from hyco_engine.resources import MemoryLimit, memory_limits

Partition = namedtuple("Partition", "mountpoint fstype")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def test_a_sound_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"]) == (0, True)
    names = [finding["name"] for finding in found["findings"]]
    assert list(dict.fromkeys(names)) == [
        "versions",
        "phiflow",
        "compiler",
        "device",
        "cache",
        "runs",
        "memory",
        "plugins",
    ]
    assert all(finding["remedy"] for finding in found["findings"] if finding["status"] != "ok")
    assert list(tmp_path.iterdir()) == []


def test_one_line_each_and_exit_code_1_for_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [
        doctor.Finding("phiflow", "problem", "off by 1", "install another"),
        doctor.Finding("memory", "warning", "1 GB free", "end other programs"),
        doctor.Finding("disk", "ok", "enough"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda registry: iter(broken))
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert result.stdout == (
        "problem  phiflow   off by 1: install another\n"
        "warning  memory    1 GB free: end other programs\n"
        "ok       disk      enough\n"
    )
    monkeypatch.setattr(doctor, "examine", lambda registry: iter(broken[1:]))
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 0


def test_a_bad_pair_of_phiflow_and_phiml(monkeypatch: pytest.MonkeyPatch) -> None:
    from phi.physics import advect

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("grid_sampler(): expected 5D input and grid\nmore")

    monkeypatch.setattr(advect, "semi_lagrangian", fails)
    found = doctor._phiflow()
    assert found.status == "problem"
    assert found.message == (
        "PhiFlow computes wrong results on torch: 1-D fails (RuntimeError: grid_sampler(): expected 5D input and grid)"
    )
    monkeypatch.setattr(advect, "semi_lagrangian", lambda field, velocity, dt: field)
    assert "off by 0.3" in doctor._phiflow().message


def test_versions_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._versions().status == "ok"
    monkeypatch.setattr("hyco_engine.runs.environment.package_versions", lambda: {"phiml": "1.16.1"})
    found = doctor._versions()
    assert found.status == "problem"
    assert "phiml 1.16.1" in found.message
    assert "'phiml!=1.16.1,<1.17,>=1.14.3'" in found.remedy


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyco_engine.physics.compiling.has_compiler", lambda: False)
    assert doctor._compiler() == doctor.Finding(
        "compiler",
        "warning",
        "there is no C++ compiler, so physical.compile stays at 'graph'",
        "install g++ or clang++, or name one in CXX, to make the physics several times as fast",
    )


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("psutil.disk_partitions", lambda all: [Partition("/", "ext4")])
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**11))
    assert doctor._disk("cache") == doctor.Finding("cache", "ok", f"{tmp_path}/cache, 100.0 GB free")
    monkeypatch.setattr(
        "psutil.disk_partitions", lambda all: [Partition("/", "ext4"), Partition(str(tmp_path), "nfs4")]
    )
    assert doctor._disk("cache").message.endswith("100.0 GB free, on nfs4")
    assert doctor._disk("runs").status == "ok"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**9))
    assert (doctor._disk("runs").status, doctor._disk("cache").status) == ("warning", "warning")
    (tmp_path / "runs").write_text("a file")
    assert doctor._disk("runs") == doctor.Finding(
        "runs", "problem", f"{tmp_path}/runs cannot be written", "set paths.runs to a folder that can be written"
    )


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [MemoryLimit(source="cgroup", total=4 * 10**9, free=10**9)]
    monkeypatch.setattr(resources, "memory_limits", lambda: limits)
    found = doctor._memory()
    assert (found.status, found.message) == ("warning", "1.0 GB of 4.0 GB free (limited by a control group)")


def test_a_plugin_that_failed(registry: Registry) -> None:
    info = registry.plugins[0].failed("ImportError: no module\n  named x")
    lines = list(doctor._plugins(SimpleNamespace(plugins=[info, *registry.plugins[1:]])))
    assert [finding.status for finding in lines] == ["ok", "problem"]
    assert f"{info} failed: ImportError: no module named x" == lines[1].message


# --- limits of memory -----------------------------------------------------------------------------------------------


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("_DOT_", ".")).write_text(f"{value}\n")


def test_a_control_group_of_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = "anon 5\ninactive_file 300"
    group(tmp_path / "job", memory_DOT_max=1000, memory_DOT_current=900, memory_DOT_stat=statistics)
    group(tmp_path / "job" / "step", memory_DOT_max="max", memory_DOT_current=9, memory_DOT_stat=statistics)
    monkeypatch.setattr(resources, "_CGROUPS", tmp_path)
    monkeypatch.setattr(resources, "_own_groups", lambda: [tmp_path / "job" / "step", tmp_path / "job"])
    assert memory_limits()[0] == MemoryLimit(source="cgroup", total=1000, free=400)


def test_a_control_group_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = "total_inactive_file 0"
    files = {"memory_DOT_limit_in_bytes": 1000, "memory_DOT_usage_in_bytes": 1200, "memory_DOT_stat": statistics}
    group(tmp_path / "memory", **files)
    unlimited = {**files, "memory_DOT_limit_in_bytes": 9223372036854771712}
    group(tmp_path / "memory" / "free", **unlimited)
    monkeypatch.setattr(
        resources, "_own_groups", lambda: [tmp_path / "memory" / "free", tmp_path / "memory", tmp_path / "none"]
    )
    limits = memory_limits()
    assert limits[0] == MemoryLimit(source="cgroup", total=1000, free=0)
    assert [limit.source for limit in limits].count("cgroup") == 1


def test_a_limit_of_the_process() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (2**45, before[1]))
        own = next(limit for limit in memory_limits() if limit.source == "rlimit")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert own.total == 2**45
    assert 0 < own.free < 2**45
    assert "rlimit" not in [limit.source for limit in memory_limits()]
