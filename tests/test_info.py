# SPDX-License-Identifier: MIT
"""`python -m geodesic_fast info`, with the compiled engine and without it."""

import json
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

import geodesic_fast
from geodesic_fast import info
from geodesic_fast.__main__ import main
from geodesic_fast.engine import load

# What an engine built with CUDA says of itself; a CPU-only machine cannot load a driver to say it.
CUDA_ENGINE = SimpleNamespace(
    cuda_archs="80;90;100",
    cuda_runtime_version=lambda: 13000,
    cuda_driver_version=lambda: 12080,
    cuda_device_count=lambda: 0,
)


def test_json_tells_the_versions_and_the_engine_that_is_loaded(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["geodesic_fast"] == geodesic_fast.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["engine"]["compiled"] == load.is_loaded
    if not load.is_loaded:
        assert found["engine"]["why_not"] == load.engine_error != ""
        assert not found["cuda"]["compiled_in"]
    else:
        assert found["engine"]["instruction_set"] == load.engine.instruction_set
        assert found["cuda"]["compiled_in"] == bool(load.engine.cuda_archs)
    assert len(found["cuda"]["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_text_says_the_same_as_json(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for section in ("versions", "compiled engine", "CUDA", "optional packages"):
        assert f"\n{section}\n" in "\n" + text
    assert torch.__version__ in text
    assert (load.engine.instruction_set if load.is_loaded else load.engine_error) in text


def test_a_missing_engine_is_named_with_its_reason():
    missing = info.describe_engine(None, "no C++ compiler")
    assert missing == {"compiled": False, "why_not": "no C++ compiler"}
    text = info.as_text({**info.gather(), "engine": missing, "cuda": info.describe_cuda(None)})
    assert "no: no C++ compiler" in text
    assert "plain-torch reference" in text


def test_a_cuda_build_tells_architectures_runtime_and_driver():
    cuda = info.describe_cuda(CUDA_ENGINE)
    assert (cuda["architectures"], cuda["runtime"], cuda["driver"]) == ("80;90;100", "13.0", "12.8")
    text = info.as_text({**info.gather(), "cuda": cuda})
    assert "yes, for 80;90;100" in text
    assert "12.8" in text


@pytest.mark.parametrize(("number", "text"), [(13000, "13.0"), (12080, "12.8"), (11040, "11.4"), (0, None)])
def test_cuda_version_numbers(number, text):
    assert info.cuda_version(number) == text


def test_optional_packages_carry_their_versions():
    found = info.gather()["optional_packages"]
    assert found["scikit-learn"] == metadata.version("scikit-learn")
    assert found["matplotlib"] == metadata.version("matplotlib")
    assert info._first_version(("no-such-distribution-of-this-name",)) is None
    assert info._first_version(("no-such-distribution-of-this-name", "torch")) == metadata.version("torch")


def test_optional_packages_are_looked_up_and_not_imported():
    program = (
        "import sys; from geodesic_fast import info; info.gather(); "
        "print([name for name in ('sklearn', 'matplotlib', 'transformers', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_subcommand_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_and_version(capsys):
    for arguments in (["--help"], ["info", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert f"geodesic_fast {geodesic_fast.__version__}" in shown
