"""A Debian root to test in: make it once, then run commands inside it.

    python3 tests/tools/root.py make [--suite bookworm|trixie|sid] [--profile NAME]
    python3 tests/tools/root.py run [--suite S] [--bind DIR]... [--user NAME] [--] CMD ARGS...

A command runs with its own processes and mounts: when it ends, or when this launcher ends in
whatever way, every process inside is gone. The project folder is at the same path inside, writable;
so is each --bind. The exit status is the command's; 128+N when signal N ended it; 125 when it could
not be started at all.

From Python: `command(argv, ...)` gives the argument list to start with subprocess, `run(argv, ...)`
runs it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import debian_root
import namespaces
import root_view
from trouble import ToolError, say


def command(
    argv: Sequence[str], *, suite: str | None = None, user: str = "root", binds: Sequence[Path] = ()
) -> list[str]:
    """The argument list that runs `argv` inside the root of `suite` (default: this machine's own
    suite).
    """
    launcher = [
        sys.executable,
        str(Path(__file__).resolve()),
        "run",
        "--suite",
        suite or debian_root.default_suite(),
    ]
    for place in binds:
        launcher += ["--bind", str(place)]
    return [*launcher, "--user", user, "--", *argv]


def run(
    argv: Sequence[str],
    *,
    suite: str | None = None,
    user: str = "root",
    binds: Sequence[Path] = (),
    input: str | None = None,
    timeout: float | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` inside the root of `suite` and give its output, as subprocess.run does; times in
    seconds.
    """
    return subprocess.run(
        command(argv, suite=suite, user=user, binds=binds),
        input=input,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=check,
    )


def _run_here(root: Path, user_name: str, binds: Sequence[Path], argv: Sequence[str]) -> int:
    user = namespaces.User(root, user_name)
    enter = root_view.entrance(root, user, binds, os.environ)
    return namespaces.run_contained(
        enter, argv, root_view.clean_environment(os.environ, user), user
    )


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(
        prog="root.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    suite = argparse.ArgumentParser(add_help=False)
    suite.add_argument("--suite", choices=debian_root.SUITES, default=debian_root.default_suite())
    make = actions.add_parser("make", parents=[suite], help="make the root unless it is up to date")
    make.add_argument("--profile", choices=sorted(debian_root.PROFILES), default="full")
    inside = actions.add_parser("run", parents=[suite], help="run a command inside the root")
    inside.add_argument("--root", type=Path, help="another root than the suite's")
    inside.add_argument("--bind", type=Path, action="append", default=[], metavar="DIR")
    inside.add_argument("--user", default="root", metavar="NAME")
    contain = actions.add_parser(
        "contain", help="run a command of this machine so that it leaves nothing behind"
    )
    contain.add_argument("--view", type=Path, required=True, help="an empty folder to work with")
    for action in (inside, contain):
        action.add_argument("--die-with-parent", action="store_true", help=argparse.SUPPRESS)
        action.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD")
    arguments = parser.parse_args()
    if arguments.action != "make":
        if arguments.argv[:1] == ["--"]:
            del arguments.argv[0]
        if not arguments.argv:
            parser.error("no command given")
    return arguments


def main() -> int:
    arguments = _arguments()
    try:
        if arguments.action == "make":
            debian_root.make(arguments.suite, arguments.profile)
            return 0
        namespaces.need_root()
        if arguments.die_with_parent:
            namespaces.die_with_parent()
        if arguments.action == "contain":
            return debian_root.contain(arguments.view, arguments.argv)
        if arguments.root:
            return _run_here(arguments.root, arguments.user, arguments.bind, arguments.argv)
        with debian_root.in_use(arguments.suite) as root:
            return _run_here(root, arguments.user, arguments.bind, arguments.argv)
    except ToolError as trouble:
        say(str(trouble))
        return namespaces.OUR_FAULT
    except OSError as error:
        say(f"cannot {arguments.action}: {error}")
        return namespaces.OUR_FAULT
    except KeyboardInterrupt:
        say("interrupted; a half-made root is thrown away next time")
        return 130


if __name__ == "__main__":
    sys.exit(main())
