"""The keys of a host's facts: what they mean, and how a value of theirs looks."""

from __future__ import annotations

import re

from slurm_cmeta.record import NamedTuple

_NAME = r"[a-z0-9][a-z0-9_.+-]*"
_WORDS = rf"{_NAME}( {_NAME})*"
_VERSION = r"[0-9]+(\.[0-9]+)*"
_TEXT = r"[ -~]{1,200}"
_COUNT = r"[1-9][0-9]{0,4}"
_YES_NO = r"yes|no"


class Key(NamedTuple):
    """One key of facts."""

    doc: str
    pattern: str
    """What a value has to match as a whole; `none` is allowed besides."""

    def takes(self, value: str) -> bool:
        """Tell whether `value` is one of this key's."""
        return value == "none" or re.fullmatch(self.pattern, value) is not None


KEYS = {
    "arch": Key("architecture of the kernel, in archspec's spelling", _NAME),
    "cpu": Key("archspec's name of the CPU; its level where archspec knows no name", _NAME),
    "cpu.level": Key("highest psABI level or architecture revision that the flags show", _NAME),
    "cpu.ancestors": Key("all that archspec places below `cpu`, separated by blanks", _WORDS),
    "cpu.vendor": Key("vendor, as the kernel names it", _TEXT),
    "cpu.model": Key("model, as the kernel names it", _TEXT),
    "isa": Key("all flags of the CPU, in archspec's spelling, separated by blanks", _WORDS),
    "page": Key("page size in bytes", _COUNT + "[0-9]*"),
    "kernel": Key("release of the kernel", r"[0-9]+(\.[0-9]+)+[!-~]{0,150}"),
    "glibc": Key("version of glibc; `none` where the C library is another one", _VERSION),
    "libc": Key("C library and its version", _TEXT),
    "memory": Key("memory in MiB", r"[0-9]{1,12}"),
    "nvidia.count": Key("NVIDIA GPUs that the driver serves", _COUNT),
    "nvidia.model": Key("product name of an NVIDIA GPU; one fact for each model", _TEXT),
    "nvidia.arch": Key("compute capability as `sm_80`; one fact for each", r"sm_[0-9]+[a-z]?"),
    "driver": Key("version of NVIDIA's driver", _VERSION),
    "cuda": Key("newest CUDA that NVIDIA's driver serves", _VERSION),
    "amd.count": Key(
        "AMD GPUs that the kernel driver serves (each die of an MI250X counts)", _COUNT
    ),
    "amd.model": Key("product name of an AMD GPU; one fact for each model", _TEXT),
    "amd.arch": Key("target as `gfx90a`; one fact for each", r"gfx[0-9a-f]+"),
    "rocm": Key("version of ROCm", _VERSION),
    "intel.count": Key("discrete Intel GPUs", _COUNT),
    "intel.model": Key("product name of an Intel GPU; one fact for each model", _TEXT),
    "network": Key("kind of a high-speed network with a port that is up", _NAME),
    "network.device": Key("a device of such a network, in words", _TEXT),
    "apptainer": Key("version of Apptainer", _VERSION + r"[!-~]*"),
    "singularity": Key("version of SingularityCE", _VERSION + r"[!-~]*"),
    "runtime": Key("what the container runtime can do for a user: `encrypted`, ...", _NAME),
    "runtime.encryption": Key("a form of encryption that the runtime can open", _NAME),
    "runtime.setuid": Key("whether the runtime has its setuid starter", _YES_NO),
    "runtime.userns": Key("whether a user may make user namespaces", _YES_NO),
    "runtime.fuse": Key("whether a user may mount by FUSE", _YES_NO),
    "mpi": Key("ABI family of an MPI of the host", _NAME),
    "mpi.version": Key("an MPI of the host, in words", _TEXT),
}
"""Key -> meaning and form, in the order in which they are shown."""
