"""cmeta-decide: what the SPANK plugin runs at submit. Its line protocol is in docs/protocol.md.

This is the submit path: no argparse, no pathlib, nothing that is not needed for the answer.
"""

from __future__ import annotations

import sys

from slurm_cmeta import __version__
from slurm_cmeta.errors import (
    EXIT_IMAGE,
    EXIT_NO_NODE,
    EXIT_OK,
    CmetaError,
    ImageError,
    UsageError,
)
from slurm_cmeta.text import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.config import Config
    from slurm_cmeta.kept.sources import Sources
    from slurm_cmeta.submission import ImageReport

PROTOCOL = "1"

USAGE = """\
usage: cmeta-decide --image PATH [OPTION VALUE]...

Reads a container image, compares it with the cluster's nodes, and prints a decision for one
submission. It is run by the SPANK plugin; `cmeta match` is for people.

  --image PATH         the image
  --constraint EXPR    the job's own --constraint
  --prefer EXPR        the job's own --prefer
  --partition NAMES    the job's own --partition
  --nodelist LIST      the job's own --nodelist
  --exclude LIST       the job's own --exclude
  --clusters NAMES     the job's own --clusters
  --memory yes         the job asks for memory by itself
  --gpus yes           the job asks for GPUs by itself
  --nodes N[-M]        the job's own --nodes
  --ntasks N           the job's own --ntasks
  --cpus N             the job's own --cpus-per-task
  --mem SIZE           the job's own --mem
  --odd yes            the job has other options that say what nodes it can have
  --step yes           a step of an allocation that has the nodes of --nodelist
  --slurm-conf FILE    where the node classes are read
  --config FILE        cmeta.yaml (default: beside slurm.conf)
  --explain yes        print every requirement and every node class
  --cache FILE         keep the answer there, for the plugin
  --version            print the version, and exit
  --help               print this, and exit

example:
  cmeta-decide --image img.sif --slurm-conf /etc/slurm/slurm.conf
"""

_OPTIONS = (
    *("image", "constraint", "prefer", "partition", "nodelist", "exclude", "clusters"),
    *("memory", "gpus", "nodes", "ntasks", "cpus", "mem", "odd", "step"),
    *("slurm-conf", "config", "explain", "cache"),
)

REFERENCES = ("docker://", "oras://")
"""What the node can pull; other references are left to Slurm, as ever."""

SECONDS = 1.0
"""For reading the image: what is known by then is decided on, before the plugin's own deadline (2 s
by default) ends all of it. A controller that is asked for the nodes has the same second."""

MAX_MESSAGES = 300
"""Message lines printed; a cluster of 200 classes is explained whole."""

MAX_MESSAGE = 2000
"""Characters of one message line."""


def main(argv: list[str] | None = None) -> int:
    """Answer one request; the exit code is that of design: 0, 1 no node, 2, 3, 4."""
    arguments = sys.argv[1:] if argv is None else argv
    if "--help" in arguments:
        sys.stdout.write(USAGE)
        return EXIT_OK
    if "--version" in arguments:
        sys.stdout.write(f"cmeta-decide {__version__}\n")
        return EXIT_OK
    try:
        options = _options(arguments)
        lines, code, drawn_from = _answer(options)
    except UsageError as error:
        sys.stderr.write(f"cmeta: {error}\n")
        return error.exit_code
    text = "\n".join([f"cmeta {PROTOCOL}", *lines, "end", ""])
    answer = text.encode("utf-8", "backslashreplace")
    sys.stdout.buffer.write(answer)
    sys.stdout.flush()
    # The plugin has its answer now, whatever becomes of the cache.
    if drawn_from is not None and options.get("cache"):
        _keep(options["cache"], arguments, answer, drawn_from)
    return code


def _keep(path: str, arguments: list[str], answer: bytes, drawn_from: Sources) -> None:
    from slurm_cmeta.kept import decision

    where = arguments.index("--cache")
    words = [sys.argv[0], *arguments[:where], *arguments[where + 2 :]]
    decision.keep(path, words, answer, drawn_from)


