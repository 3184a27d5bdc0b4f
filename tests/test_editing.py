"""Edits on a Gaussian and a mixture, whose every conditional law is known."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import Gaussian, Mixture
from PIL import ExifTags, Image

from diffjax.editing.base import diffuse
from diffjax.editing.classify import likeliest
from diffjax.editing.image_to_image import SDEdit
from diffjax.editing.inpainting import Repaint
from diffjax.editing.interpolation import FromNoise, invert, slerp
from diffjax.editing.pictures import PARTS, kept_whole, read_mask, read_pictures, read_whole
from diffjax.editing.posterior import DPS, Coarse, Grey
from diffjax.errors import UserError
from diffjax.guidance import classifier_free, guided, versus
from diffjax.process import Process, expand
from diffjax.randomness import fold_in, normal, sample_keys
from diffjax.samplers.base import sample
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.ddpm import DDPM
from diffjax.samplers.dpmpp_2m import DPMpp2M
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.variance_exploding import VarianceExploding
from diffjax.spacings.trailing import Trailing

SCHEDULES = (Cosine(), Flow(), VarianceExploding())
by_name = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__.lower())
SHAPE = (4, 4, 1)
# Components far enough apart that a part of an image tells which it is of.
MIXTURE = {"means": (-0.5, 0.2, 0.6), "stds": (0.3, 0.4, 0.25)}


def keys_of(count, first=0):
    return sample_keys(jax.random.key(0), first, count)


@jax.jit(static_argnames=("schedule", "oracle"))
def draw(edit, schedule, oracle, keys, times):
    x = edit.start(schedule, fold_in(keys, 0), times[0])
    return sample(edit, schedule, oracle.denoise, fold_in(keys, 1), x, times)[0]


def edited(edit, oracle, steps, keys):
    schedule = oracle.schedule
    times = jnp.asarray(edit.times(Trailing().times(schedule, steps)))
    return np.asarray(draw(edit, schedule, oracle, keys, times), np.float64)


def many(image, count):
    return jnp.repeat(jnp.asarray(image)[None], count, 0)


@by_name
def test_a_rising_step_is_the_forward_process(schedule):
    """Of q(x_s | x_t) the mean is alpha_s / alpha_t x; with x_t's own noise it has sigma_s² in all.

    From alpha and sigma in float64, at t = 0 and s = 1 too.
    """
    keys, x = keys_of(2000), jnp.full((2000, *SHAPE), 0.7)
    for t, s in ((0.0, 0.0), (0.0, 0.4), (0.0, 1.0), (0.2, 0.7), (0.9, 1.0), (0.5, 0.5)):
        out = diffuse(schedule, keys, x, jnp.asarray(t), jnp.asarray(s))
        (alpha, sigma), (alpha_s, sigma_s) = (
            [float(c) for c in schedule.alpha_sigma(jnp.asarray(u))] for u in (t, s)
        )
        ratio = alpha_s / alpha
        std = np.sqrt(max(sigma_s**2 - (ratio * sigma) ** 2, 0))
        np.testing.assert_allclose(out.mean(), ratio * 0.7, atol=5 * std / np.sqrt(out.size) + 1e-6)
        np.testing.assert_allclose(out.std(), std, rtol=5 / np.sqrt(2 * out.size), atol=1e-5)
    np.testing.assert_array_equal(diffuse(schedule, keys, x, jnp.zeros(()), jnp.zeros(())), x)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 5))
def test_the_walk_of_jumps(steps, jump, resample):
    """Down one time after the other, up by `jump`, and each stretch as often as it should be."""
    x = jnp.zeros((1, *SHAPE))
    edit = Repaint(DDPM(), x, x > 0, jump, resample)
    times = np.linspace(1, 0, steps + 1, dtype=np.float32)
    walk = edit.times(times)
    at = np.searchsorted(times[::-1], walk)
    moves = np.diff(at)
    assert (at[0], at[-1]) == (steps, 0)
    assert set(moves) <= {-1, jump}
    assert 0 not in at[:-1]
    stretches = (steps - 1) // jump
    assert (moves == jump).sum() == (resample - 1) * stretches
    passed = np.bincount(at[:-1][moves == -1], minlength=steps + 1)[1:]  # falls, by their start
    np.testing.assert_array_equal(passed[1 : 1 + jump * stretches], resample)
    assert (np.delete(passed, range(1, 1 + jump * stretches)) == 1).all()


def test_the_walk_of_jumps_by_hand():
    x = jnp.zeros((1, *SHAPE))
    walk = Repaint(DDPM(), x, x > 0, jump=2, resample=2).times(np.arange(6, -1, -1, np.float32))
    assert walk.tolist() == [6, 5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]


LEFT = np.arange(4) < 1


@pytest.fixture(scope="module")
def known():
    """An image of the first component, which its left column gives away."""
    return np.asarray(Mixture(Cosine(), **MIXTURE).centres(SHAPE))[0]


def repainted(known, inner, jump, resample, keys, schedule=None):
    oracle = Mixture(schedule or Cosine(), **MIXTURE)
    keep = jnp.broadcast_to(LEFT[:, None], (len(keys), *SHAPE))
    return edited(Repaint(inner, many(known, len(keys)), keep, jump, resample), oracle, 50, keys)


def test_repaint_finds_what_belongs_to_the_known_part(known):
    """Resampling brings the rest near its conditional law, here the first component's.

    Each image of another component, 0.7 or more away, moves the mean: with resampling it was 0.06
    to 0.09 off, which is one image in ten, and without 0.36 to 0.4.
    """
    rest = known[:, ~LEFT]
    gaps, spreads = [], []
    for resample in (1, 10):
        out = repainted(known, DDPM(), 5, resample, keys_of(200))
        np.testing.assert_array_equal(out[:, :, LEFT], many(known[:, LEFT], 200))
        gap = out[:, :, ~LEFT] - rest
        gaps.append(np.abs(gap.mean(0)).mean())
        spreads.append(np.sqrt((gap**2).mean()))
    assert gaps[1] < 0.13 < 0.3 < gaps[0], gaps
    assert spreads[1] < 0.4 < 0.55 < spreads[0], spreads  # 0.3 is the component's own


@by_name
def test_repaint_around_a_solver_with_a_memory(known, schedule):
    """Known pixels stay to the bit in every schedule, and nothing depends on the batch."""
    whole = repainted(known, DPMpp2M(), 10, 2, keys_of(3), schedule)
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(whole[:, :, LEFT], many(known[:, LEFT], 3))
    part = repainted(known, DPMpp2M(), 10, 2, keys_of(1, first=2), schedule)
    np.testing.assert_allclose(part, whole[2:], atol=1e-5)


def test_a_rise_forgets_the_path_that_is_left(known):
    oracle, inner, x = Gaussian(Cosine()), DPMpp2M(), many(known, 2)
    edit = Repaint(inner, x, jnp.broadcast_to(LEFT[:, None], x.shape))
    times = [jnp.asarray(t) for t in (0.5, 0.4, 0.5)]
    memory = begun = edit.init(x, jnp.asarray(2))
    for t, s in itertools.pairwise(times):
        x, memory = edit.step(oracle.schedule, oracle.denoise, keys_of(2), x, memory, t, s)
    chex.assert_trees_all_equal(memory, begun)


@by_name
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_sdedit_is_the_flow_from_the_noised_guide(schedule, strength):
    """By the flow from q(x_t0 | guide): on a Gaussian a Gaussian, whose moments are known."""
    oracle, guide = Gaussian(schedule), 0.9
    keys = keys_of(300)
    out = edited(SDEdit(DDIM(), jnp.full((300, *SHAPE), guide), strength), oracle, 300, keys)
    alpha, sigma = (float(c) for c in schedule.alpha_sigma(jnp.asarray(strength)))
    std = 0.5 * sigma / np.sqrt((alpha * 0.5) ** 2 + sigma**2)
    mean = float(oracle.flow(jnp.asarray(alpha * guide), strength))
    # DDIM's own error in 300 steps, beside the sampling error.
    assert abs(out.mean() - mean) < 5 * std / np.sqrt(out.size) + 0.005
    assert abs(out.std() - std) < 5 * std / np.sqrt(2 * out.size) + 0.01


@given(st.floats(0, 1, exclude_min=True, width=32), st.integers(1, 60))
def test_sdedit_times(strength, steps):
    every = Trailing().times(Linear(), steps)
    times = SDEdit(DDIM(), jnp.zeros((1, *SHAPE)), strength).times(every)
    assert times[0] == np.float32(strength)
    assert times[-1] == 0
    assert (np.diff(times) < 0).all()
    assert set(times[1:]) == {t for t in every if t < times[0]}


@by_name
def test_inversion_is_of_first_order(schedule):
    """x to noise and back returns within 2.5 / steps, and so near is the noise to the exact flow's.

    Each pixel keeps its quantile: at times[0] it lies as many standard deviations from the mean.
    """
    oracle = Gaussian(schedule)
    x = oracle.mean + oracle.std * normal(keys_of(2), SHAPE)
    count, errors = np.array([32, 64, 128]), []
    for steps in count.tolist():
        times = jnp.asarray(Trailing().times(schedule, steps))
        noise = jax.jit(lambda x, times: invert(schedule, oracle.denoise, x, times))(x, times)
        back = draw(FromNoise(DDIM(), noise), schedule, oracle, keys_of(2), times)
        alpha, sigma = schedule.alpha_sigma(times[0])
        spread = jnp.sqrt((alpha * oracle.std) ** 2 + sigma**2)
        exact = alpha * oracle.mean + spread * (x - oracle.mean) / oracle.std
        gaps = ((back - x), (noise - exact) / spread)
        errors.append([float(jnp.sqrt(jnp.mean(gap**2))) for gap in gaps])
    assert (np.array(errors) < 2.5 / count[:, None]).all(), errors
    slopes = -np.polyfit(np.log(count), np.log(errors), 1)[0]
    np.testing.assert_allclose(slopes, 1, atol=0.15)


def test_inversion_by_hand():
    """From the last time above 0, at which x is taken to be: of two steps one is walked up."""
    oracle, x = Gaussian(Cosine()), normal(keys_of(2), SHAPE)
    out = invert(Cosine(), oracle.denoise, x, jnp.asarray([0.9, 0.5, 0.0]))
    x0, eps, _ = oracle.denoise(x, jnp.asarray(0.5))
    alpha, sigma = Cosine().alpha_sigma(jnp.asarray(0.9))
    np.testing.assert_allclose(out, alpha * x0 + sigma * eps, atol=1e-6)


@given(st.floats(0, 1, width=32), st.floats(0.01, 3.1))
def test_slerp_turns_evenly(share, angle):
    """Of two of one length: the length stays, and the angle is the share of the whole."""
    a, b = np.zeros((2, 1, 1, 2, 1), np.float32)
    a[..., 0, :], b[..., 0, :], b[..., 1, :] = 2, 2 * np.cos(angle), 2 * np.sin(angle)
    out = np.asarray(slerp(jnp.asarray(a), jnp.asarray(b), jnp.asarray([share], jnp.float32)))[0, 0]
    # Near a half turn a rounding of the angle moves the circle.
    np.testing.assert_allclose(
        out[:, 0], [2 * np.cos(share * angle), 2 * np.sin(share * angle)], atol=2e-5 / np.sin(angle)
    )


@by_name
def test_a_direction_moves_by_its_strength(schedule):
    """Between two Gaussians of one spread each pixel keeps its quantile: it moves with the mean."""
    a, b = Gaussian(schedule, 0.1, 0.3), Gaussian(schedule, 0.5, 0.3)
    strengths = jnp.asarray([0.0, 0.5, 1.0, 2.0])
    times = jnp.asarray(Trailing().times(schedule, 100))
    x = jnp.repeat(0.1 + 0.3 * normal(keys_of(1), SHAPE), len(strengths), axis=0)

    @jax.jit
    def moved(x):
        noise = invert(schedule, a.denoise, x, times)
        denoise = guided(versus(b.denoise, a.denoise), strengths, classifier_free)
        return sample(FromNoise(DDIM(), noise), schedule, denoise, keys_of(4), noise, times)[0]

    by = np.asarray(moved(x) - x)
    np.testing.assert_allclose(by, np.broadcast_to(0.4 * expand(strengths, x), x.shape), atol=0.03)


def test_slerp_at_its_ends():
    a, b = normal(keys_of(6), SHAPE)[:3], normal(keys_of(6), SHAPE)[3:]
    for one, other in ((a, b), (a, a), (a, -a), (a, 0 * a), (0 * a, 0 * a)):
        np.testing.assert_allclose(slerp(one, other, jnp.zeros(3)), one, atol=1e-6)
        np.testing.assert_allclose(slerp(one, other, jnp.ones(3)), other, atol=1e-6)
        assert np.isfinite(slerp(one, other, jnp.full(3, 0.5))).all()
    np.testing.assert_allclose(slerp(a, 3 * a, jnp.full(3, 0.5)), 2 * a, rtol=1e-5)


MEASUREMENTS = ((Grey(), (2, 2, 3)), (Coarse(2), SHAPE))
by_measurement = pytest.mark.parametrize(("measurement", "shape"), MEASUREMENTS)


@by_measurement
def test_measurements_have_orthonormal_rows(measurement, shape):
    rows = jax.jacobian(lambda x: measurement.measure(x[None]).ravel())(jnp.zeros(shape))
    rows = np.asarray(rows).reshape(len(rows), -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-6)


def test_what_is_measured_as_an_image():
    """Pillow's luma, to its rounding, and NumPy's means."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    x = jnp.asarray(pixels[None] / 127.5 - 1, jnp.float32)
    grey = (np.asarray(Grey().shown(Grey().measure(x)))[0] + 1) * 127.5
    luma = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)
    np.testing.assert_allclose(grey, np.repeat(luma[..., None], 3, -1), atol=1)
    coarse = np.asarray(Coarse(4).shown(Coarse(4).measure(x)))[0]
    means = np.asarray(x)[0].reshape(2, 4, 2, 4, 3).mean((1, 3))
    np.testing.assert_allclose(coarse, means.repeat(4, 0).repeat(4, 1), atol=1e-5)


