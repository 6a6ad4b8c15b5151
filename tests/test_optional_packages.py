# SPDX-License-Identifier: MIT
"""Optional packages are imported only when asked for, and a missing one is a sentence."""

import subprocess
import sys

import pytest

OPTIONAL = (
    "torchmetrics", "lightning", "pytorch_lightning", "transformers", "accelerate", "safetensors", "sklearn",
    "matplotlib", "jax", "cupy", "geomloss", "pykeops", "tensorboard", "PIL", "torchvision", "timm", "ot",
    "mlxtend",
)  # fmt: skip
MODULES = (
    "geodesic_fast",
    "geodesic_fast.recording",
    "geodesic_fast.__main__",
    "geodesic_fast.integrations.hugging_face",
)


def alone(code: str) -> tuple[int, str, str]:
    """Run a program in a process of its own; return its exit code and what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_importing_brings_no_optional_package():
    code = (
        "import importlib, sys, torch, numpy, scipy.optimize, tqdm\n"
        f"before = set(sys.modules)\nfor module in {MODULES!r}:\n    importlib.import_module(module)\n"
        f"    print(module, sorted({{name for name in {OPTIONAL!r} if name in sys.modules}} - before))"
    )
    assert alone(code) == (0, "".join(f"{module} []\n" for module in MODULES), "")


@pytest.mark.parametrize(
    ("module", "purpose", "hidden", "name"),
    [
        ("lightning", "the Lightning callback", ("lightning", "pytorch_lightning"), "lightning"),
        ("torchmetrics", "a metric class", ("torchmetrics",), "torchmetrics"),
        ("hugging_face_trainer", "the Trainer callback", ("transformers",), "transformers"),
    ],
)
def test_a_missing_package_is_named_with_its_purpose_and_remedy(module, purpose, hidden, name):
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({hidden!r}))\nimport geodesic_fast\n"
        f"try:\n    import geodesic_fast.integrations.{module}\n"
        "except ImportError as error:\n    print(error)"
    )
    code, out, err = alone(code)
    assert (code, err) == (0, "")
    assert out.startswith(f"{purpose} needs the package {name}, got ")
    assert f"`pip install {name}`.\n" in out
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "hidden", "purpose", "name"),
    [
        (["{}/x.safetensors"], "safetensors", "a .safetensors file", "safetensors"),
        (["resnet", "--images", "{}"], "PIL", "a folder of images", "pillow"),
        (["gpt2", "--text", "{}/words.txt"], "transformers", "a Hugging Face model", "transformers"),
    ],
    ids=["safetensors", "pillow", "transformers"],
)
def test_the_command_line_says_which_package_is_missing(arguments, hidden, purpose, name, tmp_path):
    for file in ("x.safetensors", "picture.png", "words.txt"):
        (tmp_path / file).write_bytes(b"words")
    arguments = ["measure", *(argument.format(tmp_path) for argument in arguments)]
    code = (
        f"import sys\nsys.modules[{hidden!r}] = None\n"
        f"from geodesic_fast.__main__ import main\nsys.exit(main({arguments!r}))"
    )
    code, out, err = alone(code)
    assert (code, out) == (2, "")
    assert err.startswith(f"python -m geodesic_fast: {purpose} needs the package {name}, got ")
    assert err.endswith(f"or `pip install {name}`.\n")
    assert err.count("\n") == 1
