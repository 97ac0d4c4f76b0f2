"""Documents and code say the same."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import sif_files

from slurm_cmeta import __version__, config, errors, reason, requirement, vocabulary
from slurm_cmeta.cli import decide, surface
from slurm_cmeta.cli import features as features_command
from slurm_cmeta.cli.main import parser
from slurm_cmeta.cluster import snapshot
from slurm_cmeta.evidence.resources import mebibytes
from slurm_cmeta.node import keys, site
from slurm_cmeta.pull import store, tools
from slurm_cmeta.report import totals
from slurm_cmeta.settings import SETTINGS
from slurm_cmeta.submission import read_image
from slurm_cmeta.vocabulary import spellings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MAN = sorted((DOCS / "man").glob("*.[158]"))
TO_COME: set[str] = set()
"""Pages that are being written; links to them are there already."""
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])


def read(path: str) -> str:
    return (ROOT / path).read_text()


def man(name: str) -> str:
    """Return a man page without its escapes for hyphens and quotes and without font changes."""
    text = read(f"docs/man/{name}").replace("\\-", "-").replace("\\(aq", "'")
    return re.sub(r"\\f[BIR]", "", text)


def entry(page: str, head: str) -> str:
    """Return the entry of a man page whose first line, without macro and quotes, starts so."""
    for part in re.split(r"^\.TP\n", page, flags=re.MULTILINE)[1:]:
        part = re.split(r"^\.(?:SH|SS|PP)\b", part, flags=re.MULTILINE)[0]
        first = re.sub(r'^\.[A-Z]+ |"', "", part.splitlines()[0]).replace(" =", "=")
        if re.match(rf"{re.escape(head)}(?!\w)", first):
            return part
    raise AssertionError(f"no entry {head!r}")


def row(page: str, head: str) -> str:
    """Return the row of a Markdown table whose first cell is `head` as code."""
    for line in page.splitlines():
        if line.startswith(f"| `{head}` |"):
            return line
    raise AssertionError(f"no row {head!r}")


def indented(page: str) -> str:
    """Return the text of a Markdown page's indented blocks."""
    lines = page.splitlines()
    return "\n".join(line.strip() for line in lines if line.startswith("    "))


# --- plugstack.conf -----------------------------------------------------------------------------


def test_every_plugstack_key_is_documented() -> None:
    keys = re.findall(r'value_of\(argument, "(\w+)"\)', read("spank/settings.c"))
    assert len(keys) == 13
    table, page = read("docs/plugstack.md"), man("slurm-cmeta.8")
    for key in keys:
        assert row(table, key)
        assert entry(page, f"{key}=")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(keys)


def test_the_defaults_of_the_deadline_are_the_documented_ones() -> None:
    source = read("spank/settings.c")
    found = re.search(r"DEFAULT_DEADLINE_MS = (\d+), MAX_DEADLINE_S = (\d+)", source)
    assert found
    default, most = int(found[1]) // 1000, int(found[2])
    line = row(read("docs/plugstack.md"), "deadline")
    assert f"| `{default}` |" in line
    assert f"at most {most})" in line
    described = entry(man("slurm-cmeta.8"), "deadline=")
    assert f"Default: {default}." in described
    assert f"at most {most};" in described


def test_the_defaults_of_a_pull_are_the_documented_ones() -> None:
    table, page = read("docs/plugstack.md"), man("slurm-cmeta.8")
    found = re.search(r"DEFAULT_TIMEOUT_S = (\d+)", read("spank/pull.c"))
    base = re.search(r'DEFAULT_STORE\[\] = "([^"]+)"', read("spank/pull.c"))
    assert found
    assert base
    assert base[1] == store.BASE
    size = f"{store.MAX_SIZE >> 30}G"
    for key, value in (("pull_timeout", found[1]), ("store", base[1]), ("store_size", size)):
        assert f"| `{value}` |" in row(table, key)
        assert value in entry(page, f"{key}=")
    assert tools.MEMORY == "256M"
    assert "gets 256 MiB" in read("docs/store.md")


