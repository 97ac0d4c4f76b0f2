"""The keys of cmeta.yaml: name, default, what a value may be, and what it is for."""

from __future__ import annotations

from slurm_cmeta.constraint.grammar import is_name
from slurm_cmeta.pattern import Pattern
from slurm_cmeta.record import NamedTuple
from slurm_cmeta.requirement import KEYS

PATH = "path"
NUMBER = "number"
HOSTS = "hosts"
PREFIX = "prefix"
MAX_NUMBER = 2**31 - 1
_HOST = Pattern(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

STRENGTHS = ("hard", "soft", "ignore")


class Setting(NamedTuple):
    """One key of cmeta.yaml."""

    name: str
    """Dotted path in the file: `strength.cpu` is the key `cpu` in the mapping `strength`."""
    default: str | None
    choices: tuple[str, ...]
    """The values allowed; empty where `form` says what a value looks like."""
    doc: str
    form: str = ""
    """`path`, an absolute path; `number`, a whole one that is not negative; `prefix`, the beginning
    of a feature's name; `hosts`, host names, each with or without a port."""
    several: bool = False
    """Whether a list of choices is taken."""

    @property
    def expected(self) -> str:
        """Return what a value must be, in words for people."""
        if self.choices:
            kind = "a list of" if self.several else "one of"
            return f"{kind} {', '.join(self.choices)}"
        if self.form == PREFIX:
            return "the beginning of a feature's name"
        if self.form == HOSTS:
            return "a list of hosts, such as registry.example.org:5000"
        return "an absolute path" if self.form == PATH else f"a whole number up to {MAX_NUMBER}"

    def takes(self, value: str) -> bool:
        """Tell whether `value` is allowed."""
        if self.form == HOSTS:
            return all(map(_HOST.fullmatch, filter(None, value.split(","))))
        if self.several:
            return all(word in self.choices for word in value.split(",") if word)
        if self.choices:
            return value in self.choices
        if self.form == PATH:
            return value.startswith("/") and "\0" not in value
        if self.form == PREFIX:
            return is_name(value)
        return value.isascii() and value.isdigit() and int(value[:12]) <= MAX_NUMBER


def _strength(key: str, doc: str) -> Setting:
    return Setting(f"strength.{key}", None, STRENGTHS, doc)


SETTINGS = (
    Setting(
        "on_mismatch",
        "reject",
        ("reject", "warn"),
        "What becomes of a job that no node can run: refused at submit, or submitted unchanged "
        "with a warning.",
    ),
    Setting(
        "on_unknown",
        "accept",
        ("accept", "warn", "reject"),
        "What becomes of a job where nothing that the image needs could be compared.",
    ),
    Setting(
        "on_error",
        "accept",
        ("accept", "reject"),
        "What becomes of a job whose image or cluster cannot be read: submitted unchanged with a "
        "warning, or refused at submit.",
    ),
    *(
        _strength(key, f"How strongly the requirement `{key}` counts; by default by its evidence.")
        for key in KEYS
    ),
    Setting(
        "prefer.closest",
        "yes",
        ("yes", "no"),
        "Whether the closest of the nodes that fit are preferred.",
    ),
    Setting(
        "prefer.spare",
        "gpu",
        ("gpu", "memory", "scarce"),
        "What is left to those who need it, by a preference for other nodes.",
        several=True,
    ),
    Setting(
        "memory_request",
        "raise",
        ("raise", "ignore"),
        "What becomes of a job that asks for no memory, where the image's label does.",
    ),
    Setting(
        "gpu_request",
        "advise",
        ("advise", "add", "ignore"),
        "What becomes of a job that asks for no GPU, where the image needs one.",
    ),
    Setting(
        "nodes.source",
        "slurm.conf",
        ("slurm.conf", "live", "snapshot"),
        "Where a submission reads the node classes: slurm.conf, the controller (by sinfo), or a "
        "snapshot file.",
    ),
    Setting("nodes.snapshot", None, (), "The snapshot file for nodes.source: snapshot.", PATH),
    Setting(
        "nodes.max_age",
        "86400",
        (),
        "Seconds after which a snapshot is stale; 0 lets any age pass.",
        NUMBER,
    ),
    Setting(
        "registry.ask",
        "yes",
        ("yes", "no"),
        "Whether a submission with a reference (docker://...) asks the registry what its variants "
        "need.",
    ),
    Setting(
        "registry.max_age",
        "300",
        (),
        "Seconds for which what a registry said of a tag is believed without asking again.",
        NUMBER,
    ),
    Setting(
        "registry.plain_http",
        "",
        (),
        "Registries that are spoken to without TLS, as host or host:port.",
        HOSTS,
        several=True,
    ),
    Setting(
        "feature_prefix",
        None,
        (),
        "What cmeta-features writes before its names here (`prefix` of its drop-in files).",
        PREFIX,
    ),
)

KNOWN = {setting.name: setting for setting in SETTINGS}

IN_PARTITIONS = {
    setting.name: setting
    for setting in SETTINGS
    if setting.name.startswith(("strength.", "prefer."))
    or setting.name in ("on_mismatch", "on_unknown", "memory_request", "gpu_request")
}
"""The settings that may differ by partition."""
