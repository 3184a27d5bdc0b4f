"""What a text-to-image run is told: closed forms, texts against vectors, and what is refused."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from towers import LENGTH, tiny_towers

from diffjax import runs
from diffjax.conditions.tokens import Tokens
from diffjax.conditions.vector import Vector
from diffjax.errors import UserError
from diffjax.models.course_unet import CourseUNet
from diffjax.models.unet import UNet
from diffjax.models.unet_condition import ConditionalUNet
from diffjax.randomness import sample_keys
from diffjax.schedules.cosine import Cosine
from diffjax.tasks.base import Asked, Source, params_of, shapes
from diffjax.tasks.text_to_image import TextToImage, fitted

DIM = 4
RNG = np.random.RandomState(0)
IMAGES, TEXTS = (RNG.normal(m, 1, (50, DIM)).astype(np.float32) for m in (3, -3))
ROWS = {"image": IMAGES, "text": TEXTS}
BLOCKS = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
NET = UNet(
    in_channels=1, out_channels=1, mid_block_type=None, down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",), cond_dim=DIM, **BLOCKS,
)  # fmt: skip
TOKEN_NET = ConditionalUNet(
    in_channels=1, out_channels=1, mid_block_type=None, cross_attention_dim=8,
    attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",), **BLOCKS,
)  # fmt: skip
CLIP = Source("somewhere", "clip", "0" * 64)
TOWERS = tiny_towers()


def task_of(told="image", normalise=True, shift=True, noise=0.0, drop=0.1, **options):
    tokens = told == "tokens"
    found = fitted(ROWS, told, normalise=normalise, shift=shift, noise=noise)
    parts = {
        "model": TOKEN_NET if tokens else NET,
        "condition": Tokens(LENGTH, 8, drop=drop) if tokens else Vector(DIM, drop=drop),
        "image_shape": (8, 8, 1), "schedule": Cosine(), "target": "v", "clip": CLIP, "told": told,
        "normalise": normalise, "shift": shift, "noise": noise, **found, **options,
    }  # fmt: skip
    return TextToImage(**parts)


def components_of(task):
    params = jax.tree.map(
        lambda leaf: jnp.asarray(RNG.normal(0, 0.3, leaf.shape), jnp.float32), shapes(task, {})
    )
    return {"clip": TOWERS, **runs.trained_components(task, params)}


def told_by(task, vectors, seed=0):
    keys = sample_keys(jax.random.key(seed), 0, len(vectors))
    batch = {"image": jnp.zeros((len(vectors), 8, 8, 1)), "vector": jnp.asarray(vectors)}
    return np.asarray(task.encoded({}, {}, keys, batch)["vector"])


@pytest.mark.parametrize("told", ["image", "text"])
def test_the_network_is_told_unit_vectors_about_their_mean(told):
    rows = ROWS[told]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True) * math.sqrt(DIM)
    found = told_by(task_of(told), rows)
    np.testing.assert_allclose(found, unit - unit.mean(0), atol=2e-3)
    np.testing.assert_allclose(told_by(task_of(told, shift=False), rows), unit, atol=1e-5)
    own = told_by(task_of(told, normalise=False), rows)
    np.testing.assert_allclose(own, rows - rows.mean(0), atol=2e-3)
    course = told_by(task_of(told, normalise=False, shift=False), rows)
    np.testing.assert_array_equal(course, rows)


def test_the_gap_between_images_and_texts_is_closed():
    task = task_of()
    means = [np.asarray(task.prepared(ROWS[name], name)).mean(0) for name in ROWS]
    np.testing.assert_allclose(means, 0, atol=2e-3)
    apart = task_of(shift=False)
    means = [np.asarray(apart.prepared(ROWS[name], name)).mean(0) for name in ROWS]
    assert np.abs(means[0] - means[1]).min() > 1


def test_noise_has_the_embeddings_spread_and_a_key_per_sample():
    rows = np.repeat(IMAGES * [1, 2, 3, 0], 100, 0).astype(np.float32)
    spread = rows.std(0)
    plain = {"normalise": False, "shift": False}
    task = task_of(**plain, noise=0.5, spread=tuple(spread.tolist()))
    added = told_by(task, rows) - rows
    np.testing.assert_allclose(added.std(0), 0.5 * spread, rtol=0.05, atol=1e-6)
    np.testing.assert_allclose(added.mean(0), 0, atol=0.1)
    np.testing.assert_array_equal(told_by(task, rows)[:7], told_by(task, rows[:7]))
    assert (told_by(task, rows, seed=1) != told_by(task, rows)).any()
    found = fitted(ROWS, "image", **plain, noise=1.0)["spread"]
    np.testing.assert_allclose(found, IMAGES.std(0), rtol=1e-3)


def test_a_condition_is_dropped_whole_with_its_sample():
    condition = task_of(drop=0.3).condition
    keys = sample_keys(jax.random.key(0), 0, 2000)
    hidden = np.asarray(condition.hide(keys, jnp.ones((2000, DIM)))) == 0
    assert (hidden.all(1) == hidden.any(1)).all()
    assert hidden[:, 0].mean() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("told", ["image", "text"])
def test_texts_draw_as_their_vectors_do(told):
    task = task_of(told)
    components = components_of(task)
    texts = ["a red apple", "a dog, happy"]
    vectors = np.asarray(task.prepared(TOWERS.texts(texts), "text"))
    key, options = jax.random.key(0), {"num": 3, "steps": 2, "guidance": 3.0}
    drawn, given = (
        task.sample(components, key, Asked(labels=labels, **options)).images
        for labels in (texts, vectors)
    )
    np.testing.assert_array_equal(drawn, given)
    other = task.sample(components, key, Asked(labels=["a cat"], **options)).images
    assert np.abs(other - drawn).max() > 1e-4
    away = Asked(labels=texts, negative=["a cat"], **options)
    assert np.abs(task.sample(components, key, away).images - drawn).max() > 1e-4


def test_tokens_beyond_the_end_of_a_text_count_for_nothing():
    """A text's images are those of a tower that is given no padding at all."""
    task = task_of("tokens")
    components = components_of(task)
    cond = task.cond_of(components, ["dog"], 1)
    assert cond.tokens.shape == (1, LENGTH, 8)
    assert cond.mask.tolist() == [[True] * 3 + [False] * (LENGTH - 3)]
    params, x, t = components["denoiser"].params, jnp.ones((1, 8, 8, 1)), jnp.ones(1)
    short = type(cond)(cond.tokens[:, :3], cond.mask[:, :3])
    whole, cut = (TOKEN_NET.apply({"params": params}, x, t, c) for c in (cond, short))
    np.testing.assert_allclose(whole, cut, atol=1e-5)
    ids = jnp.asarray(TOWERS.tokenizer(["dog"]))
    states = TOWERS.model.apply({"params": TOWERS.params}, ids, method="text_states")
    np.testing.assert_allclose(cond.tokens[0, :3], states.last_hidden_state[0, :3], atol=1e-6)
    images = task.sample(components, jax.random.key(0), Asked(labels=["dog"], steps=2)).images
    assert np.isfinite(images).all()


