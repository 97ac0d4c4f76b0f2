"""How every command ends: an exit code, and at most one line of error."""

from __future__ import annotations

import os
import sys

from slurm_cmeta.errors import EXIT_OK, CmetaError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def ended(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a command; return its exit code (errors.py lists them)."""
    try:
        code = run(args)
        sys.stdout.flush()
    except CmetaError as error:
        print(f"cmeta: error: {clean(str(error), 2000)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `cmeta ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return 130
    return code
