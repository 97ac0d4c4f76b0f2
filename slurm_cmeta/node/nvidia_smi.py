"""What nvidia-smi says of GPUs, driver and CUDA, in the words of its releases.

`compute_cap` can be queried since release 510. The CUDA version stands only in the table that
nvidia-smi prints without arguments: `CUDA Version: 12.4` since 410, `CUDA UMD Version: 13.3` since
610, and `N/A` where the host has no libcuda.
"""

from __future__ import annotations

import re

from slurm_cmeta.node.host import HostError, Missing
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from slurm_cmeta.node.host import Host

QUERY = "--query-gpu=index,name,compute_cap,driver_version"
QUERY_BEFORE_510 = "--query-gpu=index,name,driver_version"
FORMAT = "--format=csv,noheader"

MAX_NAME = 64
"""NVML's limit of a product's name, NVML_DEVICE_NAME_V2_BUFFER_SIZE, is 96; real ones have 55."""

_NO_FIELD = "not a valid field"
_LOST = "Unable to determine the device handle"
"""A GPU that has fallen off the bus (Xid 79); the others are still listed."""

_CUDA = re.compile(r"CUDA (?:[A-Z]{3} )?Version\s*: ?([0-9]{1,2}\.[0-9]|N/A|ERR!)")
_CAPABILITY = re.compile(r"([0-9]{1,2})\.([0-9])")
_RELEASE = re.compile(r"[0-9]{2,4}(?:\.[0-9]{1,4}){1,3}")


class Answer(NamedTuple):
    """What nvidia-smi said; all empty where there is no such program."""

    gpus: list[tuple[str | None, str | None]]
    """Name and compute capability (`sm_80`) of each GPU."""

    driver: str | None
    cuda: str | None
    failure: str | None
    """Why it did not answer."""

    no_cuda: str | None
    """Why the host cannot use CUDA, although the driver answers."""

    lost: list[str]
    """What it said of GPUs that do not answer."""


NOTHING = Answer([], None, None, None, None, [])


def ask(host: Host) -> Answer:
    """Ask nvidia-smi; whatever happens is in the answer."""
    try:
        answer = _query(host, QUERY)
        if answer is None:
            answer = _query(host, QUERY_BEFORE_510)
    except Missing:
        return NOTHING
    except HostError as error:
        return NOTHING._replace(failure=str(error))
    if answer is None:
        return NOTHING._replace(failure="nvidia-smi knows neither of the queries")
    if answer.failure:
        return answer
    try:
        table = host.run("nvidia-smi")
    except HostError:
        return answer  # the driver's table of versions will do
    cuda = _CUDA.search(table)
    if cuda is None:
        return answer
    if not cuda[1][0].isdigit():
        return answer._replace(no_cuda="nvidia-smi finds no usable libcuda on this host")
    return answer._replace(cuda=cuda[1])


def name_of(text: str) -> str | None:
    """Return a product's name as the driver says it, None where it is none."""
    name = text.strip()
    good = name.isascii() and name.isprintable() and 0 < len(name) <= MAX_NAME
    nameless = name.startswith("[") or name in ("Unknown", "N/A", "NVIDIA Graphics Device")
    return name if good and not nameless else None


def _query(host: Host, query: str) -> Answer | None:
    """Return the answer to one query, None if this nvidia-smi does not know a field of it."""
    try:
        text = host.run("nvidia-smi", query, FORMAT)
    except Missing:
        raise
    except HostError as error:
        if _NO_FIELD in str(error):
            return None
        raise
    if _NO_FIELD in text:
        return None
    gpus: dict[int, tuple[str | None, str | None]] = {}
    driver, lost, strange = None, [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == query.count(",") + 1 and re.fullmatch("[0-9]{1,4}", cells[0]):
            number = _CAPABILITY.fullmatch(cells[2])
            arch = f"sm_{number[1]}{number[2]}" if number else None
            gpus[int(cells[0])] = (name_of(cells[1]), arch)
            driver = cells[-1] if _RELEASE.fullmatch(cells[-1]) else driver
        elif line.startswith(_LOST):
            lost.append(clean(line))
        else:
            strange.append(clean(line))
    failure = None
    if strange or not gpus:
        said = next(iter(strange + lost), "it names no GPU")
        failure = f"nvidia-smi: {said}"
    return Answer(list(gpus.values()), driver, None, failure, None, lost)
