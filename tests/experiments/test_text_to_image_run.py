"""Text to image through the command line: train, go on, draw from texts, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from programs import check_refused, program
from random_runs import random_weights
from sampling import sample_each, untrained, write_run
from towers import contrastive

import diffjax as dj
from diffjax import runs
from diffjax.models.autoencoder_kl import AutoencoderKL

TINY = (
    "--model=unet(block_out_channels=(8,16),layers_per_block=1,norm_num_groups=4,"
    "mid_block_type=None,down_block_types=('DownBlock2D','DownBlock2D'),"
    "up_block_types=('UpBlock2D','UpBlock2D'){})"
)
FLAGS = (
    "--batch_size=8",
    "--log_every=2",
    "--checkpoint_every=2",
    "--sample_every=2",
    "--sample_steps=2",
    "--num_samples=4",
    "--warmup_steps=1",
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a CLIP run with random weights."""
    return write_run(tmp_path_factory.mktemp("clips") / "clip", contrastive(4, 32, 3))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A data set of 24 pictures with a caption each."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(24):
        Image.new("RGB", (32, 32), (10 * i, 255 - 10 * i, 128)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"{i} red apples\n")
    return f"--dataset=captioned_folder(path='{folder}')"


@pytest.fixture(scope="module")
def told(clip, pictures, tmp_path_factory):
    """The folder of a run of 4 steps, stopped after 2 and taken up again, and what it said."""
    folder = tmp_path_factory.mktemp("told")
    said = []
    for steps in (2, 4):
        done = program(
            "text_to_image", f"--clip={clip}", *FLAGS, pictures, TINY.format(""),
            f"--steps={steps}", f"--workdir={folder / 'run'}", f"--cache_dir={folder / 'cache'}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    return folder, said


def test_a_run_is_taken_up_with_its_embeddings(told):
    folder, (first, second) = told
    assert first.count("computing") == 2
    assert "computing" not in second
    assert "going on from step 2 of 4" in second
    lines = [json.loads(s) for s in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    captions = (folder / "run" / "samples" / "captions.txt").read_text().splitlines()
    assert len(captions) == 4
    assert len({line.partition("\t")[2] for line in captions}) > 1


@pytest.mark.slow
def test_drawn_from_texts(told):
    run = str(told[0] / "run")
    own = (f"--run={run}", "--num=3", "--steps=2")
    texts = ("--prompts=a red apple", "--prompts=a dog, happy")
    along = ("--task=direction", "--negative=a cat", "--prompts=a red apple", "--guidance=0,1")
    out = [told[0] / name for name in "abcd"]
    said = sample_each(
        (*own, *texts, f"--out={out[0]}"),
        (*own, *texts, "--guidance=3", f"--out={out[1]}"),
        (*own, *texts, "--guidance=3", "--negative=a cat", f"--out={out[2]}"),
        (*own, *along, "--num=2", f"--out={out[3]}"),
        own,
        (*own, "--labels=3"),
        (*own, "--prompts= "),
        (*own, *texts, "--negative=", "--guidance=3"),
    )
    assert all(line.startswith("3 images of step 4") for line in said[:3])
    assert said[3].endswith(", at strengths 0, 1")
    drawn = [np.load(path / "samples.npz")["images"].astype(int) for path in out]
    assert drawn[0].shape == (3, 32, 32, 3)
    found = runs.load(run).sample(
        jax.random.key(0), labels=["a red apple", "a dog, happy"], num=3, steps=2,
        guidance=3.0, negative=["a cat"],
    )  # fmt: skip
    np.testing.assert_allclose((np.asarray(found) + 1) * 127.5, drawn[2], atol=1)
    np.testing.assert_allclose(drawn[3][1], drawn[0][0], atol=1)
    for line in said[4:6]:
        assert (
            line == "refused: this run draws from texts: give --prompts='a text', and no --labels"
        )
    assert said[6].endswith("is no text to draw from: write what is to be seen (--prompts)")
    assert said[7].endswith("is no text to draw from: write what is to be seen (--negative)")


@pytest.mark.slow
def test_told_as_stable_diffusion_is(clip, pictures, tmp_path):
    """In latents; its folder is a pipeline."""
    stage = AutoencoderKL(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(stage.init, jax.random.key(0), image)["params"]
    dj.save_autoencoder_kl(stage, random_weights(shapes), tmp_path / "stage")
    model = (
        "--model=unet_condition(block_out_channels=(8,),layers_per_block=1,norm_num_groups=4,"
        "attention_head_dim=2,mid_block_type=None,down_block_types=('CrossAttnDownBlock2D',),"
        "up_block_types=('CrossAttnUpBlock2D',))"
    )
    done = program(
        "text_to_image", f"--clip={clip}", *FLAGS, pictures, "--told=padded_tokens", model,
        "--steps=2", f"--first_stage={tmp_path / 'stage'}", "--batch_size=4",
        "--schedule=scaled_linear", f"--workdir={tmp_path / 'run'}",
        f"--cache_dir={tmp_path / 'cache'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = program("export", f"--run={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "StableDiffusionPipeline" in done.stdout
    drawn = dj.load_pipeline(tmp_path / "out").sample(["a red apple"], steps=2)
    assert drawn.shape == (1, 32, 32, 3)


def test_refused(clip, pictures, told, tmp_path):
    own = (f"--clip={clip}", *FLAGS, pictures, "--steps=2", f"--cache_dir={told[0] / 'cache'}")
    new = (*own, f"--workdir={tmp_path / 'new'}")
    check_refused("the data set has no texts", "text_to_image", *new, "--dataset=embedded")
    check_refused(
        "--model has cond_dim=512, and the CLIP of", "text_to_image", *new,
        TINY.format(",cond_dim=512"),
    )  # fmt: skip
    check_refused(
        "choose a unet_condition", "text_to_image", *new, "--told=tokens", TINY.format("")
    )
    check_refused(
        "was made with normalise=its default, not False", "text_to_image", *own, TINY.format(""),
        "--nonormalise", f"--workdir={told[0] / 'run'}",
    )  # fmt: skip
    other = untrained(tmp_path / "other")
    check_refused("--prompts are for a run", "sample", f"--run={other}", "--prompts=a dog")
    assert not (tmp_path / "new").exists()
