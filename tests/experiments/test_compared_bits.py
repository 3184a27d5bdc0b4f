"""Bits of families that have a bound, and of the others none."""

import numpy as np
import pytest
from random_runs import random_run

from diffjax.models.unet import UNet
from diffjax.models.vae import VAE
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.flow import Flow
from diffjax.tasks.autoencoder import Autoencoding
from diffjax.tasks.base import params_of
from diffjax.tasks.diffusion import Diffusion
from experiments.measurements.compared_bits import bits_of

FORM = (8, 8, 1)
UNIFORM = 8.0  # bits of one of 256 levels that are alike
IMAGES = np.random.default_rng(0).integers(0, 256, (100, *FORM)) / 127.5 - 1


def read(keys):
    assert keys == ("image",)
    return {"image": IMAGES.astype(np.float32)}


def denoising(**options):
    spans = options.get("objective") == "mean_flow"
    model = UNet(
        in_channels=1, out_channels=1, mid_block_type=None,
        block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), spans=spans,
    )  # fmt: skip
    return Diffusion(**{
        "model": model, "image_shape": FORM, "schedule": Cosine(), "target": "v", **options
    })  # fmt: skip


def autoencoding(likelihood):
    return Autoencoding(
        model=VAE(sample_size=8, channels=(8,)), image_shape=FORM, likelihood=likelihood
    )


@pytest.mark.parametrize("task", [denoising(), autoencoding("levels")])
def test_no_bound_on_images_of_chance_is_below_that_of_all_levels_alike(tmp_path, task):
    found = bits_of(random_run(tmp_path / "run", task), read, 0)
    assert found["mean"] > UNIFORM - 3 * found["error"]
    assert 0 < found["error"] < found["mean"] / 4


def test_an_autoencoders_are_its_bound(tmp_path):
    task = autoencoding("levels")
    run = random_run(tmp_path / "run", task)
    outcome = task.tried(params_of(run.components), read(("image",))["image"], 5)
    told = bits_of(run, read, 5)
    np.testing.assert_allclose(told["mean"], task.figures(outcome)["bits_per_dim"], rtol=1e-6)
    each = (outcome.nats + outcome.nll) / (64 * np.log(2))
    np.testing.assert_allclose(told["error"], np.std(each, ddof=1) / 10, rtol=1e-5)


@pytest.mark.parametrize(
    "task",
    [
        autoencoding("gaussian"),
        denoising(objective="consistency"),
        denoising(objective="mean_flow", schedule=Flow(), target="velocity"),
    ],
)
def test_none_of_a_family_without_a_bound(tmp_path, task):
    assert bits_of(random_run(tmp_path / "run", task), read, 0) is None