def test_the_loss_needs_no_tower():
    """So that a step carries none of its weights."""
    task = task_of()
    params = jax.jit(task.init)(jax.random.key(0), {})
    keys = sample_keys(jax.random.key(0), 0, 4)
    batch = {"image": jnp.zeros((4, 8, 8, 1)), "vector": jnp.asarray(IMAGES[:4])}
    loss, _ = task.loss({"clip": TOWERS}).function(params, {}, keys, batch, lambda x: x)
    assert np.isfinite(loss)
    assert "clip" in task.drawing_only


def test_the_figures_are_part_of_what_a_run_is():
    task = task_of()
    moved = tuple(value + 1 for value in task.text_mean)
    names = {
        runs.RunConfig(one, runs.Training()).name()
        for one in (task, dataclasses.replace(task, text_mean=moved))
    }
    assert len(names) == 2
    again = TextToImage.from_dict(task.to_dict())
    assert again == task


def test_the_course_s_network_has_as_many_parameters_as_there():
    model = CourseUNet(
        in_channels=3, out_channels=3, sample_size=32, channels=(256, 256, 512), time_scale=400,
        cond_dim=512,
    )  # fmt: skip
    task = task_of(
        model=model, condition=model.takes(0.1), image_shape=(32, 32, 3), shift=False,
        normalise=False,
    )  # fmt: skip
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(task, {})))
    assert count == 44_900_355
    assert params_of(components_of(task_of())).keys() == {"clip", "denoiser"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: task_of("tokens", model=NET, condition=Vector(DIM)), "choose a unet_condition"),
        (lambda: task_of(model=TOKEN_NET, condition=Tokens(8, 8)), "choose a unet or course_unet"),
        (lambda: task_of("tokens", condition=Tokens(8, 8, padded=True)), "with padded=True"),
        (lambda: task_of(noise=-1.0), "noise is 0 or above"),
        (lambda: task_of("tokens", noise=1.0), "on embeddings alone"),
        (lambda: task_of(text_mean=()), "text_mean has 0 numbers, where 4 are needed"),
        (lambda: task_of(shift=False, image_mean=(0.0,) * 4), "where 0 are needed"),
        (lambda: draw(None), "give labels, a list of texts"),
        (lambda: draw("a cat"), "a list of one or more texts"),
        (lambda: draw([]), "a list of one or more texts"),
        (lambda: draw(["a cat", "  "]), "is no text to draw from"),
        (lambda: draw([3]), "3 is no text to draw from"),
        (lambda: draw(np.zeros((1, 3), np.float32)), r"takes \(4,\)"),
    ],
)
def test_refused(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def draw(labels):
    return task_of().cond_of({"clip": TOWERS}, labels, 1)
