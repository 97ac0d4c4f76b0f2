"""The options that `cmeta args` prints, and what a shell makes of them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import oci_files
import pytest
import sif_files

from slurm_cmeta.cluster import hostlist

ROOT = Path(__file__).parents[2]

SLURM_CONF = """\
ClusterName=test
NodeName=old[1-2] Features=x86_64,x86_64_v2,ivybridge RealMemory=8000
NodeName=top1 Features=x86_64,x86_64_v2,x86_64_v3,x86_64_v4,zen4,ib RealMemory=8000
NodeName=arm[1-2] Features=aarch64,neoverse_v1,ib RealMemory=8000 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.conf"
    path.write_text(SLURM_CONF)
    return path


def image(path: Path, code: bytes, **labels: str) -> Path:
    parts = [sif_files.partition(code), *([sif_files.metadata(labels)] if labels else [])]
    path.write_bytes(sif_files.build(*parts, arch=code))
    return path


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    return image(tmp_path / "arm.sif", b"04")


@pytest.fixture
def x86(tmp_path: Path) -> Path:
    return image(tmp_path / "x86.sif", b"02")


def args(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "slurm_cmeta.cli.main", "args", *map(str, arguments)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)


def test_the_constraint_is_printed_and_the_reason_told(cluster: Path, arm: Path) -> None:
    done = args(arm, "--slurm-conf", cluster)
    assert (done.returncode, done.stdout) == (0, "--constraint=aarch64\n")
    assert done.stderr.startswith("cmeta: arm.sif needs aarch64 (")


