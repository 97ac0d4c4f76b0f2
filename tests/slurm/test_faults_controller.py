"""The fault matrix of slurmctld: whatever is wrong with the controller's half, jobs are taken.

lua/ is broken in a copy of it, in a real slurmctld. 26.05 refuses a job for an error that nobody
catches. docs/faults.md lists the rows.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import Cluster, Node
from conftest import PROJECT, ImageMaker, never_drained
from product import NODES, Product
from test_submit import Done, fields, said, sbatch

pytestmark = never_drained

MODULES = ("cmeta", "cmeta_expression", "cmeta_log", "cmeta_nodes")
IMAGE = "/images/img.sif"

HANDED = {
    "CMETA_TEST_HAND_VERDICT": "match",
    "CMETA_TEST_HAND_CONSTRAINT": "bigmem&zen4",
    "CMETA_TEST_HAND_PREFER": "bigmem&zen4&x86_64",
    "CMETA_TEST_HAND_EXCLUDE": "old1",
    "CMETA_TEST_HAND_REQUIRED": "zen4",
}
WRITTEN = ("bigmem", None, "(null)", None)
WHOLE = ("bigmem&zen4", "bigmem&zen4&x86_64", "old1", "cmeta requires zen4; cmeta excludes old1")

SNAPSHOT = (
    '{"schema": "cmeta.nodes/1", "time": "2999-01-01T00:00:00Z",'
    ' "classes": [{"nodes": "n1", "features": ["bigmem", "zen4", "x86_64"]}]}\n'
)
"""Written in the future, so its features are read and then not relied on."""


@pytest.fixture(scope="module")
def handover_only(place: Path) -> str:
    """Return the plugstack line of a plugin that only hands over: the controller does the rest."""
    plugin = place / "faults_handover.so"
    source = Path(__file__).with_name("handover_only.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(plugin), str(source)], check=True)
    return f"required {plugin}"


@pytest.fixture(scope="module")
def cluster(place: Path, product: Product) -> Iterator[Cluster]:
    with Cluster(
        place / "fc",
        [Node(names, features, running=False) for names, features in NODES.items()],
        job_submit=product.job_submit(),
    ) as running:
        yield running


@pytest.fixture
def lua(place: Path) -> Path:
    """Return a copy of lua/ that may be broken, each time another: what is loaded stays loaded."""
    directory = Path(tempfile.mkdtemp(prefix="lua_", dir=place))
    shutil.copytree(PROJECT / "lua", directory, dirs_exist_ok=True)
    (directory / "snapshot").write_text(SNAPSHOT)
    return directory


def stub(lua: Path) -> str:
    """Return job_submit.lua for the modules in `lua`, with the snapshot there."""
    text = (PROJECT / "lua/job_submit.lua").read_text()
    text = text.replace("/usr/local/share/slurm-cmeta", str(lua))
    return text.replace("ensure, job_desc", f'ensure, job_desc, {{snapshot = "{lua}/snapshot"}}')


def became(cluster: Cluster, done: Done) -> tuple[str | None, ...]:
    job = fields(cluster, done)
    assert job["JobState"] == "PENDING"
    return tuple(job.get(k) for k in ("Features", "Prefer", "ExcNodeList", "AdminComment"))


def submit(cluster: Cluster, *words: str) -> Done:
    return sbatch(cluster, f"--container={IMAGE}", "-C", "bigmem", *words, env=HANDED)


# --- an error at every line -----------------------------------------------------------------------

INJECTOR = """
local inner, seen = slurm_job_submit, {}
function slurm_job_submit(job_desc)
   local wanted, hit = job_desc.comment, false
   package.loaded.cmeta_nodes = nil
   debug.sethook(function(_, line)
      local source = debug.getinfo(2, "S").source
      local module = string.match(source, "DIRECTORY/([%w_]+)%.lua$")
      local here = module and module .. ":" .. line
      if here and wanted == "trace" then
         seen[#seen + 1] = here
      elseif here and here == wanted and not hit then
         hit = true
         error("injected")
      end
   end, "l")
   local ok, rc = pcall(inner, job_desc)
   debug.sethook()
   if wanted == "trace" then
      local file = io.open("DIRECTORY/trace", "w")
      file:write(table.concat(seen, "\\n"))
      file:close()
   end
   if not ok then error(rc) end
   return rc
end
return slurm.SUCCESS
"""


def test_an_error_at_any_line_that_a_submission_reaches(
    cluster: Cluster, handover_only: str, lua: Path
) -> None:
    """As written, or with the whole decision where it was done already: never with a part."""
    pattern = str(lua).replace("-", "%-")
    text = stub(lua).removesuffix("return slurm.SUCCESS\n")
    text += INJECTOR.replace('"DIRECTORY/(', f'"{pattern}/(').replace("DIRECTORY", str(lua))
    cluster.set_plugstack([handover_only])
    cluster.set_job_submit(text)
    assert became(cluster, submit(cluster, "--comment=trace")) == WHOLE
    lines = sorted(set((lua / "trace").read_text().split()))
    assert {line.split(":")[0] for line in lines} == set(MODULES)
    assert len(lines) > 200
    outcomes = {}
    for line in lines:
        done = submit(cluster, f"--comment={line}")
        assert done.returncode == 0, (line, done.stderr)
        outcomes[line] = became(cluster, done)
        cluster.run(["scancel", done.stdout.strip()])
    assert {line: o for line, o in outcomes.items() if o not in (WRITTEN, WHOLE)} == {}
    assert sum(outcome == WRITTEN for outcome in outcomes.values()) > 60
    assert "error, the job is left as it is: " in cluster.slurmctld_log()


# --- modules that are broken ----------------------------------------------------------------------

BREAKERS: dict[str, Callable[[str], str | None]] = {
    "missing": lambda text: None,
    "empty": lambda text: "",
    "cut off at half": lambda text: text[: len(text) // 2],
    "without its last line": lambda text: text.rstrip().rpartition("\n")[0],
    "no Lua": lambda text: "%PDF-1.7\n",
    "raising an error": lambda text: 'error("at load")\n',
    "raising a table": lambda text: "error({})\n",
    "returning nonsense": lambda text: "return 7\n",
}


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("fault", BREAKERS)
def test_a_module_that_is(
    fault: str, module: str, cluster: Cluster, handover_only: str, lua: Path
) -> None:
    path = lua / f"{module}.lua"
    text = BREAKERS[fault](path.read_text())
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    cluster.set_plugstack([handover_only])
    cluster.set_job_submit(stub(lua))
    done = submit(cluster)
    # Without cmeta_nodes there is no snapshot, and the rest is done.
    assert became(cluster, done) == (WHOLE if module == "cmeta_nodes" else WRITTEN)
    assert [line for line in said(done) if "error" in line] == []
    number = done.stdout.strip()
    update = cluster.run(["scontrol", "update", f"JobId={number}", "Features=zen3"])
    assert update.returncode == 0, update.stderr
    assert fields(cluster, sbatch(cluster))["Features"] == "(null)"


@pytest.mark.parametrize("fault", ["missing", "empty", "no Lua"])
def test_what_is_wrong_with_the_module_is_in_slurmctlds_log(
    fault: str, cluster: Cluster, lua: Path
) -> None:
    path = lua / "cmeta.lua"
    text = BREAKERS[fault]("")
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    cluster.set_job_submit(stub(lua))
    before = len(cluster.slurmctld_log())
    assert sbatch(cluster).returncode == 0
    assert "cmeta: " in cluster.slurmctld_log()[before:]


# --- clients of another Slurm ---------------------------------------------------------------------


@pytest.fixture
def client_without(cluster: Cluster, product: Product, place: Path) -> Callable[[str], None]:
    """Return a function that installs a plugin which does not find one of Slurm's symbols."""

    def install(symbol: str) -> None:
        binary, wanted = product.plugin.read_bytes(), b"\0" + symbol.encode() + b"\0"
        assert binary.count(wanted) >= 1
        plugin = place / f"without_{symbol}.so"
        plugin.write_bytes(binary.replace(wanted, b"\0" + b"~" * len(symbol) + b"\0"))
        cluster.set_plugstack([product.plugstack_line().replace(str(product.plugin), str(plugin))])

    return install


@pytest.mark.parametrize("symbol", ["slurm_option_get", "slurm_xfree", "opt"])
def test_a_slurm_whose_options_cannot_be_read(
    symbol: str,
    cluster: Cluster,
    product: Product,
    client_without: Callable[[str], None],
    make_image: ImageMaker,
) -> None:
    """Nobody can tell that there is an image; the controller's half can."""
    client_without(symbol)
    warn = product.job_submit().replace("ensure, job_desc", 'ensure, job_desc, {on_missing="warn"}')
    cluster.set_job_submit(warn)
    done = sbatch(cluster, f"--container={make_image('arm', 'arm64')}", "-C", "bigmem")
    assert fields(cluster, done)["Features"] == "bigmem"
    assert said(done) == ["sbatch: cmeta: warning: nobody has looked at the job's image"]
    assert sbatch(cluster).stderr == ""


@pytest.mark.parametrize("symbol", ["slurm_option_set", "slurm_option_reset"])
def test_a_slurm_whose_options_cannot_be_changed(
    symbol: str,
    cluster: Cluster,
    product: Product,
    client_without: Callable[[str], None],
    make_image: ImageMaker,
) -> None:
    """The decision is handed over all the same, and the controller's half applies it."""
    client_without(symbol)
    cluster.set_job_submit(product.job_submit())
    done = sbatch(cluster, f"--container={make_image('arm', 'arm64')}", "-C", "bigmem")
    assert fields(cluster, done)["Features"] == "bigmem&aarch64"
    assert "cmeta: arm.sif needs aarch64" in done.stderr