def test_every_mode_is_documented() -> None:
    source = read("spank/settings.c")
    modes = re.findall(r'strcmp\(text, "(\w+)"\)', source)
    assert sorted(modes) == ["explain", "off", "on"]
    page, table = man("slurm-cmeta.8"), read("docs/plugstack.md")
    for mode in modes:
        assert f"`{mode}`" in row(table, "default")
        for head in ("default=", "--cmeta="):
            assert re.search(rf"\b{mode}\b", entry(page, head).splitlines()[0])
    assert 'getenv("CMETA")' in read("spank/cmeta_spank.c")
    assert entry(page, "CMETA")
    assert "| `CMETA=` in the environment |" in table


def test_the_example_of_plugstack_conf_is_one_line() -> None:
    text = read("etc/plugstack.conf.d/cmeta.conf")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == ["optional cmeta_spank.so"]
    assert "docs/plugstack.md" in text


# --- cmeta.yaml ---------------------------------------------------------------------------------


def test_every_setting_is_documented() -> None:
    page, table = man("cmeta.yaml.5"), read("docs/cmeta.yaml.md")
    for setting in SETTINGS:
        line, head = row(table, setting.name), entry(page, setting.name).splitlines()[0]
        for choice in setting.choices:
            assert f"`{choice}`" in line
            assert choice in head.split()
        assert bool(setting.choices) != bool(setting.form)
        if setting.default:
            assert f"| `{setting.default}` |" in line
    names = {setting.name for setting in SETTINGS}
    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)) == names
    assert set(re.findall(r"^\.BR ([\w.]+) \": \"", page, re.MULTILINE)) == names


def test_the_commented_cmeta_yaml_holds_every_setting(tmp_path: Path) -> None:
    text = read("etc/cmeta.yaml")
    shown = re.sub(
        r"^#(( {0,4}|      )[a-z_][\w.-]*:( [\w./\[][^#]*)?)$", r"\1", text, flags=re.MULTILINE
    )
    path = tmp_path / "cmeta.yaml"
    path.write_text(shown)
    found = config.load(str(path))
    assert [s.name for s in SETTINGS if found.values[s.name] is None] == []
    assert {s.name for s in SETTINGS} <= set(found.lines)
    for one in SETTINGS:
        if one.default:
            assert found.values[one.name] == one.default
    assert found.features
    assert found.partitions
    path.write_text(text)
    assert config.load(str(path)).values == config.defaults().values


def test_the_example_in_the_man_page_is_a_cmeta_yaml(tmp_path: Path) -> None:
    (example,) = re.findall(r"^\.nf\n(.*?)^\.fi", man("cmeta.yaml.5"), re.MULTILINE | re.DOTALL)
    path = tmp_path / "cmeta.yaml"
    path.write_text(example)
    assert config.load(str(path)).values != config.defaults().values


# --- commands -----------------------------------------------------------------------------------


def options_of(command: argparse.ArgumentParser) -> dict[str, set[str]]:
    """Return the options of a parser under the empty name, those of each subcommand under its."""
    found: dict[str, set[str]] = {"": set()}
    for action in command._actions:
        found[""].update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for name, subcommand in action.choices.items():
                found[name] = options_of(subcommand)[""]
    return found


def test_every_option_of_cmeta_is_in_its_man_page() -> None:
    page = man("cmeta.1")
    options = page[page.index(".SH OPTIONS\n") : page.index(".SH EXIT STATUS\n")]
    sections = dict(re.findall(r"^\.SS Of (.+)\n((?:(?!\.SS).*\n)*)", options, re.MULTILINE))
    common = sections.pop("every command")
    expected = options_of(parser())
    assert expected.pop("") == heads(common)
    assert set(sections) == set(expected)
    for name, wanted in expected.items():
        assert f"\n.B cmeta {name}\n" in page[: page.index(".SH DESCRIPTION\n")]
        assert f"\n.SS cmeta {name}\n" in page
        assert heads(sections[name]) == wanted - {"-h", "--help"}


def heads(section: str) -> set[str]:
    """Return the options that the entries of a section describe."""
    first = re.findall(r"^\.TP\n\.\w+ (.*)$", section, re.MULTILINE)
    return {option for line in first for option in re.findall(r"(?<!\[)--?[a-zA-Z][a-z-]*", line)}


