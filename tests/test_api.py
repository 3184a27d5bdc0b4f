"""`import diffjax as dj`: what a notebook sees."""

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax as dj
from diffjax import runs
from diffjax.models.unet import UNet
from diffjax.tasks.denoisers import drawing
from diffjax.tasks.diffusion import Diffusion
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.run import RunFolder
from diffjax.training.step import TrainState

NET = UNet(
    in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
    mid_block_type=None, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    num_class_embeds=4,
)  # fmt: skip
TASK = Diffusion(
    model=NET, image_shape=(8, 8, 1), schedule=dj.schedules.Cosine(), target="v",
    condition=dj.conditions.Label(3, drop=0.1),
)  # fmt: skip
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of random weights, loaded."""
    like = jax.eval_shape(lambda: TASK.init(KEY, {}))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), like)
    state = TrainState(np.int32(7), params, params, {}, {})
    config = runs.RunConfig(TASK, runs.Training())
    path = tmp_path_factory.mktemp("runs") / "one"
    with (
        RunFolder.create(path, config.to_dict(), "") as folder,
        Checkpoints(folder.checkpoints) as checkpoints,
    ):
        checkpoints.save(7, state, {})
    return dj.load(path)


def test_importing_it_imports_nothing_heavy():
    code = "import sys, diffjax; print(sorted({'jax', 'flax', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_that_is_named_is_there():
    assert set(dj.__all__) <= set(dir(dj))
    for name in dj.__all__:
        assert getattr(dj, name) is not None, name
    assert {"Cosine", "Linear"} <= set(dir(dj.schedules))
    assert dj.samplers.DDIM(eta=0.5).eta == 0.5
    for missing in (lambda: dj.nothing, lambda: dj.schedules.Nothing, lambda: dj.samplers.nothing):
        with pytest.raises(AttributeError, match="othing"):
            missing()


def test_a_run_is_a_task_and_components(run):
    assert run.step == 7
    assert run.task == TASK
    denoiser = run["denoiser"]
    assert (denoiser.model, denoiser.source, denoiser.trained) == (NET, None, True)
    assert denoiser.spec.startswith("unet(")
    with pytest.raises(dj.UserError, match="it has denoiser"):
        run["vae"]


def test_samples_are_float_images_and_depend_on_the_key_alone(run):
    images = run.sample(KEY, labels=[0, 2, 1], steps=3)
    assert (images.shape, images.dtype) == ((3, 8, 8, 1), jnp.float32)
    assert float(jnp.abs(images).max()) <= 1
    chex.assert_trees_all_close(
        run.sample(KEY, labels=[0, 2, 1], steps=3, batch_size=2), images, atol=1e-5
    )
    chex.assert_trees_all_close(run.sample(KEY, labels=[0, 2], steps=3), images[:2], atol=1e-5)
    assert float(jnp.abs(run.sample(jax.random.key(1), num=3, steps=3) - images).max()) > 0.1
    by_object = run.sample(KEY, labels=[0, 2, 1], steps=3, sampler=dj.samplers.DDIM())
    chex.assert_trees_all_equal(by_object, images)


def test_film(run):
    images, film = run.sample(KEY, num=3, steps=4, film=True)
    assert film.shape == (4, 3, 8, 8, 1)
    chex.assert_trees_all_equal(film[-1], images)


def test_a_draw_is_what_the_parts_give(run):
    """run.sample is dj.sample of the process's denoiser, bounded and guided."""
    process, params = run.task.process, run["denoiser"].params
    labels = jnp.asarray([0, 1, 2])
    keys = dj.sample_keys(KEY, 0, 3)

    @jax.jit
    def drawn(params):
        given, null = (process.denoiser(NET.apply, params, c) for c in (labels, jnp.full(3, 3)))
        scale = jnp.asarray([1.0, 2.0, 4.0])
        pair = dj.guidance.versus(given, null)
        denoise = dj.guidance.guided(pair, scale, dj.guidance.classifier_free)
        bounded = dj.guidance.clip_x0(denoise, process.schedule)
        return dj.sample(bounded, dj.samplers.DDIM(), process.schedule, keys, (8, 8, 1), steps=3)

    found = run.sample(KEY, labels=[0, 1, 2], steps=3, guidance=[1.0, 2.0, 4.0])
    chex.assert_trees_all_close(found, drawn(params), atol=1e-4)
    plain = run.sample(KEY, labels=[0, 1, 2], steps=3)
    chex.assert_trees_all_close(found[0], plain[0], atol=1e-5)
    assert float(jnp.abs(found[2] - plain[2]).max()) > 1e-2


def test_a_second_draw_compiles_nothing(run):
    run.sample(KEY, num=2, steps=3)
    before = drawing.cache_info().misses
    run.sample(jax.random.key(5), num=2, steps=3)
    assert drawing.cache_info().misses == before


def test_a_negative_label_takes_the_place_of_the_null_one(run):
    options = {"labels": [0, 1], "steps": 3}
    away = run.sample(KEY, guidance=2.0, negative=[2], **options)
    plain, free = run.sample(KEY, **options), run.sample(KEY, guidance=2.0, **options)
    assert min(float(jnp.abs(away - other).max()) for other in (plain, free)) > 1e-2
    # Away from what is wanted itself nothing moves.
    same = run.sample(KEY, guidance=2.0, negative=[0, 1], **options)
    chex.assert_trees_all_close(same, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give num or labels"),
        ({"num": 0}, "give num or labels"),
        ({"num": 0, "labels": [1]}, "give num or labels"),
        ({"labels": np.asarray(1)}, "are no labels: give a list"),
        ({"labels": [0], "guidance": 2.0, "negative": np.asarray(1)}, "are no labels: give a list"),
        ({"num": 1, "batch_size": 0}, "batch_size=0: choose 1 or more"),
        ({"num": 1, "steps": 0}, "steps=0"),
        ({"labels": [3]}, "choose from 0 to 2"),
        ({"num": 2, "guidance": [1.0, 2.0, 3.0]}, "one finite scale, or 2"),
        ({"num": 2, "guidance": float("nan")}, "one finite scale"),
        ({"num": 2, "sampler": "dim"}, "did you mean"),
        ({"num": 2, "negative": [1]}, "negative does nothing at guidance 1"),
    ],
)
def test_refused(run, options, message):
    with pytest.raises(dj.UserError, match=message):
        run.sample(KEY, **options)


def test_a_run_of_another_kind_is_refused(run):
    with pytest.raises(dj.UserError, match="a diffusion run, where a classifier run is needed"):
        dj.load(run.folder.path, dj.tasks.Classification)
    with pytest.raises(dj.UserError, match=r"no config\.json"):
        dj.load(run.folder.path / "samples")
