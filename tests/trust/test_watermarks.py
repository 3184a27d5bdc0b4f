"""Marks in noise: noise stays noise, the mark is found, and nothing else is taken for it."""

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from diffjax.errors import UserError
from diffjax.randomness import normal, sample_keys
from diffjax.trust.attacks import CHANGES, changed, common_pattern, shifted
from diffjax.trust.watermarks import GaussianShading, TreeRing
from diffjax.trust.watermarks.tree_ring import chance_of_highest

SHAPE = (28, 28, 1)
SHADING = GaussianShading("words", message=0b1011, bits=8, nonces=64)
KINDS = {
    "rings": TreeRing("words"),
    "outer rings": TreeRing("words", inner=7, radius=11),
    "many rings": TreeRing("words", inner=5, patterns=20),
    "latents": TreeRing("words", radius=4, channel=3),
    "message": SHADING,
    "any message": GaussianShading("words", bits=8, nonces=64),
}
MARKS = {name: mark for name, mark in KINDS.items() if name != "any message"}


def keys(count, seed=0):
    return sample_keys(jax.random.key(seed), 0, count)


def shape_of(name):
    return (12, 12, 4) if name == "latents" else SHAPE


def marked(name, count, seed=0):
    return np.asarray(KINDS[name].noise(keys(count, seed), shape_of(name)))


@pytest.mark.parametrize("name", MARKS)
def test_marked_noise_has_the_power_of_unit_noise(name):
    noise = marked(name, 400)
    assert noise.shape == (400, *shape_of(name))
    np.testing.assert_allclose(noise.mean(), 0, atol=0.02)
    np.testing.assert_allclose(noise.std((1, 2)).mean(), 1, atol=0.02)
    spectrum = np.abs(np.fft.fft2(noise, axes=(1, 2), norm="ortho")) ** 2
    np.testing.assert_allclose(spectrum.mean(), 1, atol=0.02)


def test_shaded_noise_is_normal_and_no_two_are_alike():
    noise = np.asarray(GaussianShading("words", message=11).noise(keys(300), SHAPE))
    noise = noise.reshape(300, -1)
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(noise[:, 5], "norm").pvalue > 1e-3
    correlation = np.corrcoef(noise[:40])[~np.eye(40, dtype=bool)]
    assert np.abs(correlation).max() < 0.2  # those of one nonce would agree in all signs: 0.64


def test_over_secrets_ringed_noise_is_unit_noise_away_from_its_peak():
    noise = np.stack([
        np.asarray(TreeRing(f"words {i}").noise(keys(1, i), SHAPE))[0, ..., 0] for i in range(200)
    ])  # fmt: skip
    np.testing.assert_allclose(noise.mean(), 0, atol=0.02)
    variance = noise.var(0)
    np.testing.assert_allclose(variance.mean(), 1, atol=0.02)
    edge = np.ones((28, 28), bool)
    edge[8:20, 8:20] = False
    np.testing.assert_allclose(variance[edge].mean(), 1, atol=0.1)
    np.testing.assert_allclose(np.diag(variance)[[0, 1, -2, -1]], 1, atol=0.4)


@pytest.mark.parametrize("name", MARKS)
def test_a_samples_noise_depends_on_its_key_alone(name):
    whole = marked(name, 6)
    part = np.asarray(KINDS[name].noise(keys(6)[2:4], shape_of(name)))
    np.testing.assert_allclose(part, whole[2:4], atol=1e-5)


@pytest.mark.parametrize("name", MARKS)
def test_the_mark_is_found_beneath_as_much_noise(name):
    noise = marked(name, 50) + np.asarray(normal(keys(50, 7), shape_of(name)))
    assert np.median(KINDS[name].find(noise).p_value) < 1e-4