def test_every_option_of_cmeta_decide_is_in_its_man_page() -> None:
    page = man("cmeta-decide.1")
    usage = {name for option in surface.matcher_options() for name in option.names}
    assert usage == set(re.findall(r"^  (--[a-z-]+)", decide.USAGE, re.MULTILINE))
    assert usage == {f"--{name}" for name in decide._OPTIONS} | {"--version", "--help"}
    assert heads(page[page.index(".SH OPTIONS\n") :]) == usage


def test_every_option_of_cmeta_features_is_in_its_man_page() -> None:
    page = man("cmeta-features.1")
    for option in options_of(features_command.parser())[""]:
        assert option in page, option


def test_every_fact_of_a_host_is_documented() -> None:
    page = read("docs/features.md")
    for key, known in keys.KEYS.items():
        assert known.doc in row(page, key)
    assert set(re.findall(r"^\| `([a-z.]+)` \|", page, re.MULTILINE)) == set(keys.KEYS)


def test_every_rule_of_the_drop_in_files_is_documented() -> None:
    page, manual = read("docs/features.md"), man("cmeta-features.1")
    for word in site._LINES:
        assert re.search(rf"^    {word} ", page, re.MULTILINE), word
        assert re.search(rf'^\.BI {word} "', manual, re.MULTILINE), word
    assert site.DIRECTORY in page
    assert site.DIRECTORY in manual


def test_the_example_of_drop_in_files_is_read(tmp_path: Path) -> None:
    rules = [line for line in indented(read("docs/features.md")).splitlines()
             if line.split(" ")[0] in site._LINES]  # fmt: skip
    assert len(rules) >= 6
    (tmp_path / "site.conf").write_text("\n".join(rules))
    assert site.read(str(tmp_path)).prefix == "hw."


def test_every_exit_status_is_documented() -> None:
    codes = {v for k, v in vars(errors).items() if k.startswith("EXIT_")}
    assert codes == {0, 1, 2, 3, 4}
    for name in ("cmeta.1", "cmeta-decide.1"):
        page = man(name)
        section = page[page.index(".SH EXIT STATUS\n") : page.index(".SH ENVIRONMENT\n")]
        shown = {int(code) for code in re.findall(r"^\.TP\n\.B (\d+)$", section, re.MULTILINE)}
        assert shown - {130} == codes


# --- images and nodes ---------------------------------------------------------------------------


def test_every_label_is_documented() -> None:
    page = read("docs/labels.md")
    rules = vocabulary.load("labels")["labels"]
    titles = {"created": "built"}
    for rule in rules:
        states = rule["states"]
        line = row(page, rule["key"]) if states != "architecture" else None
        if line is None:
            continue
        if "strength" in rule:
            assert line.endswith(f"| {rule['strength']} |")
        elif not states.startswith("mpi") and states != "fabric":
            assert line == f"| `{rule['key']}` | {titles.get(states, states)} |"
    checks = page[page.index("## Checks only") : page.index("## Description")]
    listed = set(re.findall(r"^\| `([\w.-]+)` \|", checks, re.MULTILINE))
    assert listed == {rule["key"] for rule in rules if rule["states"] == "architecture"}


def test_every_label_in_the_page_is_read() -> None:
    keys = {rule["key"] for rule in vocabulary.load("labels")["labels"]}
    tables = re.findall(r"^\| `([a-z][\w-]*\.[\w.-]+)` \|", read("docs/labels.md"), re.MULTILINE)
    assert set(tables) == keys


def test_the_examples_of_amounts_are_true() -> None:
    (text,) = re.findall(r"`16G`, .*?same;", read("docs/labels.md"), re.DOTALL)
    amounts = re.findall(r"`([^`]+)`", text)
    assert len(amounts) == 5
    assert {mebibytes(amount) for amount in amounts} == {16384}
    assert mebibytes("1.5T") == mebibytes("1536G")
    assert mebibytes("16Gi", "kubernetes-quantity") == 16384
    assert mebibytes("16G", "kubernetes-quantity") == 15259


def test_every_spelling_in_the_labels_page_is_understood() -> None:
    page = read("docs/labels.md")
    table = page[page.index("| spelling |") : page.index("\n\n`org.opencontainers.")]
    spellings = re.findall(r"`([^`]+)`", table)
    assert len(spellings) > 10
    assert [s for s in spellings if vocabulary.cpu_target(s) is None] == []


