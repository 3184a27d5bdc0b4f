"""Draws of tiny pipelines against the library's parts, and how often their loop is compiled."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import python
from tiny_pipeline import SCHEDULER

import diffjax as dj
from diffjax.guidance import classifier_free, guided, versus
from diffjax.pipelines.prompts import condition
from diffjax.pipelines.stage import FirstStage
from diffjax.samplers import base

ROOT = pathlib.Path(__file__).parent.parent.parent
KEY = jax.random.key(3)
TEXTS, NEGATIVES = ["a cat", "red"], ["b"]
LATENTS = jax.random.normal(jax.random.key(5), (2, 4, 4, 4))
IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
KEEP = np.zeros((8, 8, 1), bool)
KEEP[:, :5] = True
STEPS = 5
# DDPM's indices 801, 601 ... 1, whose last step ends at index 0: steps_offset and set_alpha_to_one.
TIMES = (np.asarray([801, 601, 401, 201, 1, 0], np.float32) + 1) / 1000

COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name) if "backend_compile" in name else None
)


def parts(pipe, x, times, scale, shown=None):
    """The same draw from the library's parts: DDIM's walk of the guided denoiser, decoded."""
    process = pipe.scheduler.process
    sizes = (8, 8) if pipe.prompts.pools else None
    conds = [condition(told, sizes) for told in pipe.prompts(TEXTS, 2 * NEGATIVES)]

    def apply(variables, x, t, cond):
        given = x if shown is None else jnp.concatenate([x, shown], -1)
        return pipe.unet.apply(variables, given, t, cond)

    @jax.jit
    def drawn(params, stage_params, conds, x):
        pair = versus(*(process.denoiser(apply, params, cond) for cond in conds))
        denoise = guided(pair, scale, classifier_free)
        keys = dj.sample_keys(KEY, 0, len(x))
        x0, _ = base.sample(dj.samplers.DDIM(), process.schedule, denoise, keys, x, times)
        z, stage = x0 / pipe.stage.model.scaling_factor, {"params": stage_params}
        return jnp.clip(pipe.stage.model.apply(stage, z, method="decode"), -1, 1)

    return drawn(pipe.unet_params, pipe.stage.params, conds, x)


@pytest.mark.parametrize("kind", ["pipe", "xl"])
def test_a_draw_is_what_the_parts_give(kind, request):
    pipe = request.getfixturevalue(kind)
    found = pipe.sample(TEXTS, NEGATIVES, [1.0, 4.0], STEPS, latents=LATENTS)
    assert (found.shape, found.dtype) == ((2, 8, 8, 3), jnp.float32)
    expected = parts(pipe, LATENTS, jnp.asarray(TIMES), jnp.asarray([1.0, 4.0]))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    for texts, negatives, scale in (
        (TEXTS[::-1], NEGATIVES, 4.0),
        (TEXTS, ["other"], 4.0),
        (TEXTS, NEGATIVES, 2.0),
        (TEXTS, None, 4.0),
    ):
        other = pipe.sample(texts, negatives, [1.0, scale], STEPS, latents=LATENTS)
        assert float(jnp.abs(other - found)[1].max()) > 1e-3, (texts, negatives, scale)
    # Away from what is wanted itself nothing moves.
    alone = pipe.sample(TEXTS, None, 1.0, STEPS, latents=LATENTS)
    same = pipe.sample(TEXTS, TEXTS, 4.0, STEPS, latents=LATENTS)
    np.testing.assert_allclose(same, alone, atol=1e-4)


def test_what_texts_become(pipe, xl):
    """The last states after their norm; for SDXL those of the layer before, and the second text."""

    def states(encoder, method):
        apply = jax.jit(functools.partial(encoder.model.apply, method=method))
        return apply({"params": encoder.params}, encoder.tokenizer(TEXTS))

    found, _ = pipe.prompts(TEXTS, None)
    (encoder,) = pipe.prompts.encoders
    expected = states(encoder, "text_states").last_hidden_state
    np.testing.assert_allclose(found.tokens, expected, atol=1e-5)
    assert found.pooled is None
    found, _ = xl.prompts(TEXTS, None)
    both = [states(each, "text_states").hidden_states[-2] for each in xl.prompts.encoders]
    np.testing.assert_allclose(found.tokens, jnp.concatenate(both, -1), atol=1e-5)
    pooled = states(xl.prompts.encoders[1], "encode_text")
    np.testing.assert_allclose(found.pooled, pooled, atol=1e-5)


def test_without_a_negative_prompt(pipe, xl):
    """The empty text; SDXL's folder says zeros."""
    options = {"guidance": 4.0, "steps": STEPS, "latents": LATENTS}
    empty, none = (pipe.sample(TEXTS, negatives, **options) for negatives in ([""], None))
    np.testing.assert_array_equal(none, empty)
    for told in xl.prompts(TEXTS, None)[1]:
        assert not told.any()
    assert all(told.any() for told in xl.prompts(TEXTS, ["", ""])[1])


def test_one_compilation_serves_all_prompts_scales_and_steps(pipe):
    pipe.sample(TEXTS, NEGATIVES, 4.0, STEPS, key=KEY)
    before = len(COMPILED)
    pipe.sample(["quite", "others"], ["x", "y"], [1.0, 9.0], 17, key=jax.random.key(8))
    pipe.sample(TEXTS, None, 1.0, 100, key=KEY)
    assert len(COMPILED) == before
    pipe.sample(TEXTS[:1], steps=STEPS)
    assert len(COMPILED) > before, "compilations are not counted"