def test_nothing_is_printed_where_nothing_is_to_be_added(tmp_path: Path, arm: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("NodeName=arm[1-2] Features=aarch64\n")
    done = args(arm, "--slurm-conf", conf)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_node_fits_is_status_1_with_the_reason(cluster: Path, tmp_path: Path) -> None:
    power = image(tmp_path / "power.sif", b"06")
    done = args(power, "--slurm-conf", cluster)
    assert (done.returncode, done.stdout) == (1, "")
    assert "but none of the 5 nodes can run it" in done.stderr
    cluster.with_name("cmeta.yaml").write_text("on_mismatch: warn\n")
    warned = args(power, "--slurm-conf", cluster)
    assert (warned.returncode, warned.stdout) == (1, "")
    assert warned.stderr.startswith("cmeta: warning: power.sif needs ppc64le")


def test_what_cannot_be_read_has_its_exit_code(cluster: Path, arm: Path) -> None:
    assert args("/no/such.sif", "--slurm-conf", cluster).returncode == 3
    assert args(arm, "--slurm-conf", "/no/such.conf").returncode == 4
    assert args().returncode == 2


def test_the_jobs_own_options_are_printed_with_what_is_added(cluster: Path, arm: Path) -> None:
    own = ("-C", "ib", "-p", "all", "-x", "arm2", "--mem", "2G", "--gpus", "1")
    done = args(arm, "--slurm-conf", cluster, *own)
    assert done.stdout.split() == [
        "--constraint=ib&aarch64",
        "--partition=all",
        "--exclude=arm2",
        "--mem=2G",
        "--gpus=1",
    ]


def test_host_lists_have_no_brackets_that_a_shell_could_take_for_a_pattern(
    tmp_path: Path, arm: Path
) -> None:
    conf = tmp_path / "slurm.conf"
    # Features do not tell these apart, so that nodes are excluded.
    conf.write_text(
        "NodeName=n[1-12] Features=x86_64,ib\nNodeName=arm1 Features=aarch64\n"
        "NodeName=silent Features=ib\n"
    )
    done = args(arm, "--slurm-conf", conf, "-w", "arm[1-1]", "-C", "aarch64")
    assert done.stdout == "--constraint=aarch64 --nodelist=arm1\n"
    done = args(arm, "--slurm-conf", conf)
    assert done.stdout == f"--exclude={','.join(f'n{n}' for n in range(1, 13))}\n"
    lines = args(arm, "--slurm-conf", conf, "--lines")
    assert lines.stdout == "--exclude=n[1-12]\n"
    assert hostlist.expand("n[1-12]") == done.stdout.strip().removeprefix("--exclude=").split(",")


def test_memory_that_the_image_asks_for(cluster: Path, tmp_path: Path) -> None:
    big = image(tmp_path / "big.sif", b"04", **{"io.slurm-cmeta.memory": "4G"})
    asked = args(big, "--slurm-conf", cluster)
    assert asked.stdout == "--constraint=aarch64 --mem=4096M\n"
    assert args(big, "--slurm-conf", cluster, "--mem", "6G").stdout.split()[1:] == ["--mem=6G"]


def test_a_gpu_that_the_site_adds(cluster: Path, tmp_path: Path) -> None:
    store, config = oci_files.Store(), {"Env": ["NVIDIA_REQUIRE_CUDA=cuda>=12.4"]}
    index = store.index(store.image("arm64", config={"config": config}))
    gpu = oci_files.write_layout(tmp_path / "gpu", store, index)
    advised = args(gpu, "--slurm-conf", cluster)
    assert advised.stdout == "--constraint=aarch64\n"
    assert "and the job asks for none: --gpus=1" in advised.stderr
    cluster.with_name("cmeta.yaml").write_text("gpu_request: add\n")
    added = args(gpu, "--slurm-conf", cluster)
    assert added.stdout == "--constraint=aarch64 --gres=gpu:1\n"
    own = args(gpu, "--slurm-conf", cluster, "--gpus", "2")
    assert own.stdout == "--constraint=aarch64 --gpus=2\n"
    own = args(gpu, "--slurm-conf", cluster, "--gres", "gpu:2")
    assert own.stdout == "--constraint=aarch64 --gres=gpu:2\n"
    other = args(gpu, "--slurm-conf", cluster, "--gres", "nvme:1")
    assert other.stdout == "--constraint=aarch64 --gres=nvme:1,gpu:1\n"


def test_a_reference_is_taken_with_all_its_variants(cluster: Path, tmp_path: Path) -> None:
    store = oci_files.Store()
    layout = oci_files.write_layout(tmp_path / "layout", store, store.index(store.image("arm64")))
    one = args(f"oci:{layout}", "--slurm-conf", cluster)
    assert (one.returncode, one.stdout) == (0, "--constraint=aarch64\n")
    store = oci_files.Store()
    both = store.index(store.image("arm64"), store.image("amd64"))
    layout = oci_files.write_layout(tmp_path / "both", store, both)
    assert args(f"oci:{layout}", "--slurm-conf", cluster).stdout == ""


def test_no_preference_is_made_and_the_users_own_is_kept_possible(
    cluster: Path, tmp_path: Path
) -> None:
    """Slurm refuses a job that is larger than the nodes it prefers; its size is not known here."""
    label = "org.supercontainers.hardware.cpu.optimized.version"
    fast = image(tmp_path / "fast.sif", b"02", **{label: "zen4"})
    assert args(fast, "--slurm-conf", cluster).stdout == "--constraint=x86_64\n"
    own = args(fast, "--slurm-conf", cluster, "--prefer", "ib")
    assert own.stdout == "--constraint=x86_64 --prefer=ib&x86_64\n"


@pytest.mark.parametrize("constraint", ["[zen4|ib]", "ib*2", "ib?", "a\\b"])
def test_what_a_shell_takes_for_a_pattern_is_refused_with_the_way_out(
    cluster: Path, x86: Path, constraint: str
) -> None:
    cluster.write_text(f"{cluster.read_text()}MaxNodeCount=100\n")
    done = args(x86, "--slurm-conf", cluster, "-C", constraint)
    assert (done.returncode, done.stdout) == (2, "")
    assert "use --lines" in done.stderr.splitlines()[-1]
    lines = args(x86, "--slurm-conf", cluster, "-C", constraint, "--lines")
    assert lines.returncode == 0
    assert lines.stdout.startswith(f"--constraint={constraint}")


def test_a_blank_and_a_line_break_are_refused(cluster: Path, arm: Path) -> None:
    own = ("--slurm-conf", cluster, "--mem")
    assert args(arm, *own, "1 G").returncode == 2
    assert "--mem=1 G\n" in args(arm, *own, "1 G", "--lines").stdout
    assert args(arm, *own, "1\nG", "--lines").returncode == 2


def test_an_unquoted_substitution_gives_sbatch_the_options_whole(
    cluster: Path, arm: Path, tmp_path: Path
) -> None:
    """In a directory whose files' names match everything that a pattern could."""
    for name in ("--exclude=n1", "--constraint=aarch64", "old1", "x"):
        (tmp_path / name).touch()
    command = shlex.join([sys.executable, "-m", "slurm_cmeta.cli.main", "args", str(arm)])
    command += f" --slurm-conf {shlex.quote(str(cluster))} -C 'ib&(aarch64|zen4)' -x 'old[1-2]'"
    script = f"cd {shlex.quote(str(tmp_path))}; printf '%s\\n' $({command})"
    for shell in ("sh", "bash"):
        done = subprocess.run(
            [shell, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
        )
        assert done.stdout.splitlines() == [
            "--constraint=ib&(aarch64|zen4)&aarch64",
            "--exclude=old1,old2",
        ]


def test_lines_and_mapfile_give_bash_the_options_whole(cluster: Path, x86: Path) -> None:
    command = shlex.join([sys.executable, "-m", "slurm_cmeta.cli.main", "args", "--lines"])
    command += f" {x86} --slurm-conf {cluster} -C '[x86_64_v2|zen4]' -w 'old[1-2]'"
    script = f"mapfile -t options < <({command}); printf '%s\\n' \"${{options[@]}}\""
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.splitlines() == ["--constraint=[x86_64_v2|zen4]", "--nodelist=old[1-2]"]