def test_every_variant_in_the_labels_page_means_what_it_says() -> None:
    page = read("docs/labels.md")
    table = page[page.index("| architecture | variant |") : page.index("A value that is no more")]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", table, re.MULTILINE)
    assert len(rows) == 3
    for architecture, variants, meanings in rows:
        names = re.findall(r"`([\w.]+)`", meanings)
        given = re.findall(r"`([\w.]+)`", variants)
        assert [vocabulary.oci_variant(architecture, variant) for variant in given] == names


def test_the_examples_of_labels_work(tmp_path: Path) -> None:
    """Each block of the page, as the labels of an image."""
    page = read("docs/labels.md")
    section = page[page.index("## How to label an image") : page.index("Then look at the result")]
    blocks = re.findall(r"(?:^    .+\n)+", section, re.MULTILINE)
    found = []
    for block in blocks:
        lines = [line.strip().removeprefix("LABEL ") for line in block.splitlines()]
        pairs = [re.split("[ =]", line, maxsplit=1) for line in lines if line != "%labels"]
        path = tmp_path / "img.sif"
        labels = sif_files.metadata(dict(pairs))
        path.write_bytes(sif_files.build(sif_files.partition(), labels))
        report = read_image(str(path), config.defaults())
        assert report.warnings == []
        found += [(r.value, r.strength) for r in report.requirements if r.key == "cpu"]
    v3 = ("x86_64_v3", "hard")
    assert found == [v3, v3, ("icelake", "soft"), v3]


def test_every_requirement_is_documented() -> None:
    page = read("docs/requirements.md")
    for key in requirement.KEYS:
        assert row(page, key)


def test_every_fact_is_documented() -> None:
    page = read("docs/evidence.md")
    sources = "".join(p.read_text() for p in (ROOT / "slurm_cmeta/evidence").glob("*.py"))
    keys = set(re.findall(r'Fact\(\s*"([a-z][a-z.-]*)"', sources))
    assert len(keys) > 30
    for key in keys - set(requirement.KEYS):
        assert f"`{key}`" in page, key
    for key in requirement.KEYS:
        assert re.search(rf"^\| .*`{re.escape(key)}`.* \|", page, re.MULTILINE), key


def test_the_examples_of_verdicts_are_true() -> None:
    from slurm_cmeta.cluster import NodeClass
    from slurm_cmeta.match import judge

    rows = re.findall(
        r"^\| `(\w+)` \| `([\w,=]+)` \| (\w+) \|", read("docs/requirements.md"), re.MULTILINE
    )
    assert len(rows) == 7
    for needs, features, verdict in rows:
        key = "arch" if vocabulary.architecture(needs) else "cpu"
        asked = requirement.Requirement(key, "=", needs, "hard", "declared", "the page")
        (reason,) = judge([asked], NodeClass("n", 1, tuple(features.split(",")))).reasons
        assert reason.verdict == verdict, (needs, features)


# --- client, controller and node ----------------------------------------------------------------


def test_the_hand_over_is_documented_and_the_same_on_both_sides() -> None:
    header = read("spank/handover.h")
    names = set(re.findall(r'^#define CMETA_HANDOVER_\w+ "(CMETA_\w+)"', header, re.MULTILINE))
    assert len(names) == 15
    page, lua = read("docs/protocol.md"), read("lua/cmeta.lua") + read("lua/cmeta_log.lua")
    assert [name for name in names if f"`{name}`" not in page] == []
    used = {f"CMETA_{name}" for name in re.findall(r"decision\.([A-Z]+)", lua)}
    assert used - {"CMETA_OWN"} == names - {"CMETA_IMAGE", "CMETA_PINNED", "CMETA_MULTI_PROG"}
    assert "SLURM_SPANK_CMETA_IMAGE" in lua


def test_the_stub_in_the_documents_is_the_one_shipped() -> None:
    stub = read("lua/job_submit.lua").strip()
    assert stub in indented(read("README.md"))
    assert f".nf\n{stub}\n.fi\n" in man("slurm-cmeta.8")


