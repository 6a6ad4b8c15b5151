# SPDX-License-Identifier: MIT
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import geodesic_fast
from geodesic_fast.__main__ import main
from geodesic_fast.recording import record


def measure(tmp_path, capsys, *arguments) -> dict:
    """Run the command; return its JSON after checking that the files agree."""
    code = main(["measure", *map(str, arguments), "--json", "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    found = json.loads(printed.out)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    page = (tmp_path / "out" / "report.html").read_text()
    assert found["source"] in page
    assert "<svg" in page
    return found


def refusal(capsys, *arguments) -> str:
    assert main(["measure", *map(str, arguments)]) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def tracks() -> torch.Tensor:
    return torch.randn(12, 30, 8, generator=torch.Generator().manual_seed(0))


def save(path, tracks: torch.Tensor, how: str):
    """Save the tracks as one array or as one per layer, with a suffix's own tool."""
    layers = {f"layer{index}": layer.contiguous() for index, layer in enumerate(tracks)}
    if path.suffix == ".npy":
        np.save(path, tracks.numpy())
    elif path.suffix == ".npz":
        np.savez(
            path, **({"x": tracks.numpy()} if how == "array" else {k: v.numpy() for k, v in layers.items()})
        )
    elif path.suffix == ".safetensors":
        safetensors = pytest.importorskip("safetensors.torch", reason="needs the package safetensors")
        safetensors.save_file({"x": tracks} if how == "array" else layers, path)
    else:
        torch.save(tracks if how == "array" else list(layers.values()), path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_every_step_the_controls_and_the_curve_are_told(tmp_path, capsys, suffix):
    walk = torch.randn(7, 300, 16, generator=torch.Generator().manual_seed(0)).cumsum(0)
    path = save(tmp_path / f"walk{suffix}", walk, "layers")
    (group,) = measure(tmp_path, capsys, path, "--ots-curve")["groups"]
    steps = geodesic_fast.step_geometry(walk)
    assert [row["layer"] for row in group["profile"]] == list("123456")
    for name, rows in zip(steps._fields, steps, strict=True):
        told = [row[name] for row in group["profile"]]
        assert told[: len(rows)] == pytest.approx(rows.double().mean(1).tolist(), rel=1e-6), name
    assert group["profile"][-1]["turning_cosine"] is None
    controls = group["controls"]
    assert (controls["random_steps"], controls["independent_states"]) == (6**0.5, 6)
    expected = geodesic_fast.lss_shuffled(walk).double().mean().item()
    assert controls["layers_shuffled"] == pytest.approx(expected, rel=1e-6)
    curve, told = geodesic_fast.ots_curve(walk[0], walk[-1]), group["ots"]["curve"]
    assert [row["points"] for row in told] == curve.sizes.tolist() == [64, 256, 300]
    assert [row["mean"] for row in told] == curve.mean.tolist()
    assert (group["ots"]["points"], group["ots"]["d"]) == (300, 16)
    main(["measure", str(path), "--ots-curve", "--output", str(tmp_path / "out")])
    table, page = capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text()
    for text in (table, page):
        assert "sqrt(n) = 2.449 of steps in random directions, n = 6 of independent states" in text
        assert "m = 300 points, in d = 16 dimensions" in text
        assert "state_cosine" in text
        assert "mean OTS" in text


@pytest.mark.parametrize(
    ("suffix", "how"),
    [(".npy", "array"), (".npz", "array"), (".npz", "layers"), (".safetensors", "array"),
     (".safetensors", "layers"), (".pt", "array"), (".pt", "layers")],
)  # fmt: skip
def test_files_of_tracks(tmp_path, capsys, tracks, suffix, how):
    found = measure(tmp_path, capsys, save(tmp_path / f"tracks{suffix}", tracks, how))
    (group,) = found["groups"]
    assert (group["tracks"], group["steps"]) == (30, 11)
    expected = geodesic_fast.track_geometry(tracks)
    for name, values in zip(expected._fields, expected, strict=True):
        values = values.double()
        told = group["fields"][name]
        assert told["mean"] == pytest.approx(values.mean().item(), rel=1e-6), name
        assert told["std"] == pytest.approx(values.std(correction=0).item(), rel=1e-6), name
        assert told["max"] == values.max().item(), name
        assert told["undefined"] == 0, name


def test_a_key_for_a_file_of_one_array_is_refused(tmp_path, capsys, tracks):
    save(tmp_path / "tracks.npy", tracks, "array")
    assert "--key must be left out" in refusal(capsys, tmp_path / "tracks.npy", "--key", "x")


def test_layer_axis_key_and_table(tmp_path, capsys, tracks):
    path = tmp_path / "both.npz"
    np.savez(path, good=tracks.movedim(0, 1).numpy(), other=tracks[:2].numpy())
    found = measure(tmp_path, capsys, path, "--key", "good", "--dim", "1")
    assert found["groups"][0]["fields"]["lss"]["max"] == geodesic_fast.lss(tracks).max().item()
    assert found["about"] == "12 points per track, 30 tracks (30,), 8 features"
    assert main(["measure", str(path), "--key", "good", "--output", str(tmp_path / "out")]) == 0
    table = capsys.readouterr().out
    assert "30 points per track, 12 tracks" in table  # the layer axis was not said: it shows
    assert "adjacent_cosine" in table
    assert "choose one with --key" in refusal(capsys, path)
    assert "it holds good, other" in refusal(capsys, path, "--key", "bad")


@pytest.mark.parametrize("how", ["array", "layers"])
def test_more_layers_than_a_list_may_name(tmp_path, capsys, how):
    long = torch.randn(1030, 2, 3)
    found = measure(tmp_path, capsys, save(tmp_path / "long.npz", long, how))
    told = found["groups"][0]["fields"]["lss"]["mean"]
    assert told == pytest.approx(geodesic_fast.lss(long).mean().item(), rel=1e-6)


def test_an_output_folder_that_cannot_be_is_told_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "taken").touch()
    told = refusal(capsys, tmp_path / "missing.npy", "--output", tmp_path / "taken")
    assert "taken" in told
    assert "missing.npy" not in told


def test_undefined_tracks_are_counted(tmp_path, capsys, tracks):
    broken = tracks.clone()
    broken[3, 5] = torch.nan
    found = measure(tmp_path, capsys, save(tmp_path / "broken.npy", broken, "array"))
    told = found["groups"][0]["fields"]["lss"]
    assert told["undefined"] == 1
    assert told["mean"] == pytest.approx(geodesic_fast.lss(broken).nanmean().item(), rel=1e-6)


def test_transport_score_of_the_ends(tmp_path, capsys, tracks):
    path = save(tmp_path / "tracks.npy", tracks, "array")
    expected = geodesic_fast.ots(tracks)
    told = measure(tmp_path, capsys, path)["groups"][0]["ots"]
    assert (told["points"], told["of"], told["certified"]) == (30, 30, True)
    assert told["score"] == expected.score
    assert told["efficiency"] == pytest.approx(expected.efficiency, rel=1e-12)
    assert "optimal transport score" in (tmp_path / "out" / "report.html").read_text().lower()
    few = measure(tmp_path, capsys, path, "--ots-points", 10)["groups"][0]["ots"]
    assert (few["points"], few["of"]) == (10, 30)
    assert few["map_cost"] != told["map_cost"]
    assert measure(tmp_path, capsys, path, "--ots-points", 0)["groups"][0]["ots"] is None


def test_transport_score_that_cannot_be_is_a_sentence(tmp_path, capsys, tracks):
    broken = tracks.clone()
    broken[0, 5] = torch.nan
    path = save(tmp_path / "broken.npy", broken, "array")
    assert "NaN or inf first in row 5" in measure(tmp_path, capsys, path)["groups"][0]["ots"]["refused"]
    assert main(["measure", str(path), "--output", str(tmp_path / "out")]) == 0
    assert "score of m = 30 points, in d = 8 dimensions: none, for" in capsys.readouterr().out


@pytest.mark.engine
def test_transport_score_that_has_no_memory_is_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("geodesic_fast.transport.planner.free_memory", lambda device: 1000)
    path = save(tmp_path / "tracks.npy", torch.randn(3, 700, 8), "array")  # fewer are solved unasked
    assert "memory_budget must hold" in measure(tmp_path, capsys, path)["groups"][0]["ots"]["refused"]


def test_files_that_cannot_be_read(tmp_path, capsys):
    assert "got no such file: check the path" in refusal(capsys, tmp_path / "missing.npy")
    assert "pass --text FILE for a language model" in refusal(capsys, "gpt2")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "code.pt")
    assert "must hold plain arrays" in refusal(capsys, tmp_path / "code.pt")
    np.save(tmp_path / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    assert "must hold plain arrays" in refusal(capsys, tmp_path / "objects.npy")
    for suffix in ("npy", "npz", "pt", "pth"):
        (tmp_path / f"empty.{suffix}").touch()
        assert "must hold plain arrays" in refusal(capsys, tmp_path / f"empty.{suffix}")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    assert "words.npy: arrays must hold numbers" in refusal(capsys, tmp_path / "words.npy")
    (tmp_path / "folder.npy").mkdir()
    assert "got a folder" in refusal(capsys, tmp_path / "folder.npy")
    with zipfile.ZipFile(tmp_path / "no.npz", "w") as archive:
        archive.writestr("x.txt", "no array")
    assert main(["measure", str(tmp_path / "no.npz")]) == 2
    np.save(tmp_path / "one.npy", np.zeros((1, 4, 3), dtype=np.float32))
    assert "at least 2 layers along dim 0" in refusal(capsys, tmp_path / "one.npy")
    np.save(tmp_path / "ints.npy", np.zeros((3, 4, 3), dtype=np.int64))
    assert "tracks must be float16" in refusal(capsys, tmp_path / "ints.npy")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the straight line is the shortest way from here to there and back again " * 6)
    return path


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory, words):
    """A folder with a tiny GPT-2, its weights and a word tokenizer, as `save_pretrained` leaves it."""
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    vocabulary = {
        word: index for index, word in enumerate(["<unk>", *sorted(set(words.read_text().split()))])
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tiny.transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(
        folder
    )
    tiny.gpt2().save_pretrained(folder)
    return folder


def test_language_model_in_a_local_folder(tmp_path, capsys, gpt2_folder, words):
    import tiny_transformers as tiny

    found = measure(tmp_path, capsys, gpt2_folder, "--text", words, "--tokens", "10", "--batch", "3")
    (group,) = found["groups"]
    assert group["layers"] == "input of h.0 to h.3"
    assert (group["tracks"], group["steps"]) == (84, 4)
    model = tiny.transformers.AutoModel.from_pretrained(gpt2_folder).eval()
    tokenizer = tiny.transformers.AutoTokenizer.from_pretrained(gpt2_folder)
    ids = torch.tensor(tokenizer(words.read_text())["input_ids"])
    scores = []
    with torch.no_grad(), record(model) as recording:
        for piece in ids.split(10):
            model(input_ids=piece[None])
            scores.append(geodesic_fast.lss(recording.tracks).flatten())
    assert group["fields"]["lss"]["mean"] == pytest.approx(torch.cat(scores).double().mean().item(), rel=1e-5)
    limited = measure(tmp_path, capsys, gpt2_folder, "--text", words, "--tokens", "10", "--limit", "2")
    assert limited["groups"][0]["tracks"] == 20
    assert limited["groups"][0]["ots"]["points"] == 20
    chosen = measure(
        tmp_path, capsys, gpt2_folder, "--text", words, "--random-weights", "--layers", "h.1", "h.2"
    )
    assert chosen["groups"][0]["layers"] == "input of h.1 to h.2"
    assert "with random weights" in chosen["source"]


def test_model_that_is_not_there(tmp_path, capsys, words, monkeypatch):
    pytest.importorskip("transformers", reason="needs the package transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "nothing"
    folder.mkdir()
    message = refusal(capsys, folder, "--text", words)
    assert "must be a Hugging Face model on this disk or one that can be downloaded" in message
    assert message.count("\n") == 1
    assert "must be a readable text file" in refusal(capsys, folder, "--text", tmp_path / "none.txt")
    assert "got both" in refusal(capsys, folder, "--text", words, "--images", tmp_path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    image = pytest.importorskip("PIL.Image", reason="needs the package pillow")
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(3):
        pixels = generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def save_vit(tiny, folder) -> None:
    tiny.vit().save_pretrained(folder)
    settings = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "do_resize": True,
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def test_hugging_face_vision_model(tmp_path, capsys, pictures):
    save_vit(pytest.importorskip("tiny_transformers", reason="needs transformers"), tmp_path / "tiny-vit")
    found = measure(tmp_path, capsys, tmp_path / "tiny-vit", "--images", pictures)
    assert found["groups"][0]["tracks"] == 3 * 5
    assert found["groups"][0]["steps"] == 4


def test_example_of_the_command_line(tmp_path, tracks, words, gpt2_folder, pictures):
    """The commands of the README, on small things of the same names."""
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    save(tmp_path / "tracks.npy", tracks, "array")
    for name, target in (("book.txt", words), ("gpt2", gpt2_folder), ("photos", pictures)):
        (tmp_path / name).symlink_to(target)
    save_vit(tiny, tmp_path / "vit")
    script = Path(__file__).parent.parent / "examples" / "command_line.sh"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("Optimal transport score") == 3
    assert (tmp_path / "results" / "measure" / "report.html").is_file()


def image_library(name: str):
    try:
        return __import__(name)
    except Exception as error:  # a torchvision for another torch raises what it likes
        pytest.skip(f"needs {name} with a torchvision that fits this torch: {error}")


def test_torchvision_model(tmp_path, capsys, pictures):
    image_library("torchvision")
    arguments = ["torchvision:resnet18", "--images", pictures, "--random-weights"]
    found = measure(tmp_path, capsys, *arguments, "--layers", "layer?.*")
    assert [group["layers"] for group in found["groups"]] == [
        "input of layer1.0 to layer1.1", *(f"layer{stage}.0 to layer{stage}.1" for stage in (2, 3, 4))
    ]  # fmt: skip
    assert {group["tracks"] for group in found["groups"]} == {3}
    assert "pass layers='name.*'" in refusal(capsys, *arguments)


def test_timm_model(tmp_path, capsys, pictures):
    image_library("timm")
    found = measure(
        tmp_path,
        capsys,
        "timm:vit_tiny_patch16_224",
        "--images",
        pictures,
        "--random-weights",
        "--limit",
        "2",
    )
    assert found["groups"][0]["layers"] == "input of blocks.0 to blocks.11"
    assert found["groups"][0]["tracks"] == 2 * 197


def test_folders_and_libraries_that_are_not_there(tmp_path, capsys, pictures):
    assert "--images must be a folder, got" in refusal(capsys, "timm:vit", "--images", tmp_path / "none")
    assert "got none in" in refusal(capsys, "timm:vit", "--images", tmp_path)
    try:
        import torchvision  # noqa: F401
    except Exception:
        message = refusal(capsys, "torchvision:resnet18", "--images", pictures)
        assert "torchvision" in message
        assert message.count("\n") == 1
