"""Steps inside an allocation, and submissions from within a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster
from conftest import ImageMaker
from product import Product
from test_submit import ZEN4, Done, fields, said, sbatch


@pytest.fixture
def zen4(make_image: ImageMaker) -> Path:
    return make_image("x86-zen4", labels=ZEN4)


def in_allocation(cluster: Cluster, nodes: str, command: str, *words: str) -> Done:
    """Run a shell command in an allocation of these nodes."""
    count = nodes.count(",") + 1
    return cluster.run(["salloc", "-Q", "-w", nodes, f"-N{count}", *words, "sh", "-c", command])


def words_of(done: Done) -> list[str]:
    return [line for line in said(done) if line.startswith("cmeta:")]


def test_a_step_that_none_of_the_nodes_can_run_is_refused(cluster: Cluster, zen4: Path) -> None:
    done = in_allocation(cluster, "mid1", f"srun --container={zen4} true")
    first, second = words_of(done)
    assert first.startswith("cmeta: error: x86-zen4.sif needs zen4 (label ")
    assert "of the allocation can run it: mid1 has zen3" in first
    assert second == "cmeta: error: not started; with --cmeta=off the image is not looked at"
    assert done.returncode == 1
    pair = in_allocation(cluster, "mid1,old1", f"srun --container={zen4} true")
    assert "none of those 2 nodes of the allocation can run it: " in pair.stderr


def test_the_site_may_only_warn(cluster: Cluster, zen4: Path) -> None:
    pytest.importorskip("yaml")
    cluster.conf_path.with_name("cmeta.yaml").write_text("on_mismatch: warn\n")
    done = in_allocation(cluster, "mid1", f"srun --container={zen4} true")
    (line,) = words_of(done)
    assert line.startswith("cmeta: warning: x86-zen4.sif needs zen4")
    assert "not started" not in done.stderr


def test_a_step_that_fits_is_nothing_to_talk_of(cluster: Cluster, zen4: Path) -> None:
    done = in_allocation(cluster, "top1", f"srun --container={zen4} true")
    assert words_of(done) == []
    off = in_allocation(cluster, "mid1", f"srun --cmeta=off --container={zen4} true")
    assert words_of(off) == []


def test_where_only_some_nodes_fit_the_user_is_warned(cluster: Cluster, zen4: Path) -> None:
    done = in_allocation(cluster, "mid1,top1", f"srun -N1 -w top1 --container={zen4} true")
    assert words_of(done) == []
    done = in_allocation(cluster, "mid1,top1", f"srun -N1 -x mid1 --container={zen4} true")
    assert words_of(done) == []
    done = in_allocation(cluster, "mid1,top1", f"srun --container={zen4} true")
    assert words_of(done)[0].endswith(
        "not one of those nodes of the allocation can run it: mid1 has zen3; others of it can"
    )
    done = in_allocation(cluster, "mid1,top1", f"srun -N1 -w mid1 --container={zen4} true")
    assert "not started" in done.stderr


def test_the_allocations_constraint_is_not_touched(cluster: Cluster, zen4: Path) -> None:
    show = "scontrol -o show job $SLURM_JOB_ID"
    done = in_allocation(cluster, "top1", f"srun --container={zen4} true; {show}", "-Cbigmem")
    assert " Features=bigmem " in done.stdout
    assert "(null)" in done.stdout[done.stdout.index("ExcNodeList=") :]


def test_each_component_of_an_allocation_has_its_own_nodes(cluster: Cluster, zen4: Path) -> None:
    steps = " ; ".join(f"srun --het-group={group} --container={zen4} true" for group in (0, 1))
    argv = ["salloc", "-Q", "-w", "mid1", ":", "-w", "top1", "sh", "-c", steps]
    lines = words_of(cluster.run(argv))
    assert len(lines) == 2, lines
    assert "mid1 has zen3" in lines[0]


def test_a_step_of_another_job_is_not_looked_at(cluster: Cluster, zen4: Path) -> None:
    """Its nodes are not those of the job that srun runs in."""
    inner = f'srun --jobid=$OUTER --container={zen4} true; echo "$OUTER $SLURM_JOB_ID"'
    outer = f"export OUTER=$SLURM_JOB_ID; salloc -Q -w mid1 sh -c '{inner}'"
    done = in_allocation(cluster, "top1", outer)
    assert len(set(done.stdout.split())) == 2
    assert words_of(done) == []


def test_an_image_that_cannot_be_read_stops_no_step(cluster: Cluster, place: Path) -> None:
    done = in_allocation(cluster, "mid1", f"srun --container={place}/no.sif true")
    assert words_of(done)[0].endswith("; the step is started all the same")


def test_a_step_in_the_jobs_own_image_is_not_looked_at_again(
    cluster: Cluster, product: Product, place: Path, zen4: Path
) -> None:
    log = place / "matched"
    matcher = place / "counting-matcher"
    matcher.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {product.matcher} "$@"\n')
    matcher.chmod(0o755)
    log.touch()
    log.chmod(0o666)
    cluster.set_plugstack([product.plugstack_line(f"matcher={matcher}")])
    handed = f"SLURM_SPANK_CMETA_IMAGE={zen4} SLURM_SPANK_CMETA_VERDICT=match"

    def matched(image: Path, before: str = handed) -> list[str]:
        log.write_text("")
        in_allocation(cluster, "top1", f"{before} srun --container={image} true")
        return log.read_text().splitlines()

    assert matched(zen4) == []
    other = place / "copy.sif"
    other.write_bytes(zen4.read_bytes())
    (line,) = matched(other)
    assert line.startswith(f"--image {other} --partition all --nodelist top1 --step yes ")
    assert len(matched(zen4, "")) == 1
    assert len(matched(zen4, handed.replace("match", "unknown"))) == 1
    assert len(matched(zen4, f"{handed} SLURM_HET_SIZE=2")) == 1


@pytest.mark.parametrize("submit", ["sbatch", "salloc"])
@pytest.mark.parametrize("fault", ["exit 3", "sleep 60", "deadlin=2"])
def test_a_fault_is_told_once(
    submit: str, fault: str, cluster: Cluster, product: Product, place: Path, tmp_path: Path
) -> None:
    """The image is none that this plugin runs, so that the script sees the cluster."""
    image, log, matcher = place / "once", tmp_path / "matched", tmp_path / "matcher"
    for path, text in ((image, "not a SIF\n"), (place / "twice", "not a SIF either\n")):
        path.write_text(text)
        path.chmod(0o644)
    matcher.write_text(f"#!/bin/sh\necho >> {log}\n{'exit 3' if '=' in fault else fault}\n")
    matcher.chmod(0o755)
    log.touch()
    wrong = fault if "=" in fault else ""
    cluster.set_plugstack([product.plugstack_line(f"matcher={matcher}", "deadline=0.3", wrong)])
    step = f"srun --container={image}"
    script = f"{step} true; {step} true; {step} --cmeta=explain true; echo apart >&2; "
    script += f"srun --container={place}/twice true"
    if submit == "salloc":
        done = in_allocation(cluster, "top1", script, f"--container={image}")
        lines = said(done)
    else:
        printed = tmp_path / "printed"
        options = ["--wait", "-wtop1", f"--output={printed}", f"--container={image}"]
        done = cluster.run(["sbatch", *options], input=f"#!/bin/sh\n{script}\n")
        lines = [*said(done), *printed.read_text().splitlines()]
    assert done.returncode == 0, done.stderr
    warnings = [line for line in lines if line == "apart" or line.startswith("cmeta: warning: ")]
    assert warnings[0].endswith("; the job is submitted as it is")
    assert warnings[1] != "apart"  # the step that asks for an explanation
    assert warnings[2] == "apart"
    assert len(warnings) == 4, warnings  # another image
    assert len(log.read_text().splitlines()) == (0 if wrong else 3)


def test_submissions_from_within_a_job_inherit_nothing(
    cluster: Cluster, place: Path, zen4: Path, make_image: ImageMaker
) -> None:
    """The job's image is none that this plugin runs, so that its script sees the cluster."""
    image = place / "no-image"
    image.write_text("not a SIF\n")
    image.chmod(0o644)
    hold = "sbatch --hold --parsable"
    arm = make_image("arm", "arm64")
    script = f"""#!/bin/sh
env | grep ^SLURM_SPANK_CMETA_
{hold} --wrap=true
{hold} --container={zen4} --wrap=true
{hold} --container={arm} -Cbigmem --wrap=true
"""
    outer = cluster.run(["sbatch", "--parsable", f"--container={image}"], input=script)
    cluster.wait(int(outer.stdout))
    lines = cluster.output(int(outer.stdout)).splitlines()
    handed = [line for line in lines if line.startswith("SLURM_SPANK_")]
    plain, inner, both = [line for line in lines if line.isdigit()]
    assert f"SLURM_SPANK_CMETA_IMAGE={image}" in handed
    jobs = [cluster.job(int(number)) for number in (plain, inner, both)]
    assert [job["Features"] for job in jobs] == ["(null)", "zen4", "bigmem&aarch64"]
    assert "AdminComment" not in jobs[0]
    assert jobs[2]["AdminComment"] == "cmeta requires aarch64"
    done = sbatch(cluster, f"--container={zen4}", env=dict(line.split("=", 1) for line in handed))
    assert fields(cluster, done)["Features"] == "zen4"