def test_every_word_of_on_missing_is_documented() -> None:
    lua = read("lua/cmeta.lua")
    words = {*re.findall(r'on_missing (?:==|or) "(\w+)"', lua), "accept"}
    assert words == {"accept", "warn", "reject"}
    assert 'options.on_missing or "accept"' in lua
    page = man("slurm-cmeta.8")
    section = page[page.index(".SH THE CONTROLLER\n") : page.index(".SH ON THE NODE\n")]
    assert set(re.findall(r"^\.TP\n\.B (\w+)$", section, re.MULTILINE)) == words


def test_every_option_of_the_controllers_half_is_documented() -> None:
    code = read("lua/cmeta.lua") + read("lua/cmeta_log.lua")
    options = set(re.findall(r"options\.(\w+)", code))
    assert options == {"on_missing", "on_modify", "snapshot", "snapshot_max_age", "log"}
    man_page, page = man("slurm-cmeta.8"), read("docs/nodes.md") + read("docs/report.md")
    for option in options:
        assert f"\n.B {option}\n" in man_page
        assert f"--   {option} " in read("lua/cmeta.lua")
        assert option[:3] == "on_" or f"`{option}`" in page or f"{{{option} = " in page
    assert "MAX_AGE = 86400" in read("lua/cmeta_nodes.lua")
    assert snapshot.MAX_AGE == config.defaults().nodes_max_age == 86400


def test_the_line_of_a_decision_is_documented() -> None:
    code = read("lua/cmeta_log.lua") + read("spank/record.c").replace('\\"', '"')
    page = read("docs/report.md")

    def named(first: str, after: str) -> set[str]:
        table = page[page.index(first) : page.index(after)]
        cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
        return set(re.findall(r"`([\w-]+)`", "".join(cells)))

    keys = set(re.findall(r'["{,]"?(\w+)":', code)) | set(re.findall(r'put\(line, "(\w+)"', code))
    assert named("| key |", "| reason |") == keys
    words = {name: value for name, value in vars(reason).items() if name.isupper()}
    codes = {v for k, v in words.items() if isinstance(v, str) and k != "HARD"}
    assert named("| reason |", "**A job's number**") == codes


def test_the_page_of_the_report_has_every_option_and_outcome() -> None:
    page = read("docs/report.md")
    for option in options_of(parser())["report"] - {"-h", "--help"}:
        assert option in indented(page), option
    shown = dict(re.findall(r"^ +\d+ +[\d.]+ %  ([\w ]+): (.+)$", page, re.MULTILINE))
    assert len(shown) == 5
    assert shown.items() <= totals.OUTCOMES.items()


def test_every_option_of_cmeta_nodes_is_in_its_page() -> None:
    usage = indented(read("docs/nodes.md"))
    for option in options_of(parser())["nodes"] - {"-h", "--help", "--config"}:
        assert option in usage, option


def test_the_example_of_archs_is_true() -> None:
    rows = re.findall(r"^    (\w+ .* -m\w+=.*)$", read("docs/nodes.md"), re.MULTILINE)
    assert len(rows) == 2
    for name, family, level, oci, eessi, gcc, *_ in map(str.split, rows):
        cpu = vocabulary.cpu(name)
        assert cpu
        told = (spellings.psabi_level(cpu) or "-", spellings.oci_platform(cpu))
        assert (cpu.family, *told) == (family, level, oci)
        assert (spellings.eessi_path(cpu), spellings.gcc_option(cpu)) == (eessi, gcc)


def test_the_units_write_the_documented_snapshot() -> None:
    service = read("etc/systemd/cmeta-nodes.service")
    (command,) = re.findall(r"^ExecStart=/usr/local/bin/(.*)$", service, re.MULTILINE)
    assert command in indented(read("docs/nodes.md"))
    assert command.split()[-1] in read("etc/cmeta.yaml")
    service = read("etc/systemd/cmeta-report-textfile.service")
    (command,) = re.findall(r"^ExecStart=/usr/local/bin/(.*)$", service, re.MULTILINE)
    assert command in indented(read("docs/report.md"))