def posterior_mean(mixture, measurement, y, shape):
    """E[x | y] of a mixture in float64, where orthonormal rows were measured without noise."""
    rows = jax.jacobian(lambda x: measurement.measure(x[None]).ravel())(jnp.zeros(shape))
    rows = np.asarray(rows, np.float64).reshape(y.size, -1)
    centres = np.asarray(mixture.centres(shape), np.float64).reshape(len(mixture.means), -1)
    stds, gaps = np.asarray(mixture.stds), y.ravel() - centres @ rows.T
    logs = np.log(mixture.weights) - (gaps**2).sum(1) / 2 / stds**2 - y.size * np.log(stds)
    share = np.exp(logs - logs.max())
    return ((centres + gaps @ rows) * (share / share.sum())[:, None]).sum(0).reshape(shape)


@pytest.mark.parametrize(
    ("schedule", "case"), [*((schedule, 0) for schedule in SCHEDULES), (Cosine(), 1)]
)
def test_dps_reaches_the_posterior_mean(schedule, case):
    """It is within sampling error of the exact mean, far from the prior's, and agrees with y.

    The mixture's components are told apart by y; where they are not, DPS is biased.
    """
    (measurement, shape), count = MEASUREMENTS[case], 100
    mixture = Mixture(schedule, **MIXTURE)
    x, _ = mixture.draw(jax.random.key(1), 1, shape)
    y = np.asarray(measurement.measure(x))
    wanted = posterior_mean(mixture, measurement, y, shape)
    edit = DPS(DDPM(), many(y[0], count), measurement)
    posterior = edited(edit, mixture, 50, keys_of(count))
    prior = np.asarray(mixture.draw(jax.random.key(2), count, shape)[0])
    errors, residuals = [], []
    for out in (posterior, prior):
        errors.append(np.sqrt(((out.mean(0) - wanted) ** 2).mean()))
        told = np.asarray(measurement.measure(jnp.asarray(out, jnp.float32)))
        residuals.append(np.sqrt(((told - y) ** 2).mean()))
    assert errors[0] < 0.06 < 0.15 < errors[1], errors
    assert residuals[0] < 0.01 < 0.3 < residuals[1], residuals


