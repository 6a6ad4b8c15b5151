# SPDX-License-Identifier: MIT
"""Habits of a command line: one version, completion, no colours."""

import errno
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import geodesic_fast
from geodesic_fast import info
from geodesic_fast.__main__ import SUBCOMMANDS, main

ROOT = Path(__file__).parent.parent


def test_the_version_has_one_place(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"geodesic_fast {geodesic_fast.__version__}\n"
    assert f"\nversion: {geodesic_fast.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()


def test_the_installed_version_is_that_of_the_sources():
    try:
        assert metadata.version("geodesic-fast") == geodesic_fast.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("the package runs from its sources, not installed")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}])
def test_nothing_is_coloured(environment, monkeypatch, capsys):
    """There are no colours of ours; argparse of newer Pythons has some, which NO_COLOR turns off."""
    if "NO_COLOR" not in environment and sys.version_info >= (3, 14):
        pytest.skip("argparse colours its help when it is forced to")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["info"]) == 0
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "found"), [(["mea"], "measure"), (["measure", "--back"], "--backend")])
def test_bash_completes(tmp_path, capsys, typed, found):
    pytest.importorskip("shtab", reason="needs the package shtab")
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    script = tmp_path / "complete.bash"
    assert main(["completion", "bash"]) == 0
    script.write_text(capsys.readouterr().out)
    words = " ".join(["geodesic-fast", *typed])
    code = (
        f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}\n"
        "function=$(complete -p geodesic-fast | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        "$function\necho ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert found in done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_every_subcommand_is_completed(shell, capsys):
    pytest.importorskip("shtab", reason="needs the package shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in SUBCOMMANDS)


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'geodesic-fast[completion]'" in capsys.readouterr().err


def test_the_hooks_before_a_commit_are_those_of_lint():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    lint = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    for command in ("ruff check", "ruff format --check", "mypy", "clang-format --dry-run --Werror"):
        assert f".venv/bin/{command}\n" in hooks
        assert f"$(BIN)/{command}" in lint


def test_the_badges_are_true():
    project = (ROOT / "pyproject.toml").read_text()
    told = {path.stem: path.read_text() for path in (ROOT / "docs" / "badges").glob("*.svg")}
    minors = re.findall(r"Python :: (3\.\d+)", project)
    assert f"python: {minors[0]} to {minors[-1]}<" in told["python"]
    assert f"torch: {re.search(r'torch>=([0-9.]+)', project)[1]} or newer<" in told["torch"]
    assert f"licence: {re.search(r'license = .(.+).$', project, re.MULTILINE)[1]}<" in told["licence"]
    assert f'requires-python = ">={minors[0]}"' in project
    readme = (ROOT / "README.md").read_text()
    for name, badge in told.items():
        assert f"![{re.search('<title>(.*)</title>', badge)[1]}](docs/badges/{name}.svg)" in readme


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_a_sentence():
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "geodesic_fast", "info"], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr == "python -m geodesic_fast: the output cannot be written, No space left on device.\n"


def test_other_faults_of_the_system_keep_their_trace(monkeypatch):
    def fail(args):
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr(info, "run", fail)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        main(["info"])


def test_a_reader_who_has_enough_ends_it_quietly():
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as gone:
        ran = subprocess.run(
            [sys.executable, "-m", "geodesic_fast", "info"], stdout=gone, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (1, "")