@pytest.mark.parametrize("blur", [0, 0.7])
@pytest.mark.parametrize("name", KINDS)
def test_p_values_of_other_noise_are_uniform(name, blur):
    """Whatever its spectrum."""
    noise = np.asarray(normal(keys(1000, 3), shape_of(name)))
    noise = 3 * ndimage.gaussian_filter(noise, (0, blur, blur, 0), mode="wrap")
    p_value = KINDS[name].find(noise).p_value
    assert stats.kstest(p_value, "uniform").pvalue > 1e-3


def p_values_of_the_middle(name):
    """Of other noise, known in a tall middle part as a garment's is."""
    noise = np.asarray(normal(keys(1000, 3), SHAPE))
    known = np.zeros(SHAPE, bool)
    known[2:-2, 9:-9] = True
    return KINDS[name].find(noise * known).p_value


@pytest.mark.parametrize("name", ["rings", "outer rings"])
def test_p_values_are_uniform_where_only_the_middle_is_known(name):
    assert stats.kstest(p_values_of_the_middle(name), "uniform").pvalue > 1e-3


def test_p_values_of_many_patterns_are_no_smaller_there():
    p_value = p_values_of_the_middle("many rings")
    for level in (0.01, 0.05, 0.2):
        assert (p_value < level).mean() < level + 2 * np.sqrt(level / 1000)