def test_dps_without_a_residual_is_its_sampler():
    """At the measured value nothing moves, and no norm of 0 divides."""
    oracle, keys = Gaussian(Cosine()), keys_of(2)
    x, t, s = jnp.full((2, *SHAPE), 0.2), jnp.asarray(0.5), jnp.asarray(0.4)
    y = Coarse(2).measure(oracle.denoise(x, t).x0)
    for zeta in (0.0, 1.0):
        edit = DPS(DDIM(), y, Coarse(2), zeta)
        moved, _ = edit.step(oracle.schedule, oracle.denoise, keys, x, (), t, s)
        plain, _ = DDIM().step(oracle.schedule, oracle.denoise, keys, x, (), t, s)
        np.testing.assert_allclose(moved, plain, atol=1e-6)


@by_name
def test_the_likeliest_class_is_the_component(schedule):
    mixture = Mixture(schedule)
    x, component = mixture.draw(jax.random.key(0), 40, SHAPE)

    def conditioned(labels):
        def denoise(x, t):
            each = [mixture.denoise(x, t, only=k) for k in range(3)]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves)[labels[0]], *each)

        return denoise

    np.testing.assert_array_equal(likeliest(schedule, conditioned, x, 3), component)


def test_refusals():
    x = jnp.zeros((1, *SHAPE))
    for strength in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match=f"strength={strength}"):
            SDEdit(DDIM(), x, strength)
    with pytest.raises(UserError, match="jump=0"):
        Repaint(DDPM(), x, x > 0, jump=0)
    with pytest.raises(UserError, match="resample=0"):
        Repaint(DDPM(), x, x > 0, resample=0)
    with pytest.raises(UserError, match="zeta=-1"):
        DPS(DDIM(), x, Coarse(2), -1.0)
    with pytest.raises(UserError, match="factor=1"):
        Coarse(1)
    with pytest.raises(UserError, match="does not divide 28x42: choose one of 2, 7, 14"):
        Coarse(3).check((28, 42, 1))
    with pytest.raises(UserError, match="no colour"):
        Grey().check((8, 8, 1))
    with pytest.raises(UserError, match="without, such as ddim"):
        FromNoise(DDPM(), x).check(Process(Cosine(), "v"))
    with pytest.raises(UserError, match="consistency model"):
        FromNoise(DDIM(), x).check(Process(Cosine(), "v", consistent=True))
    with pytest.raises(UserError, match="steps=1: an inversion"):
        invert(Cosine(), Gaussian(Cosine()).denoise, x, jnp.asarray([1.0, 0.0]))


