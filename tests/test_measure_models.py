# SPDX-License-Identifier: MIT
"""`python -m geodesic_fast measure` on real models and real files: never a trace, never a guess."""

import json
import os

import numpy as np
import pytest
import torch

import geodesic_fast
from geodesic_fast.__main__ import main
from geodesic_fast.recording import record

WORDS = "the straight line is the shortest way from here to there and back again " * 6


def measure(tmp_path, capsys, *arguments) -> dict:
    code = main(["measure", *map(str, arguments), "--json", "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def sentence(tmp_path, capsys, *arguments, code=2) -> str:
    assert main(["measure", *map(str, arguments), "--output", str(tmp_path / "out")]) == code
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    return told


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_median_is_the_mean_of_the_middle_two(tmp_path, capsys, count):
    tracks = np.random.default_rng(0).standard_normal((3, count, 4))
    np.save(tmp_path / "tracks.npy", tracks)
    (group,) = measure(tmp_path, capsys, tmp_path / "tracks.npy", "--ots-points", 0)["groups"]
    values = geodesic_fast.track_geometry(torch.from_numpy(tracks))
    for name, told in group["fields"].items():
        expected = np.median(getattr(values, name).numpy())
        assert told["median"] == pytest.approx(expected, rel=1e-12), name


LAYERS = [torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]


@pytest.mark.parametrize(
    "content",
    [
        tuple(LAYERS), {"x": tuple(LAYERS)}, dict(enumerate(LAYERS)), {"x": torch.stack(LAYERS)},
        [layer.double() for layer in LAYERS],
    ],
    ids=["tuple", "tuple in a dict", "numbers for names", "one", "float64"],
)  # fmt: skip
def test_files_of_torch(tmp_path, capsys, content):
    torch.save(content, tmp_path / "tracks.pt")
    (group,) = measure(tmp_path, capsys, tmp_path / "tracks.pt")["groups"]
    expected = geodesic_fast.lss(LAYERS).double().mean().item()
    assert group["fields"]["lss"]["mean"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "content",
    [
        3, "words", None, True, [], (), {}, [None, LAYERS[0]], (LAYERS[0], None), [LAYERS], (tuple(LAYERS),),
        torch.tensor(1.0), LAYERS[0][0], torch.zeros(2, 3, dtype=torch.complex64), LAYERS[0].to_sparse(),
        [LAYERS[0], LAYERS[1][:, :2]], {"a": LAYERS[0], "b": LAYERS[1]}, {"x": {"y": LAYERS[0]}},
        {0: 1, 1: 2},
        [torch.zeros(3, 2)] * 1500 + [torch.zeros(3, 4)],
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_file_of_tracks_is_a_sentence(tmp_path, capsys, content):
    torch.save(content, tmp_path / "tracks.pt")
    assert "tracks.pt" in sentence(tmp_path, capsys, tmp_path / "tracks.pt")


@pytest.mark.parametrize("how", ["stacked", "listed"])
def test_tracks_of_many_layers(tmp_path, capsys, how):
    tracks = torch.randn(1500, 6, 3, generator=torch.Generator().manual_seed(0))
    torch.save(tracks if how == "stacked" else list(tracks), tmp_path / "tracks.pt")
    (group,) = measure(tmp_path, capsys, tmp_path / "tracks.pt")["groups"]
    assert (group["steps"], group["tracks"]) == (1499, 6)
    assert group["fields"]["lss"]["max"] == pytest.approx(geodesic_fast.lss(tracks).max().item(), rel=1e-6)


def test_a_folder_that_cannot_be_written_is_found_before_measuring(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "tracks.npy", np.zeros((3, 4, 2), dtype=np.float32))
    (tmp_path / "file").write_text("no folder")
    opened = []
    monkeypatch.setattr("geodesic_fast.measure.track_files.open_source", lambda *a: opened.append(a))
    assert main(["measure", str(tmp_path / "tracks.npy"), "--output", str(tmp_path / "file" / "out")]) == 2
    assert "--output must be a folder that can be written" in capsys.readouterr().err
    assert opened == []


def test_a_fault_of_the_engine_is_not_reported_as_the_users(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "tracks.npy", np.zeros((3, 4, 2), dtype=np.float32))

    def broken(*arguments, **options):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("geodesic_fast.measure.track_files.track_geometry", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        main(["measure", str(tmp_path / "tracks.npy"), "--output", str(tmp_path / "out")])

    def too_large(*arguments, **options):
        torch.empty(1 << 60)

    monkeypatch.setattr("geodesic_fast.measure.track_files.track_geometry", too_large)
    assert "out of memory" in sentence(tmp_path, capsys, tmp_path / "tracks.npy", code=1)


SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
         "num_attention_heads": 2}  # fmt: skip
CLIP_TEXT = {**SIZES, "max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1}
CLIP_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
               "image_size": 16, "patch_size": 8}  # fmt: skip
FAMILIES = {
    "Bert": {**SIZES, "max_position_embeddings": 32},
    "Roberta": {**SIZES, "max_position_embeddings": 32, "pad_token_id": 1},
    "Albert": {**SIZES, "embedding_size": 16, "max_position_embeddings": 32},
    "Longformer": {**SIZES, "attention_window": 4, "max_position_embeddings": 32, "pad_token_id": 1},
    "XLNet": {"vocab_size": 97, "d_model": 32, "n_layer": 3, "n_head": 2, "d_inner": 64},
    "CLIP": {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION, "projection_dim": 16},
    "T5": {"vocab_size": 97, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 3, "num_heads": 2},
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(WORDS)
    return path


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function that saves a tiny model of a family, with a tokenizer that adds [CLS] and [SEP]."""
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    tokenizers = pytest.importorskip("tokenizers", reason="needs the package tokenizers")
    transformers = tiny.transformers

    def save(family: str):
        folder = tmp_path_factory.mktemp(family)
        vocabulary = ["<unk>", "[PAD]", "[SEP]", "[CLS]", *sorted(set(WORDS.split()) - {"way"})]
        ids = {word: index for index, word in enumerate(vocabulary)}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 2)]
        )
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", pad_token="[PAD]", sep_token="[SEP]",
            cls_token="[CLS]",
        ).save_pretrained(folder)  # fmt: skip
        torch.manual_seed(0)
        transformers.logging.disable_progress_bar()
        config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
        getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "Albert"])
def test_families_of_text_models(tmp_path, capsys, folder_of, words, family):
    """Longer pieces than there are positions, more pieces than tokens or as many: every token counts once."""
    folder = folder_of(family)
    for batch in (3, 12):
        found = measure(tmp_path, capsys, folder, "--text", words, "--batch", batch, "--tokens", 12)
        (group,) = found["groups"]
        assert group["steps"] == 3
        assert found["about"].split(" tokens of")[0].split()[-1] == str(group["tracks"]) == "102"
        assert "18 of them special (--without-special leaves them out)" in found["about"]
    longest = measure(tmp_path, capsys, folder, "--text", words, "--tokens", 64)
    assert longest["groups"][0]["tracks"] > 84


def test_special_tokens_can_be_left_out(tmp_path, capsys, folder_of, words):
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    folder = folder_of("Bert")
    found = measure(tmp_path, capsys, folder, "--text", words, "--without-special", "--tokens", 12)
    assert "84 tokens of text.txt in pieces of 12, without 18 special ones" in found["about"]
    model = tiny.transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = tiny.transformers.AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(WORDS, truncation=True, max_length=12, return_overflowing_tokens=True)["input_ids"]
    scores = []
    for row in rows:
        with torch.no_grad(), record(model) as recording:
            model(input_ids=torch.tensor([row]))
        scores.append(geodesic_fast.lss(recording.tracks)[0, 1:-1])
    (group,) = found["groups"]
    assert group["fields"]["lss"]["mean"] == pytest.approx(torch.cat(scores).double().mean().item(), rel=1e-5)
    assert group["tracks"] == group["ots"]["of"] == 84
    skipped = measure(tmp_path, capsys, folder, "--text", words, "--skip-tokens", 1, "--tokens", 12)
    assert skipped["groups"][0]["tracks"] == 102 - 9
    assert skipped["about"].startswith("93 tokens")
    assert "at least 1 track, got none" in sentence(
        tmp_path, capsys, folder, "--text", words, "--skip-tokens", 12, "--tokens", 12
    )


@pytest.mark.parametrize("option", [("--without-special",), ("--skip-tokens", 1)])
@pytest.mark.parametrize("name", ["XLNet", "Bert"])
def test_tokens_are_left_out_along_their_own_axis(tmp_path, capsys, folder_of, words, name, option):
    arguments = (folder_of(name), "--text", words, "--tokens", 7, *option)
    one, three = (
        measure(tmp_path, capsys, *arguments, "--batch", batch)["groups"][0]["fields"]["lss"]
        for batch in (1, 3)
    )
    assert three["mean"] == pytest.approx(one["mean"], rel=1e-5)
    assert "--skip-tokens and --without-special need to know which axis holds the tokens" in (
        told := sentence(tmp_path, capsys, *arguments, "--batch", 7)
    )
    assert told.rstrip().endswith("pass another --batch.")


def test_a_layer_that_runs_several_times(tmp_path, capsys, folder_of, words):
    folder = folder_of("Albert")
    layers = "encoder.albert_layer_groups.0.albert_layers.0"
    arguments = (folder, "--text", words, "--layers", layers)
    assert "--repeats append" in sentence(tmp_path, capsys, *arguments)
    assert measure(tmp_path, capsys, *arguments, "--repeats", "append")["groups"][0]["steps"] == 3


def test_the_parts_of_a_model_of_images_and_texts(tmp_path, capsys, folder_of):
    image = pytest.importorskip("PIL.Image", reason="needs the package pillow")
    folder = folder_of("CLIP")
    settings = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 16}, "do_resize": True,
        "crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    pixels = np.random.default_rng(0).integers(0, 255, (2, 20, 20, 3), dtype=np.uint8)
    (tmp_path / "pictures").mkdir()
    for index, picture in enumerate(pixels):
        image.fromarray(picture).save(tmp_path / "pictures" / f"{index}.png")
    for skip, tracks in ((0, 10), (1, 8)):
        arguments = (folder, "--images", tmp_path / "pictures", "--skip-tokens", skip)
        (group,) = measure(tmp_path, capsys, *arguments)["groups"]
        assert (group["tracks"], group["steps"]) == (tracks, 3)


def test_what_the_model_raises_is_a_sentence_and_no_mistake_of_the_call(
    tmp_path, capsys, folder_of, words, monkeypatch
):
    tiny = pytest.importorskip("tiny_transformers", reason="needs the package transformers")
    folder = folder_of("Bert")

    def broken(*arguments, **options):
        raise IndexError("index out of range in self")

    monkeypatch.setattr(tiny.transformers.BertModel, "forward", broken)
    told = sentence(tmp_path, capsys, folder, "--text", words, code=1)
    assert "IndexError: index out of range in self: try fewer --tokens" in told
    assert not os.path.exists(tmp_path / "out" / "report.html")
