# SPDX-License-Identifier: MIT
"""The command line: `python -m geodesic_fast <subcommand>`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

import geodesic_fast
from geodesic_fast import completion, info
from geodesic_fast._command_line import Failure, Parser, UserError, is_out_of_memory
from geodesic_fast.demo import command as demo
from geodesic_fast.measure import command as measure
from geodesic_fast.reproduce import command as reproduce

PROG = "python -m geodesic_fast"
# Each module gives HELP (one line), add_arguments(parser) and run(args) -> None.
SUBCOMMANDS = {
    "demo": demo, "reproduce": reproduce, "measure": measure, "info": info, "completion": completion,
}  # fmt: skip
# What a full disk or a reader that left says when the output is written.
CANNOT_WRITE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with one subparser per subcommand."""
    parser = Parser(prog=PROG, description=geodesic_fast.__doc__)
    parser.add_argument("--version", action="version", version=f"geodesic_fast {geodesic_fast.__version__}")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="subcommand", required=True)
    for name, module in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand: exit code 0 done, 1 failed, 2 a mistake of the user, 130 ended by Ctrl-C."""
    try:
        args = build_parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except UserError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    except Failure as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise  # a fault of this package or of torch: the whole trace belongs into a report
        print(f"{PROG}: out of memory, {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is not None or error.errno not in CANNOT_WRITE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        if not isinstance(error, BrokenPipeError):  # whoever reads has read enough
            print(f"{PROG}: the output cannot be written, {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"\n{PROG}: {str(stop) or 'ended by Ctrl-C.'}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
