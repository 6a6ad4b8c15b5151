# SPDX-License-Identifier: MIT
import math
import os
import re
import runpy
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from geodesic_fast.__main__ import build_parser

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
NEEDS = {
    "language_model": "transformers", "hugging_face_trainer": "accelerate", "lightning_callback": "lightning",
    "metric_classes": "torchmetrics", "training_loop": "tensorboard",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run(name: str, capsys, monkeypatch, *arguments: str) -> str:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"needs the package {NEEDS[name]}")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    torch.manual_seed(0)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_any_network(capsys, monkeypatch):
    stored, watched = run("any_network", capsys, monkeypatch).splitlines()
    score = re.compile(r"tensor\((\d\.\d+)")
    assert score.match(stored)[1] == score.match(watched)[1]
    assert stored.split()[-1] == watched.split()[-1]


def test_between_tracks(capsys, monkeypatch, tmp_path):
    picture = tmp_path / "spirals.png"
    gap, margin = run("between_tracks", capsys, monkeypatch, "--picture", str(picture)).splitlines()
    gap, bending, detour = (float(number) for number in re.findall(r"\d+\.\d+", gap))
    assert gap == pytest.approx(bending * detour - 1, abs=0.01)
    assert detour >= 1
    assert all(float(number) >= 0 for number in re.findall(r"\d+\.\d+", margin))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_arrays(capsys, monkeypatch):
    score, chord, share = run("arrays", capsys, monkeypatch).split("\n")[0].split()
    assert 1 <= float(score) < 12**0.5 * 1.5
    assert float(chord) > 0
    assert 0 <= float(share) <= 1


def test_lss_in_training(capsys, monkeypatch):
    assert 1 <= float(run("lss_in_training", capsys, monkeypatch).split()[-1]) < 1.6


def test_layer_by_layer(capsys, monkeypatch):
    points, score = run("layer_by_layer", capsys, monkeypatch).split(" ", 1)
    assert points == "24"
    assert float(re.search(r"\d\.\d+", score)[0]) == pytest.approx(23**0.5, rel=0.05)  # random directions


def test_language_model(capsys, monkeypatch):
    assert run("language_model", capsys, monkeypatch).split("\n")[:2] == ["torch.Size([20])"] * 2


def test_trainers(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    logged = run("hugging_face_trainer", capsys, monkeypatch)
    scores = re.findall(r"\d\.\d+", logged[logged.rindex("[") :])
    assert len(scores) == 2
    assert all(float(score) >= 1 for score in scores)
    assert "tensor(" in run("lightning_callback", capsys, monkeypatch)


def test_flow_matching(capsys, monkeypatch):
    lines = run("flow_matching", capsys, monkeypatch).splitlines()
    assert [line.split(":")[0] for line in lines] == ["independent", "sampled", "one_to_one"]
    found = [[float(number) for number in re.findall(r"(\d+\.?\d*)[,%]", line)] for line in lines]
    (_, loose, bent, _, none), (_, _, straight, _, dropped), (_, least, straightest, _, nothing) = found
    assert max(straight, straightest) < 0.2 * bent
    assert least < 0.5 * loose
    assert none == nothing == 0
    assert dropped == pytest.approx(100 / math.e, abs=1)  # (1 - 1/m)^m of what is drawn with replacement


def test_metric_classes(capsys, monkeypatch):
    out = run("metric_classes", capsys, monkeypatch)
    assert all(f"'{name}'" in out for name in ("line", "ots", "lss", "action"))


def test_training_loop_with_tensorboard(capsys, monkeypatch, tmp_path):
    run("training_loop", capsys, monkeypatch, "--folder", str(tmp_path))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("geodesic/lss")] == [0, 10, 20, 30, 40, 50]


@pytest.fixture(scope="module")
def without_penalty():
    sys.path.insert(0, str(EXAMPLES))
    import penalty_lss

    sys.path.remove(str(EXAMPLES))
    return penalty_lss.train(0.0, steps=40)