def test_pictures_of_any_kind(tmp_path):
    """Grey, alpha, 16 bits, palette and arrays come out as one colour in the form asked for."""
    grey = 51
    Image.new("L", (300, 200), grey).save(tmp_path / "a.jpg", quality=100)
    Image.new("RGBA", (40, 60), (grey, grey, grey, 255)).save(tmp_path / "b.png")
    Image.fromarray(np.full((50, 50), grey * 257, np.uint16)).save(tmp_path / "c.png")
    Image.new("RGB", (9, 9), (grey,) * 3).convert("P").save(tmp_path / "d.gif")
    np.save(tmp_path / "e.npy", np.full((5, 7), grey, np.uint8))
    np.save(tmp_path / "f.npy", np.full((2, 5, 7, 3), grey / 127.5 - 1))
    np.savez(tmp_path / "g.npz", other=0, images=np.full((6, 6, 1), grey))
    Image.new("L", (9, 9), grey).save(tmp_path / "h.jfif", format="JPEG", quality=100)
    (tmp_path / ".hidden.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    for form in ((8, 6, 1), (4, 4, 3)):
        found = read_pictures(str(tmp_path), form)
        assert found.shape == (9, *form)
        np.testing.assert_allclose(found, grey / 127.5 - 1, atol=1e-6)


def test_a_picture_of_the_right_form_is_taken_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3), np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "b.npz", images=pixels.astype(np.float32) / 127.5 - 1)
    for name in ("a.npy", "b.npz"):
        found = read_pictures(str(tmp_path / name), (8, 6, 3))
        np.testing.assert_allclose(found, pixels / 127.5 - 1, atol=1e-6)


