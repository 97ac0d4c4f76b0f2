"""The command lines' parser."""

from __future__ import annotations

import argparse
from typing import NoReturn

from slurm_cmeta.text import clean


class Parser(argparse.ArgumentParser):
    """A parser whose errors are safe to print: they repeat what was typed."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and one clean line; exit with status 2."""
        super().error(clean(message, 2000))