@pytest.mark.slow
def test_over_secrets_p_values_of_one_picture_are_uniform():
    picture = np.linspace(-1, 3, 28)[None, :, None, None] * np.ones((1, *SHAPE))
    p_value = [
        GaussianShading(f"words {i}", bits=4, nonces=4).find(picture).p_value[0] for i in range(60)
    ]
    assert stats.kstest(p_value, "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_other_secrets_find_no_message():
    shaded = marked("message", 1)
    found = [GaussianShading(f"other {i}", nonces=4).find(shaded).p_value[0] for i in range(50)]
    assert np.mean(np.asarray(found) < 0.01) < 0.06


@pytest.mark.parametrize(
    ("weights", "chance"),
    [
        (np.eye(3), lambda m: 1 - stats.norm.cdf(m) ** 3),
        (np.array([[1.0, 0], [1, 0], [-1, 0]]), lambda m: 2 * stats.norm.sf(m)),
        (np.array([[0.6, 0.8]]), stats.norm.sf),
    ],
)
def test_the_chance_of_the_highest_of_some_products(weights, chance):
    highest = np.array([0.0, 0.5, 2.0, 6.0])
    np.testing.assert_allclose(chance_of_highest(highest, weights), chance(highest), rtol=0.05)


def test_images_share_no_more_patterns_than_there_are():
    mark = TreeRing("words", inner=5, patterns=3)
    spectrum = np.fft.fft2(np.asarray(mark.noise(keys(30), SHAPE))[..., 0])
    assert len(np.unique(np.abs(spectrum[:, 0, 7]).round(2))) == 3


def test_frequencies_within_the_inner_ring_are_left_as_they_are():
    plain = np.asarray(normal(keys(2), SHAPE))
    change = np.fft.fft2(marked("outer rings", 2) - plain, axes=(1, 2))[..., 0]
    down, right = np.meshgrid(*2 * [np.fft.fftfreq(28) * 28], indexing="ij")
    distance = np.hypot(down, right)
    assert np.abs(change[:, distance < 6.5]).max() < 1e-4
    assert np.abs(change[:, (distance > 6.5) & (distance < 11.5)]).min() > 1e-3
    assert np.abs(change[:, distance > 11.5]).max() < 1e-4


@pytest.mark.parametrize("degrees", [7, 45, 90, 180])
def test_rings_stay_when_the_noise_is_turned(degrees):
    turned = ndimage.rotate(marked("rings", 20), degrees, axes=(1, 2), reshape=False, order=1)
    assert np.median(KINDS["rings"].find(turned).p_value) < 1e-12


def test_the_message_is_read():
    noise = marked("message", 30) + 0.5 * np.asarray(normal(keys(30, 7), SHAPE))
    for name in ("message", "any message"):
        found = KINDS[name].find(noise)
        np.testing.assert_array_equal(found.bits, [[1, 1, 0, 1, 0, 0, 0, 0]] * 30)
        assert found.p_value.max() < 1e-6


def test_the_message_is_found_where_the_noise_of_most_places_is_not_known():
    noise = marked("message", 20)
    lost = np.asarray(jax.random.uniform(jax.random.key(9), noise.shape)) < 0.7
    other = 5 * np.asarray(normal(keys(20, 7), SHAPE))
    assert np.median(SHADING.find(np.where(lost, other, noise)).p_value) > 1e-3
    assert SHADING.find(np.where(lost, 0, noise)).p_value.max() < 1e-6


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_found_where_nothing_is_known(name):
    assert KINDS[name].find(np.zeros((1, *shape_of(name)), np.float32)).p_value[0] >= 0.5


def test_a_number_of_places_that_the_bits_do_not_divide():
    mark = GaussianShading("words", message=5, bits=5, nonces=8)
    noise = np.asarray(mark.noise(keys(4), (7, 7, 1)))
    found = mark.find(noise)
    np.testing.assert_array_equal(found.bits, [[1, 0, 1, 0, 0]] * 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TreeRing(""), "needs a secret"),
        (lambda: TreeRing("a", radius=0), "1 <= inner <= radius"),
        (lambda: TreeRing("a", inner=5, radius=4), "1 <= inner <= radius"),
        (lambda: TreeRing("a", patterns=0), "a pattern or more"),
        (lambda: TreeRing("a", radius=14).noise(keys(1), SHAPE), "has no such ring"),
        (lambda: TreeRing("a", channel=1).find(np.zeros((1, *SHAPE))), "has no such ring"),
        (lambda: GaussianShading("", message=1), "needs a secret"),
        (lambda: GaussianShading("a", message=256, bits=8), "a number of so many bits"),
        (lambda: GaussianShading("a", message=1, nonces=0), "a nonce or more"),
        (lambda: GaussianShading("a").noise(keys(1), SHAPE), "needs a message to mark with"),
        (lambda: GaussianShading("a", bits=64).find(np.zeros((1, 4, 4, 1))), "no room"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("channels", [1, 3])
def test_changes_keep_the_shape_and_none_keeps_the_image(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, channels), np.uint8)
    for name, change in CHANGES.items():
        made = changed(images, change)
        assert made.shape == images.shape, name
        assert made.dtype == np.uint8
        assert (name == "none") == bool((made == images).all()), name


@pytest.mark.parametrize(
    ("name", "same"), [("rings", True), ("many rings", False), ("message", False)]
)
def test_means_give_away_a_mark_that_is_the_same_in_every_image(name, same):
    def pictures(noise):
        return np.clip(np.rint(127 + 30 * noise), 0, 255).astype(np.uint8)

    def p_value(images):
        return np.median(KINDS[name].find(images.astype(np.float64) - 127).p_value)

    own = pictures(marked(name, 200))
    plain = pictures(np.asarray(normal(keys(200, 3), SHAPE)))
    pattern = common_pattern(own, plain)
    assert p_value(own) < 1e-6
    assert (p_value(shifted(own, -pattern)) > 0.05) == same
    assert (p_value(shifted(plain, pattern)) < 1e-6) == same


def test_a_shifted_image_stays_in_the_range_of_brightness():
    images = np.array([0, 100, 250], np.uint8).reshape(1, 1, 3, 1)
    made = shifted(images, np.full((1, 3, 1), 10.4))
    np.testing.assert_array_equal(made.ravel(), [10, 110, 255])
    np.testing.assert_array_equal(shifted(images, np.full((1, 3, 1), -10.4)).ravel(), [0, 90, 240])


def test_a_turned_image_is_turned():
    image = Image.new("L", (9, 9))
    image.putpixel((4, 0), 255)
    made = changed(np.asarray(image)[None, ..., None], lambda image: image.rotate(90))
    assert made[0, 4, 0, 0] == 255