def test_floats_without_a_negative_go_from_0_to_1(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6), np.uint8)
    np.save(tmp_path / "ones.npy", pixels / np.float32(255))
    found = read_pictures(str(tmp_path / "ones.npy"), (8, 6, 1))
    np.testing.assert_allclose(found[0, ..., 0], pixels / 127.5 - 1, atol=1e-6)


def test_pictures_as_large_as_they_are(tmp_path):
    """In grey or colour as they are, without alpha; of one shape, or they are refused."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 4), np.uint8)
    pixels[..., 3] = 255
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", pixels)
    found = read_whole(str(tmp_path))
    np.testing.assert_allclose(found, pixels[[0, 0, 1], ..., :3] / 127.5 - 1, atol=1e-6)
    Image.fromarray(pixels[0, ..., 0]).save(tmp_path / "a.png")
    grey = read_whole(str(tmp_path / "a.png"))
    np.testing.assert_allclose(grey, pixels[:1, ..., :1] / 127.5 - 1, atol=1e-6)
    with pytest.raises(UserError, match=r"of 5x7x1, 5x7x3 \(height, width, channels\): give"):
        read_whole(str(tmp_path))


@pytest.mark.parametrize("name", ["low.png", "low.npy"])
def test_a_coarse_picture_is_what_is_measured(tmp_path, name):
    """The means of the cells are the given pixels, which enlarging by a filter would blur."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3), np.uint8)
    if name.endswith("png"):
        Image.fromarray(pixels).save(tmp_path / name)
    else:
        np.save(tmp_path / name, pixels)
    measurement = Coarse(4)
    found = read_pictures(str(tmp_path / name), (8, 12, 1), measurement.factor)
    means = measurement.measure(jnp.asarray(found))[0, ..., 0] / measurement.factor
    np.testing.assert_allclose(means, pixels / 127.5 - 1, atol=1e-6)


