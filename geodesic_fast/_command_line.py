# SPDX-License-Identifier: MIT
"""What the subcommands of `python -m geodesic_fast` share: one-sentence errors and number types."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch


class UserError(Exception):
    """A mistake the user can mend; its message is one whole sentence and the exit code is 2."""


class Failure(Exception):
    """Something that went wrong and is no mistake in the call; one whole sentence, exit code 1."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or here: torch says the latter by a message alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a wrong call with one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` explains every option.\n")


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argparse type: an int from `least` to `most`."""
    wanted = f"a whole number from {least} to {most}" if most is not None else f"a whole number >= {least}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}") from None
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {value}")
        return value

    return parse


def real_number(*, positive: bool) -> Callable[[str], float]:
    """Return an argparse type: a finite float, > 0 if `positive`, else >= 0."""
    wanted = f"a finite number {'>' if positive else '>='} 0"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}") from None
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text}")
        return value

    return parse


DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> str:
    """Return "cpu" or "cuda", and refuse a CUDA that torch cannot use."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device cuda needs an NVIDIA GPU that torch can use, torch {torch.__version__} finds none: "
            "use --device cpu."
        )
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def need_folder(folder: Path) -> None:
    """Find out before the work, not after it, that the results cannot be written."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--output must be a folder that can be written, got {str(folder)!r} ({error.strerror}): "
            "choose another one."
        ) from None
