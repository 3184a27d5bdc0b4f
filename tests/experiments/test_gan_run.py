"""A GAN through the command line: its folder, what the judge counts, and taking it up again."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from programs import ROOT, calls, program
from sampling import untrained_judge

from diffjax.data import images
from diffjax.data.embedded import Embedded
from diffjax.errors import UserError
from diffjax.runs import load
from diffjax.tasks.classifier import Classification
from diffjax.tasks.denoisers import DenoiserTask
from diffjax.tasks.gan import GAN

FLAGS = (
    f"--flagfile={ROOT}/experiments/flagfiles/gan_fashion_mnist.flags",
    "--steps=4",
    "--preset=smoke",
    "--model=dcgan(latent=8,channels=(8,4),norm_num_groups=4,spectral_norm=True)",
    "--batch_size=8",
    "--checkpoint_every=2",
    "--log_every=2",
    "--num_samples=4",
)
SEEN = (
    "loss", "generator_loss", "discriminator_loss", "r1", "real_logit", "fake_logit", "grad_norm",
)  # fmt: skip


def train(folder, *flags, **options):
    done = program("gan", *FLAGS, f"--workdir={folder}", *flags, **options)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def whole(judge, tmp_path_factory):
    """The folder of a finished run, and what it said."""
    folder = tmp_path_factory.mktemp("gans") / "whole"
    return folder, train(folder, f"--judge={judge}")


def weights(folder):
    """Those of both networks."""
    run = load(folder, GAN)
    return jax.tree.leaves([run[name].params for name in ("generator", "discriminator")])


def draw(gan, seed, num):
    """Images as bytes."""
    return images.to_uint8(np.asarray(gan.sample(jax.random.key(seed), num=num)))


def test_run_folder(whole):
    folder, done = whole
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(np.isfinite(line[name]) for line in lines for name in SEEN)
    assert all(line["r1"] > 0 for line in lines)
    assert [p.name for p in (folder / "samples").iterdir()] == ["step_00000004.png"]
    with Image.open(folder / "reverse.gif") as film:
        assert film.n_frames == 40
    page = (folder / "report.html").read_text()
    assert "generator loss" in page
    assert "from one latent to the next" in page
    assert "reverse process" not in page
    assert "done: step 4" in done.stdout


def test_a_preset_overrules_the_flagfile_and_not_what_is_given_besides(whole):
    flags = (whole[0] / "flags.txt").read_text().splitlines()
    assert "--steps=4" in flags
    assert "--batch_size=8" in flags
    assert "--sample_every=30" in flags, "the preset's"
    assert "--dataset=embedded" in flags, "the flagfile's"


def test_coverage_is_what_the_judge_says_of_the_saved_weights(whole, judge):
    """Counted again without the program, image by image."""
    folder, done = whole
    found = json.loads((folder / "coverage.json").read_text())
    sees, gan = load(judge, Classification)["classifier"], load(folder, GAN)
    assert gan.step == found["step"] == 4
    held_out = Embedded().open("test", None)
    real = np.stack([held_out[i]["image"] for i in range(500)])
    for name, shown in (("samples", images.scaled(draw(gan, 0, 1000))), ("real", real)):
        logits, _ = jax.jit(sees.model.apply)({"params": sees.params}, jnp.asarray(shown))
        seen = np.asarray(logits).argmax(1)
        shares = [float(np.mean(seen == k)) for k in range(10)]
        assert found[name]["class_shares"] == pytest.approx(shares)
        assert found[name]["classes"] == sum(share >= 0.02 for share in shares)
        surest = np.asarray(jax.nn.softmax(logits)).max(1).mean()
        assert found[name]["confidence"] == pytest.approx(surest, rel=1e-4)
        assert found[name]["num"] == len(shown)
    labels = np.array([held_out[i]["label"] for i in range(500)])
    assert found["real"]["agreement"] == pytest.approx(np.mean(seen == labels))
    assert "share of ankle boot" in done.stdout


def test_drawn_images_do_not_depend_on_how_many_are_drawn(whole):
    gan = load(whole[0], GAN)
    np.testing.assert_array_equal(draw(gan, 3, 60)[:7], draw(gan, 3, 7))
    assert (draw(gan, 4, 7) != draw(gan, 3, 7)).any()


def test_stopped_and_taken_up_equals_whole(whole, tmp_path):
    folder = tmp_path / "halves"
    shutil.copytree(whole[0], folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    assert "going on from step 2 of 4" in train(folder).stdout
    assert (folder / "metrics.jsonl").read_text() == (whole[0] / "metrics.jsonl").read_text()
    for a, b in zip(weights(whole[0]), weights(folder), strict=True):
        np.testing.assert_array_equal(a, b)


def test_runs_are_not_taken_for_others(whole, trained):
    with pytest.raises(UserError, match="is a diffusion run, where a gan run is needed"):
        load(trained, GAN)
    with pytest.raises(UserError, match="is a gan run, where a diffusion or distillation or"):
        load(whole[0], DenoiserTask)


# Each is tried in the one process that these share: starting one takes longer than all of them.
WRONG = {
    "no latent": ("--model=dcgan(latent=0)", "latent must be above 0"),
    "a size that two levels do not reach": ("--image_size=30", "divisible by 4"),
    "more levels than that": ("--model=dcgan(channels=(8,8,8))", "divisible by 8"),
    "a way up that is none": ("--model=dcgan(upsample='fractal')", "upsample is a"),
    "colour": ("--model=dcgan(image_channels=3)", "where 1 is needed: leave it out"),
    "another network": ("--model=unet", "no 'unet' in gan"),
    "an unknown loss": ("--loss=wasserstein", "non_saturating"),
    "another optimizer": ("--rate=constant", "--rate=constant does nothing here"),
    "a penalty below 0": ("--r1=-1", "r1"),
    "a common clip": ("--grad_clip=0.5", "leave it out"),
    "a run for a judge": ("--judge={trained}", "where a classifier run is needed"),
    "no judge": ("--judge={tmp}/none", "is no run folder"),
    "a judge of other images": ("--judge={small}", "knows images of 8x8x1"),
    "a judge of other classes": ("--judge={three}", "knows 3 classes"),
    "an unknown preset": ("--preset=smoky", "smoke"),
}


def test_mistakes(trained, tmp_path):
    small = untrained_judge(tmp_path / "small")
    three = untrained_judge(tmp_path / "three", size=28)
    places = {
        "trained": trained, "small": small, "three": three, "tmp": tmp_path,
    }  # fmt: skip
    asked = [
        [f"--workdir={tmp_path}/new", *flag.format(**places).split()] for flag, _ in WRONG.values()
    ]
    for (name, (_, message)), said in zip(WRONG.items(), calls("gan", *asked), strict=True):
        assert "refused:" in said, f"{name}: {said}"
        assert message in said, f"{name}: {said}"
    assert not (tmp_path / "new").exists()


def test_its_flags_txt_is_taken_again(whole):
    folder, _ = whole
    done = program("gan", f"--flagfile={folder}/flags.txt", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "done: step 4" in done.stdout


@pytest.mark.slow
def test_two_devices_learn_as_one(whole, tmp_path):
    train(tmp_path / "two", devices=2)
    for a, b in zip(weights(whole[0]), weights(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_the_smoke_preset_alone_draws_and_reports(tmp_path):
    done = program("gan", "--preset=smoke", f"--workdir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
