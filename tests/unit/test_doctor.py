"""`hyco-engine doctor` says what is wrong with a machine, and what to do."""

from __future__ import annotations

import json
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hyco_engine import resources
from hyco_engine.cli import cli, doctor
from hyco_engine.hooks import Registry
from hyco_engine.resources import MemoryLimit, memory_limits
from hyco_engine.testing.distributions import Site

pytest_plugins = ["hyco_engine.testing.fixtures"]

Partition = namedtuple("Partition", "mountpoint fstype")


def told(name: str) -> list[dict[str, str]]:
    """What the command says of one thing: its status, a message, and a remedy unless the status is "ok"."""
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    findings = json.loads(result.stdout)["findings"]
    assert result.exit_code == any(finding["status"] == "problem" for finding in findings)
    return [finding for finding in findings if finding["name"] == name]


def test_a_sound_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"]) == (0, True)
    names = [finding["name"] for finding in found["findings"]]
    assert list(dict.fromkeys(names)) == [
        "versions",
        "torch",
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
    assert [line.split(maxsplit=2) for line in result.stdout.splitlines()] == [
        ["problem", "phiflow", "off by 1: install another"],
        ["warning", "memory", "1 GB free: end other programs"],
        ["ok", "disk", "enough"],
    ]
    monkeypatch.setattr(doctor, "examine", lambda registry: iter(broken[1:]))
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 0


def test_a_bad_pair_of_phiflow_and_phiml(monkeypatch: pytest.MonkeyPatch) -> None:
    from phi.physics import advect

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("grid_sampler(): expected 5D input and grid\nmore")

    monkeypatch.setattr(advect, "semi_lagrangian", fails)
    (found,) = told("phiflow")
    assert found["status"] == "problem"
    assert "1-D fails (RuntimeError: grid_sampler(): expected 5D input and grid)" in found["message"]
    monkeypatch.setattr(advect, "semi_lagrangian", lambda field, velocity, dt: field)
    (found,) = told("phiflow")
    assert found["status"] == "problem"
    assert "off by 0.3" in found["message"]


def test_versions_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = told("versions")
    assert found["status"] == "ok"
    monkeypatch.setattr("hyco_engine.runs.environment.package_versions", lambda: {"phiml": "1.16.1"})
    (found,) = told("versions")
    assert found["status"] == "problem"
    assert "phiml 1.16.1" in found["message"]
    assert "'phiml!=1.16.1,<1.17,>=1.14.3'" in found["remedy"]


@pytest.mark.parametrize(
    ("cuda", "hip", "device", "told"),
    [
        (None, None, False, "torch 9.1+x is built for CPUs and takes 0.2 GB"),
        (None, "6.4", False, "torch 9.1+x is built for ROCm 6.4 and takes 0.2 GB"),
        ("13.2", None, True, "torch 9.1+x is built for CUDA 13.2 and takes 3.2 GB with its libraries for GPUs"),
        (
            "13.2",
            None,
            False,
            "torch 9.1+x is built for CUDA 13.2 and takes 3.2 GB with its libraries for GPUs; there is no NVIDIA GPU "
            "here, so the build for CPUs would do and is much smaller (see the README)",
        ),
    ],
)
def test_the_build_of_torch_and_its_size(
    cuda: str | None, hip: str | None, device: bool, told: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build for CUDA comes with libraries in distributions of their own, which require each other."""

    def install(name: str, size: int, *requires: str) -> None:
        site.install(name, "9.1", requires=requires)
        (folder,) = site.folder.glob(f"{name.replace('-', '_')}-9.1.dist-info")
        (folder / "RECORD").write_text(f"{name}/library.so,,{size}\n{folder.name}/RECORD,,\n")

    libraries = ("nvidia-all==9", "triton>=3; platform_system == 'Linux'") if cuda else ()
    install("torch", 200_000_000, "sympy>=1", *libraries)
    install("nvidia-all", 1_000_000_000, "nvidia-part", "torch")
    install("nvidia-part", 1_500_000_000)
    install("triton", 500_000_000)
    monkeypatch.setattr("torch.__version__", "9.1+x")
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("torch.version.hip", hip)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: device if str(path) == "/dev/nvidiactl" else exists(path))
    found = next(finding for finding in doctor.examine(Registry()) if finding.name == "torch")
    assert (found.status, found.message) == ("ok", told)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyco_engine.physics.compiling.has_compiler", lambda: False)
    (found,) = told("compiler")
    assert found["status"] == "warning"
    assert "'graph'" in found["message"]
    assert all(word in found["remedy"] for word in ("g++", "clang++", "CXX"))


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def status(name: str, free: int, *partitions: Partition) -> str:
        monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
        monkeypatch.setattr("psutil.disk_partitions", lambda all: [Partition("/", "ext4"), *partitions])
        (found,) = told(name)
        assert str(tmp_path / name) in found["message"]
        assert f"{free / 1e9:.1f} GB" in found["message"] or found["status"] == "problem"
        assert ("nfs4" in found["message"]) == (found["status"] == "warning" and free > 10**10)
        assert (f"paths.{name}" in found["remedy"]) == (found["status"] != "ok")
        return found["status"]

    monkeypatch.chdir(tmp_path)
    network = Partition(str(tmp_path), "nfs4")
    assert status("cache", 10**11) == "ok"
    # locks and maps of caches are what a network disk may break
    assert status("cache", 10**11, network) == "warning"
    assert status("runs", 10**11, network) == "ok"
    assert status("cache", 10**9) == "warning"
    assert status("runs", 10**9) == "warning"
    (tmp_path / "runs").write_text("a file")
    assert status("runs", 10**11) == "problem"


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [MemoryLimit(source="cgroup", total=4 * 10**9, free=10**9)]
    monkeypatch.setattr(resources, "memory_limits", lambda: limits)
    (found,) = told("memory")
    assert found["status"] == "warning"
    assert found["message"].startswith("1.0 GB of 4.0 GB free")
    assert "control group" in found["message"]


def test_a_plugin_that_failed(site: Site) -> None:
    site.install("broken-kit", "2.1", entry_points={"broken": "a_module_that_is_nowhere"})
    sound, failed = told("plugins")
    assert (sound["status"], failed["status"]) == ("ok", "problem")
    for part in ("broken-kit 2.1", "ModuleNotFoundError", "a_module_that_is_nowhere"):
        assert part in failed["message"]
    assert "--disable-plugin" in failed["remedy"]


# --- limits of memory -----------------------------------------------------------------------------------------------


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("_DOT_", ".")).write_text(f"{value}\n")


def test_a_control_group_of_version_2(tmp_path: Path) -> None:
    statistics = "anon 5\ninactive_file 300"
    group(tmp_path / "job", memory_DOT_max=1000, memory_DOT_current=900, memory_DOT_stat=statistics)
    group(tmp_path / "job" / "step", memory_DOT_max="max", memory_DOT_current=9, memory_DOT_stat=statistics)
    assert memory_limits([tmp_path / "job" / "step", tmp_path / "job"])[0] == MemoryLimit(
        source="cgroup", total=1000, free=400
    )


def test_a_control_group_of_version_1(tmp_path: Path) -> None:
    statistics = "total_inactive_file 0"
    files = {"memory_DOT_limit_in_bytes": 1000, "memory_DOT_usage_in_bytes": 1200, "memory_DOT_stat": statistics}
    group(tmp_path / "memory", **files)
    unlimited = {**files, "memory_DOT_limit_in_bytes": 9223372036854771712}
    group(tmp_path / "memory" / "free", **unlimited)
    limits = memory_limits([tmp_path / "memory" / "free", tmp_path / "memory", tmp_path / "none"])
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
