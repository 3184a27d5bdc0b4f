"""Latents are computed once, scaled to unit variance, and learnt in the place of images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.checksum import checksum
from diffjax.data import batches
from diffjax.data.bad import BadRecord
from diffjax.data.base import ArrayRecords
from diffjax.errors import UserError
from diffjax.models.vae import VAE
from diffjax.spaces.latents import Latents
from diffjax.tasks import latent_cache
from diffjax.tasks.base import Component
from diffjax.tasks.latent_cache import LatentCache, latent_shape, measured, space_of

FORM, COUNT = (8, 8, 1), 70
RNG = np.random.RandomState(0)
PIXELS = RNG.randint(0, 256, (COUNT, *FORM), np.uint8)
LABELS = np.arange(COUNT) % 3
TEXTS = [f"picture {i}" for i in range(COUNT)]
RECORDS = ArrayRecords(PIXELS, LABELS, FORM, 3, texts=TEXTS)
MODEL = VAE(sample_size=8, channels=(8,), latent_channels=3)


def stage(seed=0):
    images = jnp.zeros((1, *FORM))
    return Component(MODEL, jax.jit(MODEL.init)(jax.random.key(seed), images)["params"])


STAGE = stage()


@pytest.fixture
def cache(tmp_path):
    return LatentCache(
        RECORDS, STAGE, checksum(STAGE.params), ("some", "None"), tmp_path, say=lambda line: None
    )


def test_moments_are_the_stages(cache):
    found = cache.load()
    images = jnp.stack([jnp.asarray(RECORDS[i]["image"]) for i in range(COUNT)])
    mean, log_variance = MODEL.apply({"params": STAGE.params}, images, method="encode")
    np.testing.assert_allclose(found.moments[..., :3], mean, atol=1e-5)
    np.testing.assert_allclose(found.moments[..., 3:], log_variance, atol=1e-5)
    assert (found.image_shape, len(found), found.num_classes) == (FORM, COUNT, 3)
    batch = next(batches(found, 4, 0))
    assert batch.keys() == {"moments", "label", "text"}
    row = TEXTS.index(batch["text"][0])
    assert batch["label"][0] == LABELS[row]
    np.testing.assert_array_equal(batch["moments"][0], found.moments[row])


def test_computed_once_for_the_same_stage_and_data(cache, monkeypatch):
    made, calls = cache.load(), []
    own = latent_cache.moments_of
    spied = lambda *given: calls.append(1) or own(*given)  # noqa: E731
    monkeypatch.setattr(latent_cache, "moments_of", spied)
    np.testing.assert_array_equal(cache.load().moments, made.moments)
    assert not calls
    other = stage(1)
    for change in (
        {"stage": other, "digest": checksum(other.params)},
        {"data": ("some", "16")},
        {"records": dataclasses.replace(RECORDS, pixels=PIXELS[1:], labels=LABELS[1:])},
    ):
        calls.clear()
        dataclasses.replace(cache, **change).load()
        assert calls, change


def test_scaled_latents_have_mean_0_and_variance_1(cache):
    records = cache.load()
    # Posteriors that are far from N(0, I), so that the scale has something to do.
    moments = np.concatenate([5 + 3 * records.moments[..., :3], np.full((COUNT, 1, 1, 3), 0.5)], -1)
    records = dataclasses.replace(records, moments=moments.astype(np.float32))
    space = space_of(records, measured(records), (1, 1, 3))
    assert isinstance(space, Latents)
    assert (space.channels, space.factor) == (3, 8)
    mean, log_variance = (jnp.tile(x, (200, 1, 1, 1)) for x in np.split(moments, 2, axis=-1))
    x0 = space.drawn(jax.random.split(jax.random.key(0), len(mean)), mean, log_variance)
    assert np.mean(x0) == pytest.approx(0, abs=0.01)
    assert np.var(x0) == pytest.approx(1, abs=0.02)


class Bad(ArrayRecords):
    def __getitem__(self, index):
        if index == 5:
            raise BadRecord("record 5 is damaged", "mend it")
        return super().__getitem__(index)


def test_a_bad_record_has_no_latents(cache):
    records = Bad(PIXELS, LABELS, FORM, 3)
    with pytest.raises(UserError, match="record 5 is damaged"):
        dataclasses.replace(cache, records=records).load()
    found = dataclasses.replace(cache, records=records, max_bad_records=1).load()
    assert np.flatnonzero(~found.good).tolist() == [5]
    with pytest.raises(BadRecord, match="record 5 has no latents"):
        found[5]
    assert np.isfinite(measured(found)).all()


@pytest.mark.parametrize(
    ("form", "message"),
    [((8, 8, 3), "takes images of 1 channels, and these have 3"), ((9, 9, 1), "resize them to 8")],
)
def test_images_that_the_stage_does_not_take(form, message):
    with pytest.raises(UserError, match=message):
        latent_shape(STAGE, form)


def test_latents_of_a_file_with_other_shapes_are_computed_again(cache):
    made, said = cache.load(), []
    np.savez(cache.path, moments=made.moments[:3], good=made.good, sample="")
    dataclasses.replace(cache, say=said.append).load()
    assert "is not used" in said[0]