def _options(arguments: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        name = word[2:] if word.startswith("--") else ""
        if name not in _OPTIONS:
            raise UsageError(f"unknown argument {clean(word)!r}; see cmeta-decide --help")
        value = next(words, None)
        if value is None:
            raise UsageError(f"{word} needs a value; see cmeta-decide --help")
        found[name] = value
    if not found.get("image"):
        raise UsageError("--image is missing; see cmeta-decide --help")
    return found


def _answer(options: dict[str, str]) -> tuple[list[str], int, Sources | None]:
    """Return the answer's lines, the exit code, and what it was drawn from.

    A foreseeable error is an answer, too; it was drawn from nothing that could be kept.
    """
    from slurm_cmeta import config
    from slurm_cmeta.cluster import source

    on_error, step = "accept", options.get("step") == "yes"
    try:
        slurm_conf = source.find_slurm_conf(options.get("slurm-conf"))
        if kept := _kept(options):
            settings = config.load_kept(kept, options.get("config"), slurm_conf)
        else:
            settings = config.load(options.get("config"), slurm_conf)
        on_error = settings.on_error
        return _decide(options, settings)
    except CmetaError as error:
        return _fault(str(error), on_error, step), error.exit_code, None
    except Exception as error:
        # A mistake of ours must not cost the job: the plugin reads no traceback, but this.
        reason = f"internal error: {type(error).__name__}: {error}"
        return _fault(reason, on_error, step), EXIT_IMAGE, None


def _kept(options: dict[str, str]) -> str:
    """Return the directory of the user's cache; empty where nothing is to be kept."""
    directory, _, _ = options.get("cache", "").rpartition("/")
    return directory


def _fault(reason: str, on_error: str, step: bool = False) -> list[str]:
    level = "warning"
    ending = "; the step is started all the same" if step else "; the job is submitted as it is"
    if on_error == "reject":
        level, ending = "error", ""
    message = f"{level}: {clean(reason, MAX_MESSAGE)}{ending}"
    return _lines("unknown", on_error, {}, [message], {"reason": f"fault {clean(reason)}"})


def _decide(options: dict[str, str], settings: Config) -> tuple[list[str], int, Sources | None]:
    from slurm_cmeta import reason, shape
    from slurm_cmeta.cluster import source
    from slurm_cmeta.decide import Wishes, decide
    from slurm_cmeta.image.filetree import quick_budget
    from slurm_cmeta.lasting import lasting
    from slurm_cmeta.policy import REJECT
    from slurm_cmeta.submission import read_image
    from slurm_cmeta.words import explain

    nodes = source.Pending(settings, options.get("slurm-conf"), _kept(options))
    try:
        partition = options.get("partition", "")
        if options["image"].startswith(REFERENCES):
            cluster = nodes.cluster(SECONDS)
            report = _read_reference(options, settings, cluster)
        else:
            report = read_image(options["image"], settings, quick_budget(SECONDS), partition)
            cluster = nodes.cluster(SECONDS)
    finally:
        nodes.cancel()
    wishes = Wishes(
        options.get("constraint", ""),
        options.get("prefer", ""),
        partition,
        options.get("nodelist", ""),
        options.get("exclude", ""),
        options.get("memory") == "yes",
        options.get("gpus") == "yes",
        shape.read(options),
    )
    drawn_from = None
    if report.sources is not None and cluster.sources is not None:
        drawn_from = report.sources + settings.sources + cluster.sources
    if not _is_here(options.get("clusters", ""), cluster.name):
        return _elsewhere(options["clusters"]), EXIT_OK, drawn_from
    own = cluster.partition_of(partition)
    if own != partition:
        report = report.under(settings.strengths(own))
    requirements, others = report.requirements, report.others
    policy, required = settings.policy(own), None
    asked = [r for one in (requirements, *others) for r in one]
    if options.get("step") == "yes":
        from slurm_cmeta.step import decide_step

        place = (wishes.nodelist, wishes.exclude)
        decision = decide_step(options["image"], requirements, cluster, *place, policy, others)
    else:
        decision = decide(options["image"], requirements, cluster, wishes, policy, others)
        required = lasting(asked, decision, wishes, cluster.changeable, policy.names)
    messages = [f"warning: {why}" for why in (cluster.stale, report.stale) if why]
    messages += decision.messages
    if options.get("explain") == "yes":
        messages += [f"warning: {clean(w, MAX_MESSAGE)}" for w in report.warnings]
        messages += explain(requirements, decision, others)
    changes = {
        "constraint": decision.constraint,
        "prefer": decision.prefer,
        "exclude": decision.exclude,
        "memory": decision.memory,
        "gres": decision.gres,
        "required": required,
        "image": report.pinned or None,
    }
    for_log = {"reason": reason.of(decision, asked), "identity": reason.identity(report)}
    lines = _lines(decision.verdict, decision.action, changes, messages, for_log)
    return lines, EXIT_NO_NODE if decision.action == REJECT else EXIT_OK, drawn_from


def _read_reference(options: dict[str, str], settings: Config, cluster: Cluster) -> ImageReport:
    from slurm_cmeta import nodefacts
    from slurm_cmeta.pull.report import read_reference

    partition = options.get("partition", "")
    if not settings.registry_ask:
        raise ImageError(f"{clean(options['image'])}: no registry is asked here (registry.ask)")
    names = settings.policy(partition).names
    known = [nodefacts.read(one.features, names).families for one in cluster.classes]
    everywhere = frozenset() if cluster.unlisted_nodes else frozenset.union(frozenset(), *known)
    families = everywhere if all(known) else frozenset()
    kept = _kept(options)
    return read_reference(options["image"], settings, SECONDS, partition, kept, families or None)


def _is_here(clusters: str, name: str | None) -> bool:
    """Tell whether the job goes to this cluster (--clusters of sbatch)."""
    return not clusters or (name is not None and clusters.lower() == name.lower())


def _elsewhere(clusters: str) -> list[str]:
    message = f"warning: the nodes of cluster {clean(clusters)} are not known here"
    messages = [f"{message}; the job is submitted as it is"]
    return _lines("unknown", "accept", {}, messages, {"reason": "elsewhere"})


def _lines(
    verdict: str,
    action: str,
    changes: Mapping[str, object],
    messages: list[str],
    for_log: Mapping[str, object],
) -> list[str]:
    lines = [f"verdict {verdict}", f"action {action}"]
    lines += [f"{key} {value}" for key, value in changes.items() if value is not None]
    lines += [f"message {clean(m, MAX_MESSAGE)}" for m in messages[:MAX_MESSAGES]]
    lines += [f"{key} {value}" for key, value in for_log.items() if value is not None]
    return lines


def run() -> None:
    """Run as a process of its own, which has nothing to tidy up and no time for it."""
    import gc
    import os

    gc.disable()  # it lives for some 30 ms
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
