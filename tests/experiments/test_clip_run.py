"""Training a CLIP through the command line: its figures counted again, and what is refused."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from programs import check_refused, finish, program, start_all

from diffjax import runs
from diffjax.data.captions import Captions
from diffjax.tasks.contrastive import Contrastive

FLAGS = (
    "--vision=clip_vision(hidden_size=16,intermediate_size=16,num_hidden_layers=1,"
    "num_attention_heads=2,patch_size=16)",
    "--text=clip_text(hidden_size=16,intermediate_size=16,num_hidden_layers=1,"
    "num_attention_heads=2,max_position_embeddings=8)",
    "--dim=8", "--dataset=captions(style='noto')", "--batch_size=8", "--steps=4", "--log_every=2",
    "--checkpoint_every=2", "--eval_every=2", "--warmup_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run, and what it said."""
    folder = tmp_path_factory.mktemp("runs") / "clip"
    done = program("clip", *FLAGS, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_figures_are_those_of_the_saved_weights_on_held_out_pairs(run):
    folder, said = run
    held_out = Captions(style="noto").open("test", None)
    images = np.stack([record["image"] for record in held_out])
    texts = [record["text"] for record in held_out]
    assert len(set(texts)) == len(texts) == 223
    towers = runs.load_towers(folder)
    x, y = (e / np.linalg.norm(e, axis=1, keepdims=True) for e in (
        towers.images(images).astype(np.float64), towers.texts(texts).astype(np.float64)
    ))  # fmt: skip
    cosines = x @ y.T
    found = lines(folder / "held_out.jsonl")
    assert [line["step"] for line in found] == [2, 4]
    rank = (cosines >= np.diag(cosines)[:, None]).sum(1) - 1
    assert found[-1]["text_at_5"] == pytest.approx((rank < 5).mean(), abs=0.01)
    logits = towers.logit_scale * cosines
    loss = np.mean([np.log(np.exp(s).sum(1)) - np.diag(s) for s in (logits, logits.T)])
    assert found[-1]["held_out_loss"] == pytest.approx(loss, rel=1e-4)
    assert found[-1]["guessing"] == pytest.approx(np.log(223), rel=1e-6)
    assert found[-1]["modality_gap"] == pytest.approx(
        np.linalg.norm(x.mean(0) - y.mean(0)), rel=1e-4
    )
    assert found[-1]["alignment"] == pytest.approx(((x - y) ** 2).sum(1).mean(), rel=1e-4)
    share = f"{found[-1]['text_at_5']:.1%}"
    assert f"among the first 5 of 223 for {share} of 223 held-out images" in said


def test_report_has_the_dynamics_and_the_film(run):
    folder, _ = run
    page = (folder / "report.html").read_text()
    for name in ("temperature", "modality gap", "text at 5", "rank of images", "held out loss"):
        assert f'"name": "{name}"' in page
    assert "similarity of images (rows) and texts (columns), 16 pairs learnt, 8 held out" in page
    with Image.open(folder / "reverse.gif") as film:
        assert film.n_frames == 2
    with Image.open(folder / "samples" / "step_00000004.png") as sheet:
        assert sheet.size == (25 * 28 + 4, 24 * 28 + 4)


def test_a_stuck_run_says_so(tmp_path):
    done = program("clip", *FLAGS, "--learning_rate=0", f"--workdir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "nothing is learnt" in line]
    assert len(said) == 1  # not yet the first time
    assert re.match(r"step 4: .* is still \d\.\d\d, log\(batch\) for 5\.41", said[0])


def test_resumed_is_uninterrupted(run, tmp_path):
    folder, _ = run
    for steps in (2, 4):
        done = program("clip", *FLAGS, f"--steps={steps}", f"--workdir={tmp_path}/run")
        assert done.returncode == 0, done.stderr
    assert "planned for 2 steps and now for 4: its rate follows the cosine" in done.stdout
    assert lines(tmp_path / "run" / "held_out.jsonl")[-1]["step"] == 4
    again = program("clip", *FLAGS, f"--workdir={folder}")
    assert "going on from step 4 of 4" in again.stdout
    assert [line["step"] for line in lines(folder / "held_out.jsonl")] == [2, 4]


def test_a_trained_clip_is_asked(run, tmp_path):
    folder, _ = run
    out = f"--out={tmp_path}"
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((40, 50), 200, np.uint8)).save(picture)
    captions = ("--caption=a cat", "--caption=a dog")
    for flags in (
        ["--task=retrieval"], ["--task=zero_shot", "--template=a {}"], ["--task=page", "--num=9"],
        ["--task=caption", f"--images={picture}", *captions],
    ):  # fmt: skip
        done = program("clip", *flags, f"--clip={folder}", out)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "matching.json").read_text())
    assert found["retrieval"]["pictures"] == 223
    assert found["retrieval"]["candidates"] == 100
    assert found["zero_shot"]["templates"] == ["a {}"]
    (matches,) = found["caption"]["images"]
    assert {match["caption"] for match in matches} == {"a cat", "a dog"}
    assert sum(match["share"] for match in matches) == pytest.approx(1)
    assert "clip, step 4" in (tmp_path / "match.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num=5"], "--num does nothing without --task=page"),
        (["--task=page"], "--task=page needs --clip"),
        (["--task=page", "--clip={}", "--words=0.5"], "--words does nothing with --task=page"),
        (["--task=page", "--clip={}", "--steps=5"], "--steps does nothing with --task=page"),
        (["--task=caption", "--clip={}"], "needs --images"),
        (["--task=retrieval", "--clip={}/nowhere"], "there is no "),
        (["--task=retrieval", "--clip={}", "--dataset=embedded"], "has no captions"),
        (["--task=zero_shot", "--clip={}", "--template=x"], "has no place for a name"),
    ],
)
def test_refused_to_be_asked(run, flags, message):
    check_refused(message, "clip", *(flag.format(run[0]) for flag in flags))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "layout"), [("softmax", "2x2"), ("softmax", "pieces"), ("sigmoid", "4")]
)
def test_one_loss_on_any_layout(tmp_path, loss, layout):
    def losses(folder):
        return [[line["loss"], line["grad_norm"]] for line in lines(folder / "metrics.jsonl")]

    flags = (*FLAGS, f"--loss={loss}", "--shift=0.1", "--words=0.2")
    flags += ("--dim=16",) if loss == "sigmoid" else ()
    first, second = (f"--workdir={tmp_path}/{name}" for name in ("one", "other"))
    done = [program("clip", *flags, first)]
    if layout == "2x2":
        done += map(finish, start_all("clip", *flags, second, count=2, devices=2))
    elif layout == "4":
        done += [program("clip", *flags, second, devices=4)]
    else:
        done += [program("clip", *flags, "--accumulate=4", second)]
    assert [one.returncode for one in done] == [0] * len(done), [one.stderr for one in done]
    np.testing.assert_allclose(losses(tmp_path / "other"), losses(tmp_path / "one"), rtol=2e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=embedded"], "the data set has no texts: choose one with captions"),
        (["--vision=unet()"], "--vision=unet() has no image_size"),
        (["--vision=classifier()"], "has no image_size"),
        (["--text=clip_text(vocab_size=9)"], "--text has vocab_size=9, where 49408 is needed"),
        (["--vision=siglip_vision(hidden_size=24)"], "24 numbers and texts in 8"),
        (["--optimizer=muon"], "--optimizer=muon does nothing here"),
        (["--words=1"], "words=1.0: choose 0 up to, but not, 1 (--words)"),
    ],
)
def test_refused(tmp_path, flags, message):
    check_refused(message, "clip", *FLAGS, *flags, f"--workdir={tmp_path}/run")


def test_a_clip_is_read_as_one(run):
    assert isinstance(runs.load(run[0]).task, Contrastive)
