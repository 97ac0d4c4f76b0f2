"""Memory, disk and GPUs that an image's labels ask for, and its size unpacked.

No label of the HPC field states memory: those that do come from OpenShift, and this project defines
`io.slurm-cmeta.memory`, `.disk` and `.gpus` for images that are run by Slurm (docs/labels.md).
"""

from __future__ import annotations

from slurm_cmeta.evidence.rules import stated
from slurm_cmeta.facts import OBSERVED, Fact
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from slurm_cmeta.evidence.subject import Subject

SHOWN = 60
"""Characters of a label's value that a warning shows."""

MAX_AMOUNT = 24
"""Characters of an amount; `1234567.25 GiB` has 14."""

MAX_MIB = 2**40
"""One exbibyte. No node has it, and slurmctld keeps memory in 64 bits with flags in the top one
(slurm.h, MEM_PER_CPU)."""

MAX_GPUS = 1024
"""GPUs of one node; Slurm's own bound is 65,533 for a GRES, real nodes have up to 16."""

MIB = 1024 * 1024
_STEPS = "kmgtp"
_KUBERNETES = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip


def read(subject: Subject) -> list[Fact]:
    """Return the facts memory and disk (MiB), gpus (a count) and, if deep, unpacked (bytes)."""
    facts = [
        *_amount(subject, "memory", mebibytes),
        *_amount(subject, "disk", mebibytes),
        *_amount(subject, "gpus", _count),
    ]
    if subject.deep:
        facts += _unpacked(subject)
    return facts


def _amount(subject: Subject, key: str, parse: Callable[[str, str], int | None]) -> list[Fact]:
    """Return the largest amount that a label states; what is hard comes before mere wishes."""
    best: tuple[bool, int, str] | None = None
    for rule, value in stated(subject.labels, key):
        amount = parse(value, rule.get("form", ""))
        if amount is None:
            subject.warnings.add(
                f"label {rule['key']} says {clean(value, SHOWN)}, which is no amount: ignored"
            )
            continue
        found = (rule["strength"] == "hard", amount, f"label {rule['key']}")
        if amount and (best is None or found[:2] > best[:2]):
            best = found
    if best is None:
        return []
    hard, amount, source = best
    return [Fact(key, str(amount), source, hint=not hard)]


def mebibytes(text: str, form: str = "") -> int | None:
    """Return an amount of memory in MiB, rounded up, or None if it is none.

    As in sbatch(1), --mem: a number without a unit is MiB, and K, M, G, T and P are powers of
    1,024; `GB`, `Gi` and `GiB` are the same as `G`, whatever the capitals. With `form`
    `kubernetes-quantity` (Kubernetes, API reference, Quantity) a number without a unit is bytes,
    `Ki`, `Mi`, ... are powers of 1,024 and `k`, `M`, ... are powers of 1,000.
    """
    if len(text) > MAX_AMOUNT or not text.isascii():
        return None
    unit = text.lstrip("0123456789.")
    number = _hundredths(text[: len(text) - len(unit)])
    if number is None:
        return None
    size = _KUBERNETES.get(unit) if form == "kubernetes-quantity" else _unit(unit.strip().lower())
    if size is None:
        return None
    amount = -(-number * size // (100 * MIB))
    return amount if amount <= MAX_MIB else None


def _hundredths(text: str) -> int | None:
    whole, _, fraction = text.partition(".")
    if not whole.isdigit() or (fraction and not fraction.isdigit()):
        return None
    return int(whole) * 100 + int(fraction[:2].ljust(2, "0") or "0")


def _unit(unit: str) -> int | None:
    """Return the bytes of a unit as Slurm means it."""
    if not unit:
        return MIB
    step = _STEPS.find(unit[0])
    if step < 0 or unit[1:] not in ("", "b", "i", "ib"):
        return None
    return int(1024 ** (step + 1))


def _count(text: str, _: str) -> int | None:
    if len(text) > MAX_AMOUNT or not text.isascii() or not text.isdigit():
        return None
    return int(text) if int(text) <= MAX_GPUS else None


def _unpacked(subject: Subject) -> list[Fact]:
    """Return the bytes of all regular files; hard links count each time, as copying out would."""
    tree = subject.tree
    if tree is None:
        return []
    total = sum(entry.size for entry in tree.walk())
    if not total:
        return []
    source = "sizes of all files"
    if not tree.whole:
        source = "sizes of those files that were looked at: it has more"
    return [Fact("unpacked", str(total), source, OBSERVED)]