def test_images_that_are_drawn_anew(pipe):
    """The last two of five steps, from the images noised to where these begin."""
    x0 = pipe.stage.x0(IMAGES)
    x = pipe.scheduler.process.q_sample(x0, LATENTS, jnp.asarray(TIMES[3]))
    options = {"latents": LATENTS, "images": IMAGES, "strength": 0.4}
    found = pipe.sample(TEXTS, NEGATIVES, 4.0, STEPS, **options)
    expected = parts(pipe, x, jnp.asarray(TIMES[3:]), jnp.full(2, 4.0))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    one = pipe.sample(TEXTS, NEGATIVES, 4.0, STEPS, **{**options, "images": IMAGES[:1]})
    np.testing.assert_allclose(one[0], found[0], atol=1e-5)
    assert float(jnp.abs(one - found)[1].max()) > 1e-2


def test_a_unet_that_paints_is_shown_what_is_kept(painter):
    """A latent stands for two pixels a side, of which the first counts: of five columns three."""
    kept = painter.stage.x0(np.where(KEEP, IMAGES, np.float32(0)))
    shown = jnp.concatenate([jnp.zeros((2, 4, 4, 1)).at[:, :, 3:].set(1), kept], -1)
    options = {"latents": LATENTS, "images": IMAGES, "keep": KEEP}
    found = painter.sample(TEXTS, NEGATIVES, 4.0, STEPS, **options)
    expected = parts(painter, LATENTS, jnp.asarray(TIMES), jnp.full(2, 4.0), shown)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_another_unet_paints_around_latents_that_stay(pipe, monkeypatch):
    """Those whose pixels are all kept: of five columns two. The rest is drawn by the key.

    PNDM's last step ends above t = 0, where what is kept has a little noise.
    """
    pndm = {**SCHEDULER, "_class_name": "PNDMScheduler", "skip_prk_steps": True}
    pipe = dataclasses.replace(pipe, scheduler=dj.scheduler_from_config(pndm))
    drawn, decode = [], FirstStage.images
    monkeypatch.setattr(FirstStage, "images", lambda self, x0: decode(self, drawn.append(x0) or x0))
    for seed in (0, 1):
        options = {"steps": STEPS, "images": IMAGES, "keep": KEEP}
        pipe.sample(TEXTS, key=jax.random.key(seed), **options)
    x0, (found, other) = pipe.stage.x0(IMAGES), drawn
    np.testing.assert_array_equal(found[:, :, :2], x0[:, :, :2])
    assert float(jnp.abs(found - x0)[:, :, 2:].min()) > 0
    assert float(np.abs(found - other)[:, :, 2:].min()) > 0


def test_another_sampler_takes_its_own_noise_whatever_the_batch(pipe):
    options = {"steps": 3, "sampler": "ddpm", "key": KEY}
    found = pipe.sample(TEXTS, **options)
    np.testing.assert_allclose(pipe.sample(TEXTS, batch_size=1, **options), found, atol=1e-5)
    by_object = pipe.sample(TEXTS, steps=3, sampler=dj.samplers.DDPM(), key=KEY)
    np.testing.assert_array_equal(by_object, found)
    for change in ({"key": jax.random.key(4)}, {"spacing": dj.spacings.Leading()}):
        other = pipe.sample(TEXTS, **{**options, **change})
        assert float(jnp.abs(other - found).max()) > 1e-2, change


def test_bfloat16(folder, pipe):
    half = dj.load_pipeline(folder, dtype="bfloat16")
    trees = half.unet_params, half.prompts.encoders[0].params
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trees)} == {"bfloat16"}
    near, exact = (each.sample(TEXTS, None, 2.0, 2, latents=LATENTS) for each in (half, pipe))
    error = np.abs(near - exact)
    assert 0 < error.mean() < 0.02


CUT = """
import json, sys
import jax, numpy as np
import diffjax as dj
from diffjax.pipelines import placement
placement.SMALL = 64
pipe = dj.load_pipeline(sys.argv[1], cut=True)
shards = [s for leaf in jax.tree.leaves(pipe.unet_params) for s in leaf.addressable_shards]
held = [sum(s.data.nbytes for s in shards if s.device == device) for device in jax.devices()]
latents = jax.random.normal(jax.random.key(5), (2, 4, 4, 4))
images = pipe.sample(["a cat", "red"], ["b"], 4.0, 5, latents=latents)
print(json.dumps([held, np.asarray(images).tolist()]))
"""


def test_weights_cut_among_devices_draw_the_same_images(folder, pipe):
    """On four, each of which holds a quarter of them and what is too small to be cut."""
    done = python(CUT, str(folder), devices=4)
    assert done.returncode == 0, done.stderr
    held, images = json.loads(done.stdout)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(pipe.unet_params))
    assert max(held) == min(held) < 0.35 * whole
    expected = pipe.sample(TEXTS, NEGATIVES, 4.0, STEPS, latents=LATENTS)
    np.testing.assert_allclose(images, expected, atol=1e-4)