def test_the_example_of_oci_conf_is_what_is_tested() -> None:
    (tested,) = re.findall(
        r'OCI_CONF = """\\\n(.*?)"""', read("tests/slurm/test_run.py"), re.DOTALL
    )
    shipped = [line for line in read("etc/oci.conf.example").splitlines() if line[:1] != "#"]

    def unless_run(lines: list[str]) -> list[str]:
        return [line for line in lines if line and not line.startswith("RunTimeRun=")]

    assert unless_run(shipped) == unless_run(tested.splitlines())
    (run,) = [line for line in shipped if line.startswith("RunTimeRun=")]
    assert "--bind" in run
    assert run.endswith(' %b %@"')


# --- pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"\]\((?![a-z]+:)([^)#]+)", text)
    defined = dict(re.findall(r"^\[(\w+)\]: ([^\s:#]+)$", text, re.MULTILINE))
    assert set(re.findall(r"\]\[(\w+)\]", text)) == set(defined)
    for target in {*targets, *defined.values()} - TO_COME:
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_into_a_page_name_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", page.read_text()):
        other = (page.parent / target if target else page).read_text()
        titles = re.findall(r"^#+ (.*)$", other, re.MULTILINE)
        anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
        assert anchor in anchors, (target, anchor)


def test_every_sentence_on_security_has_a_test_that_exists() -> None:
    """Rows of two cells: a sentence, and `file::function` once or more."""
    known = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE):
            known.add(f"{path.name}::{name}")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", read("docs/security.md"), re.MULTILINE)
    faults = re.findall(r"^\| ([^|]+) \| .* \| ([^|]+) \|$", read("docs/faults.md"), re.MULTILINE)
    rows += [one for one in faults if one[0] not in ("fault", "---")]
    rows = [row for row in rows if row[0] != "sentence"]
    assert len(rows) > 30
    for sentence, tests in rows:
        named = re.findall(r"`(\w+\.py::\w+)`", tests)
        assert named, sentence
        assert set(named) <= known, (sentence, set(named) - known)


def test_every_directory_is_in_the_contributing_guide() -> None:
    table = read("CONTRIBUTING.md")
    places = {p.parent for p in ROOT.glob("slurm_cmeta/*/__init__.py")} | {
        p for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name[0] not in "._"
    }
    places |= {ROOT / name for name in ("spank", "lua", "etc", "docs", "docs/man", "docs/schema")}
    for place in places:
        assert row(table, f"{place.relative_to(ROOT)}/")


def test_every_make_target_in_the_documents_exists() -> None:
    declared = re.search(r"^\.PHONY: (.*)$", read("Makefile").replace("\\\n", ""), re.MULTILINE)
    assert declared
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            named = set(re.findall(r"(?:`|^ {4,})make (\w+)", page.read_text(), re.MULTILINE))
            assert named <= set(declared[1].split()), page.name


def test_every_variable_of_make_install_is_documented() -> None:
    page, text = read("docs/install.md"), read("Makefile") + read("spank/Makefile")
    known = dict(re.findall(r"^([A-Z_]+) +\??= *(.*)$", text, re.MULTILINE))
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", page, re.MULTILINE)
    places = {name for name in known if name.endswith("DIR")} | {"PREFIX", "DESTDIR", "PYTHON"}
    assert {name for name, _ in rows} == places | {"SLURM_INCLUDE"}
    for name, default in rows:
        if default.startswith("`PREFIX/"):
            assert known[name] == default.strip("`").replace("PREFIX", "$(PREFIX)"), name


def test_man_pages_packages_and_the_changelog_have_the_version() -> None:
    assert len(MAN) == 5
    for page in MAN:
        assert f'"slurm-cmeta {__version__}"' in page.read_text().splitlines()[0]
    assert read("debian/changelog").startswith(f"slurm-cmeta ({__version__}) ")
    assert re.search(
        rf"^Version: +{__version__}$", read("packaging/slurm-cmeta.spec"), re.MULTILINE
    )
    assert re.search(rf"^## \[{re.escape(__version__)}\]", read("CHANGELOG.md"), re.MULTILINE)


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed (Debian: mandoc)")
@pytest.mark.parametrize("page", MAN, ids=lambda p: p.name)
def test_man_pages_are_clean(page: Path) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", str(page)], capture_output=True, text=True
    )
    assert done.stdout == ""
