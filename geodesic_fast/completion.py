# SPDX-License-Identifier: MIT
"""`geodesic-fast completion SHELL`: the script that lets a shell complete subcommands and options."""

from __future__ import annotations

import argparse

from geodesic_fast._command_line import UserError
from geodesic_fast.integrations._packages import need

HELP = "Print the completion script of a shell, for the command geodesic-fast."
SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `completion`."""
    parser.add_argument("shell", choices=SHELLS, help='for bash: eval "$(geodesic-fast completion bash)"')


def run(args: argparse.Namespace) -> None:
    """Print the script, made from the parser itself."""
    from geodesic_fast.__main__ import build_parser

    try:
        shtab = need("shtab", "completion", "completion")
    except ImportError as missing:
        raise UserError(str(missing)) from None
    parser = build_parser()
    parser.prog = "geodesic-fast"
    print(shtab.complete(parser, shell=args.shell))
