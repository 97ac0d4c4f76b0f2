"""Ask slurmctld by scontrol, and give it orders."""

from __future__ import annotations

import os

from slurm_cmeta.errors import ClusterError
from slurm_cmeta.text import clean


class RefusedError(ClusterError):
    """scontrol ran, and said no; the text is its first line."""


def run(*arguments: str, deadline: float) -> str:
    """Return what scontrol prints, `deadline` seconds from now at the latest.

    SLURM_CLUSTERS would send it to another cluster than the one that slurm.conf names. Raises
    RefusedError with scontrol's own words, ClusterError when it cannot be run or does not answer.
    """
    import subprocess

    environment = {k: v for k, v in os.environ.items() if k != "SLURM_CLUSTERS"}
    try:
        done = subprocess.run(
            ["scontrol", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=deadline,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        raise ClusterError("scontrol is not in PATH") from None
    except OSError as error:
        raise ClusterError(f"scontrol cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"scontrol gave no answer in {deadline:g} seconds") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        verb = " ".join(w for w in arguments if not w.startswith("-") and "=" not in w)
        reason = clean(said[0]) if said else f"exit status {done.returncode}"
        raise RefusedError(f"scontrol {clean(verb, 60)} failed: {reason}")
    return done.stdout
