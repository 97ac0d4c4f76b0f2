"""cmeta why: one node from files, one job from what scontrol and sinfo print."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sif_files
from test_cli import SCHEMAS, one_line, run

from slurm_cmeta import why
from slurm_cmeta.cluster import Cluster, job, live
from slurm_cmeta.cluster.job import Job
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.nodefacts import NO_NAMES
from slurm_cmeta.requirement import Requirement

SLURM_CONF = """\
ClusterName=test
NodeName=old[1-2] Features=x86_64,x86_64_v2,ivybridge
NodeName=mid[1-8] Features=x86_64,x86_64_v2,x86_64_v3,zen3
NodeName=top1 Features=x86_64,x86_64_v2,x86_64_v3,x86_64_v4,zen4,ib
NodeName=bare1
PartitionName=cpu Nodes=old[1-2],mid[1-8],bare1 Default=YES
PartitionName=big Nodes=top1
"""

ZEN4 = {"io.archspec.cpu.target": "zen4"}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.conf"
    path.write_text(SLURM_CONF)
    return path


@pytest.fixture
def zen4(tmp_path: Path) -> Path:
    path = tmp_path / "zen4.sif"
    path.write_bytes(sif_files.build(sif_files.partition(), sif_files.metadata(ZEN4)))
    return path


def check(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(value, json.loads((SCHEMAS / "cmeta.why-1.json").read_text()))
    return value


# --- one node -----------------------------------------------------------------------------------


def test_a_node_that_cannot_run_it(conf: Path, zen4: Path) -> None:
    done = run("main", "why", zen4, "mid3", "--slurm-conf", conf)
    assert (done.returncode, done.stderr) == (1, "")
    assert "verdict     mismatch: mid3 cannot run it, for 1 reason\n" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("cpu >= zen4")]
    assert row.split()[3:6] == ["hard", "zen3", "mismatch"]
    assert row.endswith("label io.archspec.cpu.target")
    assert "  cpu:      a node with zen4; mid3 has zen3\n" in done.stdout
    assert "  or        an image built for zen3 or x86_64_v3\n" in done.stdout
    assert "  or        label io.archspec.cpu.target says zen4; strength.cpu: soft" in done.stdout


def test_a_node_as_json(conf: Path, zen4: Path) -> None:
    found = check(run("main", "why", zen4, "mid3", "--slurm-conf", conf, "-C", "zen3", "--json"))
    assert (found["verdict"], found["runs"], found["node"]) == ("mismatch", False, "mid3")
    assert (found["partition"], found["in_partition"], found["allowed"]) == ("cpu", True, True)
    assert [(r["key"], r["verdict"]) for r in found["reasons"]] == [
        ("arch", "match"),
        ("cpu", "mismatch"),
    ]
    assert [(c["key"], c["by"]) for c in found["changes"]] == [
        ("cpu", "node"),
        ("cpu", "image"),
        ("cpu", "site"),
    ]


@pytest.mark.parametrize(
    ("options", "code", "line"),
    [
        ([], 0, "partition   cpu, where jobs go by default, does not hold top1; it is in big; "
         "add -p big"),
        (["-p", "big"], 0, "partition   big holds top1"),
        (["-p", "cpu"], 1, "partition   cpu does not hold top1; it is in big"),
        (["-C", "ib"], 0, "constraint  ib allows top1"),
        (["-C", "zen3"], 1, "constraint  zen3 leaves out top1"),
        (["-C", "a||b"], 0, "constraint  a||b cannot be compared with top1"),
    ],
)  # fmt: skip
def test_whether_a_job_gets_there(
    conf: Path, zen4: Path, options: list[str], code: int, line: str
) -> None:
    done = run("main", "why", zen4, "top1", "--slurm-conf", conf, *options)
    assert (done.returncode, done.stderr) == (code, "")
    assert line in done.stdout.splitlines()
    assert "verdict     match: top1 can run it" in done.stdout
    assert "what would change" not in done.stdout


def test_nothing_could_be_compared(conf: Path, zen4: Path) -> None:
    done = run("main", "why", zen4, "bare1", "--slurm-conf", conf)
    assert done.returncode == 0
    assert "verdict     unknown: bare1 publishes nothing" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["n9"], 4, "no node n9 in "),
        (["mid[1-2]"], 2, "'mid[1-2]' is not the name of one node"),
        (["mid1,mid2"], 2, "is not the name of one node"),
        ([""], 2, "is not the name of one node"),
        (["mid[1"], 2, "is not the name of one node"),
        ([], 2, "is no job's number; for an image, name a node"),
    ],
)
def test_no_such_node(conf: Path, zen4: Path, words: list[str], code: int, message: str) -> None:
    done = run("main", "why", zen4, *words, "--slurm-conf", conf)
    assert done.returncode == code
    assert message in one_line(done)


def test_no_such_image(conf: Path) -> None:
    done = run("main", "why", "/nowhere.sif", "top1", "--slurm-conf", conf)
    assert done.returncode == 3
    one_line(done)


@pytest.mark.parametrize("option", [["-C", "a"], ["-p", "a"], ["--slurm-conf", "/x"]])
def test_a_job_has_its_own_options(option: list[str]) -> None:
    done = run("main", "why", "12", *option)
    assert done.returncode == 2
    assert "only --config and --json go with JOBID" in one_line(done)


# --- one job ------------------------------------------------------------------------------------


def record(head: str = "JobId=7", name: str = "j", *, tail: str = "", **changed: str) -> str:
    """One line of `scontrol --oneliner show job` of 22.05.8, of a batch job."""
    fields = {
        "JobState": "PENDING",
        "Reason": "Resources",
        "Partition": "all",
        "ReqNodeList": "(null)",
        "ExcNodeList": "(null)",
        "NodeList": "",
        "NumNodes": "1",
        "Features": "zen4",
        **changed,
    }
    f = {key: f"{key}={value}" for key, value in fields.items()}
    return (
        f"{head} JobName={name} UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=0 Nice=0 "
        f"Account=(null) QOS=(null) {f['JobState']} {f['Reason']} Dependency=(null) Requeue=1 "
        "Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:00 TimeLimit=UNLIMITED "
        "TimeMin=N/A SubmitTime=2026-11-25T03:15:15 EligibleTime=Unknown AccrueTime=Unknown "
        "StartTime=Unknown EndTime=Unknown Deadline=N/A SuspendTime=None SecsPreSuspend=0 "
        f"LastSchedEval=2026-11-25T03:15:15 Scheduler=Main {f['Partition']} "
        f"AllocNode:Sid=localhost:0 {f['ReqNodeList']} {f['ExcNodeList']} {f['NodeList']} "
        f"{f['NumNodes']} NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:* "
        "TRES=cpu=1,mem=4000M,node=1,billing=1 Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=* "
        f"MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0 {f['Features']} DelayBoot=00:00:00 "
        "OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null) Command=(null) WorkDir=/w "
        f"StdErr=/w/slurm-7.out StdIn=/dev/null StdOut=/w/slurm-7.out Power= {tail}\n"
    )


def parsed(text: str) -> Job:
    (one,) = job.parse(text)
    return one


def test_what_scontrol_prints() -> None:
    one = parsed(record(tail="Container=/images/a b=c.sif ", ReqNodeList="n[1-2]"))
    assert one == Job("7", "PENDING", "Resources", "/images/a b=c.sif", "zen4", "", "all",
                      "n[1-2]", "", "", 1)  # fmt: skip
    assert parsed(record(tail="Container=/a.sif ContainerID=(null) ")).container == "/a.sif"
    assert parsed(record(tail="Container=(null) ContainerID=x ")).container == ""
    assert parsed(record()).container == ""
    assert parsed(record(Features="(null)")).constraint == ""
    assert parsed(record(Reason="a reason in words")).reason == "a reason in words"


def test_a_name_and_a_comment_do_not_pass_for_fields() -> None:
    text = record(name="x Container=/evil JobState=X Features=y Partition=z", tail="Container=/i ")
    text = text.replace("StdErr=", "Comment=hi Container=/e2 Features=q  StdErr=")
    one = parsed(text)
    assert (one.state, one.container, one.constraint) == ("PENDING", "/i", "zen4")
    without = record().replace("StdErr=", "Comment=hi Container=/e2 StdErr=")
    assert parsed(without).container == ""


@pytest.mark.parametrize(
    ("head", "identifier"),
    [
        ("JobId=7", "7"),
        ("JobId=8 ArrayJobId=7 ArrayTaskId=1-3%2", "7_[1-3%2]"),
        ("JobId=8 ArrayJobId=7 ArrayTaskId=3 ArrayTaskThrottle=2", "7_3"),
        ("JobId=8 HetJobId=7 HetJobOffset=1", "7+1"),
    ],
)
def test_the_job_is_called_as_users_call_it(head: str, identifier: str) -> None:
    assert parsed(record(head)).id == identifier


def test_tasks_that_differ_in_nothing_are_told_once() -> None:
    heads = [f"JobId={n} ArrayJobId=7 ArrayTaskId={n}" for n in (8, 9)]
    running = [record(h, JobState="RUNNING", NodeList=f"n{i}") for i, h in enumerate(heads)]
    waiting = record("JobId=7 ArrayJobId=7 ArrayTaskId=10-12")
    assert [j.id for j in job.parse("".join([*running, waiting]))] == ["7_8", "7_[10-12]"]
    both = [record(f"JobId={n} HetJobId=7 HetJobOffset={n - 7}") for n in (7, 8)]
    assert [j.id for j in job.parse("".join(both))] == ["7+0", "7+1"]


@pytest.mark.parametrize("text", ["JobId=7 nothing more\n", "JobId=7 JobName=x JobState=\n"])
def test_what_is_no_job_is_an_error(text: str) -> None:
    with pytest.raises(ClusterError, match="scontrol printed what is no job"):
        job.parse(text)


SINFO = """\
top1|all|all*|{top}|4000|(null)|x86_64,x86_64_v2,x86_64_v3,x86_64_v4,zen4
arm1|all|all*|idle|4000|(null)|aarch64,neoverse_v1
mid1|all|all*|{mid}|4000|(null)|x86_64,x86_64_v2,x86_64_v3,zen3
mid2|all|all*|idle|4000|(null)|x86_64,x86_64_v2,x86_64_v3,zen3
far1|other|other|idle|4000|(null)|x86_64,x86_64_v4,zen4
"""

WANTS = [
    Requirement("arch", "=", "x86_64", "hard", "observed", "ELF header of /bin/sh"),
    Requirement("cpu", ">=", "zen4", "hard", "declared", "label cpu"),
]

JOB = Job("7", "PENDING", "Resources", "/i/img.sif", "zen4", "", "all", "", "", "", 1)


def nodes(top: str = "idle", mid: str = "idle") -> Cluster:
    return live.parse_by_state(SINFO.format(top=top, mid=mid))


def answer(one: Job = JOB, cluster: Cluster | None = None, **wants: Any) -> why.JobAnswer:
    return why.job(one, one.container, wants.get("wants", WANTS), cluster or nodes(), NO_NAMES)


def test_each_class_has_nodes_in_one_state() -> None:
    cluster = nodes(mid="down")
    assert {(c.nodes, c.states) for c in cluster.classes if "zen3" in c.features} == {
        ("mid1", (("down", 1),)),
        ("mid2", (("idle", 1),)),
    }
    assert cluster.default_partition == "all"


def test_the_only_nodes_that_fit_are_out_of_service() -> None:
    found = answer(cluster=nodes(top="drained"))
    assert (found.held_by, found.hopeless) == ("image", False)
    assert found.lines == (
        "img.sif needs zen4 (label cpu), but none of those 3 nodes that are idle can run it: "
        "arm1 has aarch64, neoverse_v1; mid[1-2] have zen3",
        "1 node would do: top1 (drained)",
        "it starts no job in that state: `sinfo -R` tells why",
    )
    assert found.nearest is not None
    assert found.nearest.nodes.nodes == "mid[1-2]"
    assert {c.key for c in found.changes} == {"cpu"}
    assert "far1" not in [g.one.nodes.nodes for g in found.groups]


def test_nodes_that_are_not_idle_are_no_reason() -> None:
    found = answer(cluster=nodes(top="drained", mid="down"))
    assert "none of those 2 nodes that are idle can run it: arm1 has" in found.lines[0]
    assert "mid1" not in found.lines[0]


def test_the_nodes_that_fit_are_taken() -> None:
    found = answer(cluster=nodes(top="allocated"))
    assert found.held_by == "image"
    assert found.lines[1:] == ("1 node would do: top1 (allocated)",)
    alone = JOB._replace(partition="other")
    taken = live.parse_by_state(SINFO.replace("other|idle", "other|mixed").format(top="", mid=""))
    found = answer(alone, taken)
    assert (found.held_by, found.lines) == ("state", ("1 node would do: far1 (mixed)",))


def test_nodes_that_fit_are_idle() -> None:
    found = answer()
    assert (found.held_by, found.hopeless, found.nearest) == ("other", False, None)
    assert found.lines[0] == "img.sif does not hold it back; Slurm's reason is Resources"
    assert found.lines[1] == "1 node would do: top1 (idle)"
    held = answer(JOB._replace(reason="JobHeldUser"), nodes(top="drained"))
    assert (held.held_by, held.lines[1]) == ("other", "1 node would do: top1 (drained)")


def test_no_node_at_all() -> None:
    wants = [Requirement("arch", "=", "ppc64le", "hard", "observed", "ELF header")]
    found = answer(wants=wants)
    assert (found.held_by, found.hopeless) == ("image", True)
    assert "none of those 4 nodes in partition all can run it" in found.lines[0]
    assert found.nearest is not None
    assert found.nearest.nodes.nodes == "mid[1-2]"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"constraint": "zen3"}, "the job's --constraint leaves out top1 (idle)"),
        ({"exclude": "top1"}, "the job's --exclude leaves out top1 (idle)"),
        ({"nodelist": "mid1", "constraint": ""}, "the job's --nodelist leaves out top1 (idle)"),
    ],
)
def test_the_jobs_own_options_leave_them_out(changed: dict[str, str], line: str) -> None:
    found = answer(JOB._replace(**changed))  # type: ignore[arg-type]
    assert (found.held_by, found.hopeless) == ("options", True)
    assert line in found.lines[-1]
    if "nodelist" in changed:
        assert "but a node that --nodelist names cannot run it: mid1 has zen3" in found.lines[0]


def test_more_nodes_than_named_may_be_others() -> None:
    found = answer(JOB._replace(nodelist="top1", node_count=2, constraint=""))
    assert found.held_by == "other"
    assert {g.left_out for g in found.groups} == {""}
    both = answer(JOB._replace(nodelist="mid1,top1", node_count=2, constraint=""))
    assert (both.held_by, both.hopeless) == ("options", True)
    (line,) = both.lines
    assert line.endswith("but a node that --nodelist names cannot run it: mid1 has zen3")


def test_a_constraint_that_is_not_understood_leaves_nothing_out() -> None:
    assert answer(JOB._replace(constraint="a||b")).held_by == "other"
    assert answer(JOB._replace(constraint="no_such")).held_by == "other"


def test_a_job_that_does_not_wait() -> None:
    found = answer(JOB._replace(state="RUNNING", nodes="top1"))
    assert (found.held_by, found.lines) == (None, ("it does not wait: RUNNING on top1",))


def test_a_partition_without_nodes() -> None:
    empty = nodes()._replace(classes=())
    found = answer(cluster=empty)
    assert (found.held_by, found.hopeless) == ("other", True)
    assert found.lines == ("there is no node that Slurm shows",)


# --- with stand-ins for scontrol and sinfo ------------------------------------------------------


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Return the environment in which scontrol and sinfo print what the files say."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("scontrol", "sinfo"):
        program = place / name
        program.write_text(
            f"#!/bin/sh\ncat {tmp_path}/{name}.err >&2\ncat {tmp_path}/{name} 2>/dev/null\n"
        )
        program.chmod(0o755)
        (tmp_path / f"{name}.err").touch()
    (tmp_path / "sinfo").write_text(SINFO.format(top="drained", mid="idle"))
    return {"PATH": f"{place}:{os.environ['PATH']}"}


def test_why_a_job_waits(tmp_path: Path, slurm: dict[str, str], zen4: Path) -> None:
    (tmp_path / "scontrol").write_text(record(tail=f"Container={zen4} "))
    done = run("main", "why", "7", env=slurm)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("job         7: PENDING, Resources\n")
    assert "\nwhy         zen4.sif needs zen4 (label io.archspec.cpu.target), but" in done.stdout
    assert "\nnearest     mid[1-2]: fail cpu only\n\nwhat would change it:\n" in done.stdout
    (found,) = check(run("main", "why", "7", "--json", env=slurm))["jobs"]
    assert (found["id"], found["held_by"], found["nearest"]) == ("7", "image", "mid[1-2]")


def test_a_job_without_container(tmp_path: Path, slurm: dict[str, str]) -> None:
    (tmp_path / "scontrol").write_text(record())
    done = run("main", "why", "7", env=slurm)
    assert (done.returncode, done.stderr) == (0, "")
    assert "container   none: slurm-cmeta has no part in it" in done.stdout
    (found,) = check(run("main", "why", "7", "--json", env=slurm))["jobs"]
    assert (found["image"], found["held_by"]) == (None, None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("slurm_load_jobs error: Invalid job id specified", "Slurm knows no such job"),
        (
            "slurm_load_jobs error: Unable to contact slurm controller",
            "scontrol failed: slurm_load",
        ),
        ("", "scontrol failed: exit status 1"),
    ],
)
def test_no_such_job(tmp_path: Path, slurm: dict[str, str], said: str, message: str) -> None:
    (tmp_path / "scontrol.err").write_text(said)
    done = run("main", "why", "9999", env=slurm)
    assert done.returncode == 4
    assert message in one_line(done)


def test_an_image_that_is_gone(tmp_path: Path, slurm: dict[str, str]) -> None:
    (tmp_path / "scontrol").write_text(record(tail="Container=/gone.sif "))
    done = run("main", "why", "7", env=slurm)
    assert done.returncode == 3
    assert "/gone.sif" in one_line(done)


def test_without_slurm(tmp_path: Path) -> None:
    done = run("main", "why", "7", env={"PATH": str(tmp_path)})
    assert done.returncode == 4
    assert "scontrol is not in PATH" in one_line(done)