@pytest.mark.parametrize(
    "options", [{}, {"autocast": True}, {"checkpointing": True}, {"backend": "aot_eager"},
                {"autocast": True, "checkpointing": True, "backend": "aot_eager"}], ids=str,
)  # fmt: skip
def test_penalty_straightens_the_tracks(options, without_penalty):
    import penalty_lss

    torch._dynamo.reset()
    accuracy, score = penalty_lss.train(0.3, steps=40, **options)
    assert score < 0.9 * without_penalty[1]
    assert accuracy > 0.5
    if not options.get("autocast") and options:
        plain_accuracy, plain_score = penalty_lss.train(0.3, steps=40)
        assert score == pytest.approx(plain_score, rel=2e-2)
        assert accuracy == pytest.approx(plain_accuracy, abs=0.03)


@pytest.mark.parametrize(
    "options",
    [{}, {"autocast": True, "checkpointing": True}, {"backend": "aot_eager"},
     {"autocast": True, "checkpointing": True, "backend": "aot_eager"}], ids=str,
)  # fmt: skip
def test_action_penalty_shortens_and_evens_the_steps(options):
    import penalty_action

    torch._dynamo.reset()
    _, free = penalty_action.train(0.0, steps=40)
    _, short = penalty_action.train(0.003, steps=40, **options)
    assert short.action.mean() < 0.5 * free.action.mean()
    assert short.path_length.mean() < free.path_length.mean()


def compiled_loss_and_gradients(name: str, backend: str) -> tuple[float, list[torch.Tensor]]:
    module = __import__(name)
    from spirals import ResNet, spirals

    torch._dynamo.reset()
    torch.manual_seed(0)
    network = ResNet()
    loss_of = torch.compile(module.penalised_loss, backend=backend) if backend else module.penalised_loss
    loss = loss_of(network, *spirals(64), 0.1)
    loss = loss[0] if isinstance(loss, tuple) else loss
    loss.backward()
    return loss.item(), [parameter.grad for parameter in network.parameters()]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["penalty_lss", "penalty_action"])
def test_compiled_penalty_is_the_same(name, backend):
    if backend == "inductor" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("the default backend of torch.compile needs a C++ compiler")
    loss, gradients = compiled_loss_and_gradients(name, "")
    compiled, compiled_gradients = compiled_loss_and_gradients(name, backend)
    assert compiled == pytest.approx(loss, rel=1e-6)
    for a, b in zip(compiled_gradients, gradients, strict=True):
        torch.testing.assert_close(a, b)


PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "use").glob("*.md")),
]


def blocks_of_code() -> list[tuple[str, str]]:
    """Every block of code of the README and the site that names its file: (file, code)."""
    pattern = re.compile(r"<!-- (examples/[\w.]+) -->\n```\w+\n(.*?)```", re.DOTALL)
    return [block for page in PAGES for block in pattern.findall(page.read_text())]


@pytest.mark.parametrize(("file", "code"), blocks_of_code(), ids=lambda value: str(value)[:40])
def test_blocks_of_code_are_parts_of_the_examples(file, code):
    lines, count = (ROOT / file).read_text().splitlines(keepends=True), code.count("\n")
    parts = (textwrap.dedent("".join(lines[at : at + count])) for at in range(len(lines)))
    assert code in parts, f"a page shows code that is not in {file}"


def test_every_example_is_shown():
    shown = {file for file, _ in blocks_of_code()}
    written = {f"examples/{path.name}" for path in EXAMPLES.glob("*.*") if path.suffix in (".py", ".sh")}
    assert shown == written - {"examples/spirals.py"}


OWN_CODE = [  # code of a page that is no part of an example: it runs by itself
    pytest.param(code, id=f"{page.stem}-{at}")
    for page in PAGES
    for at, code in enumerate(re.findall(r"(?<!-->\n)```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("code", OWN_CODE)
def test_code_of_a_page_runs_when_pasted(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(code, "page", "exec"), {"__name__": "__main__"})


COMMANDS = [
    pytest.param(re.split(" [#>]", line)[0].strip(), id=f"{page.stem}-{line[:40]}")
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_page_exists(command):
    """Commands install and train: here each is only known by the program that it calls."""
    words = shlex.split(command)
    while "=" in words[0]:  # variables of the environment
        words.pop(0)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    elif words[:3] == ["python", "-m", "geodesic_fast"]:
        build_parser().parse_args(words[3:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        extras = re.findall(r"\[(.*)\]", words[-1])
        known = (ROOT / "pyproject.toml").read_text()
        assert words[:2] == ["pip", "install"]
        assert all(f"\n{extra} = [" in known for extra in ",".join(extras).split(",") if extra)
