"""Run the tests on real clusters in the roots of several Debian suites, one Slurm release each.

    python3 tests/tools/matrix.py [--but-first [--suite S]] SUITE...

With --but-first the suite that `make test` has done already (S, or the machine's own) is left out.
A suite whose root cannot be made is skipped, and said so; any other trouble is a failure.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import debian_root

TOOLS = Path(__file__).resolve().parent


def main() -> int:
    """Return 0 when the tests passed in every suite whose root could be made."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--but-first", action="store_true")
    parser.add_argument("--suite")
    parser.add_argument("suites", nargs="+")
    args = parser.parse_args()
    done = (args.suite or debian_root.default_suite()) if args.but_first else None
    failed = []
    for suite in args.suites:
        if suite == done:
            continue
        root = [sys.executable, str(TOOLS / "root.py")]
        if subprocess.run([*root, "make", "--suite", suite]).returncode:
            print(f"cmeta: SKIPPED {suite}: its root could not be made", file=sys.stderr)
            continue
        tests = [*root, "run", "--suite", suite, "--", "python3", str(TOOLS / "check.py"), "slurm"]
        if subprocess.run(tests).returncode:
            failed.append(suite)
    if failed:
        print(f"cmeta: error: failed in {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