def test_a_picture_is_turned_as_exif_asks(tmp_path):
    """6: the top row of what is stored is the right-hand side."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 255
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = read_pictures(str(tmp_path / "turned.png"), (8, 8, 1))[0, ..., 0]
    np.testing.assert_array_equal(turned, np.rot90(pixels / 127.5 - 1, -1))


@pytest.mark.parametrize("part", PARTS)
def test_parts(part):
    """Each part is painted on its side, half of the image or a quarter of it."""
    painted = ~read_mask(part, (8, 12, 1))[..., 0]
    share = {"centre": 0.25, "border": 0.75}.get(part, 0.5)
    assert painted.mean() == share
    if part in ("centre", "border"):
        assert painted[4, 6] == (part == "centre") != painted[0, 0]
        assert (painted == painted[::-1, ::-1]).all()
    else:
        row, column = {"left": (4, 0), "right": (4, 11), "top": (0, 6), "bottom": (7, 6)}[part]
        assert painted[row, column]
        assert not painted[7 - row, 11 - column]


def test_a_latent_is_kept_where_its_whole_square_is():
    keep = np.ones((6, 4, 1), bool)
    keep[3, 2] = False
    expected = [[True, True], [True, False], [True, True]]
    np.testing.assert_array_equal(kept_whole(keep, (3, 2))[..., 0], expected)
    np.testing.assert_array_equal(kept_whole(keep, (6, 4)), keep)
    keep[::2, ::2] = False
    with pytest.raises(UserError, match="keeps no square of 2x2 pixels whole"):
        kept_whole(keep, (3, 2))


@pytest.mark.parametrize(("drawn", "kept"), [(90, True), (255, True), (0, False)])
def test_masks_with_transparent_pixels(tmp_path, drawn, kept):
    """What is erased is painted; what is drawn in black on nothing is painted too."""
    opaque = np.random.default_rng(0).random((8, 6)) < 0.5
    pixels = np.full((8, 6, 4), drawn, np.uint8)
    pixels[..., 3] = np.where(opaque, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    keep = read_mask(str(tmp_path / "mask.png"), (8, 6, 3))[..., 0]
    np.testing.assert_array_equal(keep, opaque == kept)


def test_mask_files(tmp_path):
    keep = np.random.default_rng(0).random((8, 6)) < 0.5
    Image.fromarray(keep).save(tmp_path / "bits.png")
    Image.fromarray(np.where(keep, 65535, 0).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.repeat(np.where(keep, 200, 90)[..., None], 3, -1).astype(np.uint8)).save(
        tmp_path / "colour.png"
    )
    np.save(tmp_path / "bits.npy", keep)
    np.save(tmp_path / "numbers.npy", keep[..., None].astype(np.float32))
    for file in tmp_path.iterdir():
        np.testing.assert_array_equal(read_mask(str(file), (8, 6, 3))[..., 0], keep)
