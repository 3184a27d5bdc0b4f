"""Guidance against a mixture, whose conditional scores and densities are known."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Gaussian, Mixture

from diffjax.data.images import to_uint8
from diffjax.errors import UserError
from diffjax.generate import generate, make_draw, times_of
from diffjax.guidance import (
    ClassLogProb,
    Similarity,
    adaptive_projected,
    classifier_free,
    classifier_guidance,
    clip_x0,
    doubled,
    dynamic_threshold,
    guided,
    in_interval,
    on_x0,
    rescaled,
    versus,
)
from diffjax.guidance.plan import Away, Guidance, Judged, guide
from diffjax.process import Process, expand
from diffjax.randomness import normal, sample_keys
from diffjax.samplers.base import sample
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.dpmpp_2m import DPMpp2M
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.variance_exploding import VarianceExploding
from diffjax.spacings.trailing import Trailing
from diffjax.typing import Prediction

SHAPE = (4, 2, 1)
SCHEDULES = {"linear": Linear(), "ve": VarianceExploding(), "flow": Flow()}
f32 = jnp.float32


def noisy(schedule, t, count=3):
    """Points at time t, and the time."""
    x0, eps = jax.random.normal(jax.random.key(0), (2, count, *SHAPE))
    return Process(schedule, "x0").q_sample(0.5 * x0, eps, f32(t)), f32(t)


def gaussians(schedule):
    """A sharp class against a broad whole."""
    return versus(Gaussian(schedule, 0.3, 0.2).denoise, Gaussian(schedule, -0.1, 0.6).denoise)


def log_prob_of(mixture, k):
    """The exact log p(k | x)."""
    return lambda x, t: jax.nn.log_softmax(mixture.log_terms(x, t), axis=0)[k]


def remainder(schedule, x, t, out):
    """What x = alpha x0 + sigma eps leaves over, relative to x."""
    alpha, sigma = (expand(c, x) for c in schedule.alpha_sigma(t))
    return float(jnp.max(jnp.abs(alpha * out.x0 + sigma * out.eps - x)) / jnp.max(jnp.abs(x)))


@functools.cache
def three_ways(name):
    """x, t, scale -> guidance to one class: classifier-free, by the classifier, and the truth."""
    k = list(SCHEDULES).index(name)
    mixture = Mixture(SCHEDULES[name])
    pair = versus(lambda x, t: mixture.denoise(x, t, only=k), mixture.denoise)
    classifier = log_prob_of(mixture, k)

    @jax.jit
    def look(x, t, scale):
        def log_density(x):
            of_all, of_class = mixture.log_prob(x, t), mixture.log_terms(x, t)[k]
            return jnp.sum((1 - scale) * of_all + scale * of_class)

        by = classifier_guidance(mixture.denoise, mixture.schedule, classifier, scale)(x, t)
        _, sigma = mixture.schedule.alpha_sigma(t)
        free = guided(pair, scale, classifier_free)(x, t)
        return free, by, -sigma * jax.grad(log_density)(x)

    return look


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=25)
@given(t=st.floats(0.1, 0.999), scales=st.tuples(*[st.floats(-1, 8)] * 3))
def test_guided_eps_is_the_score_of_the_tilted_density(name, t, scales):
    """p(x)^(1 - scale) p(x | k)^scale, at any x and t; so it is with the exact log p(k | x)."""
    schedule = SCHEDULES[name]
    x, t = noisy(schedule, t)
    free, by, truth = three_ways(name)(x, t, jnp.asarray(scales))
    size = 1 + jnp.max(jnp.abs(truth))
    np.testing.assert_allclose(free.eps, truth, atol=1e-5 * size)
    np.testing.assert_allclose(by.eps, free.eps, atol=1e-5 * size)
    assert max(remainder(schedule, x, t, out) for out in (free, by)) < 1e-5


def test_the_exact_classifier_makes_all_samples_its_class():
    """Through a sampler: a mixture guided at scale 1 is one component, with its mean and spread."""
    mixture, k = Mixture(Cosine()), 2
    keys = sample_keys(jax.random.key(0), 0, 1000)
    denoise = classifier_guidance(mixture.denoise, Cosine(), log_prob_of(mixture, k), f32(1))
    times = jnp.asarray(Trailing().times(Cosine(), 60))
    out, _ = jax.jit(lambda x: sample(DPMpp2M(), Cosine(), denoise, keys, x, times))(
        normal(keys, SHAPE)
    )
    gap = out - mixture.centres(SHAPE)[k]
    assert abs(float(gap.mean())) < 0.005
    assert abs(float(gap.std()) - mixture.stds[k]) < 0.01


def test_where_no_signal_is_left_a_classifier_moves_nothing():
    """A slope of 1e-6 over an alpha of 2e-9 would move x0 by hundreds."""
    schedule = Linear(zero_terminal_snr=True)
    x, t = noisy(schedule, 1.0)
    plain = Gaussian(schedule).denoise
    by = classifier_guidance(plain, schedule, lambda x, t: 1e-6 * x.sum((1, 2, 3)), f32(1))
    chex.assert_trees_all_equal(by(x, t)[:2], plain(x, t)[:2])
    x, t = noisy(schedule, 0.99)
    assert float(jnp.abs(by(x, t).x0 - plain(x, t).x0).max()) > 0


RULES = {
    "classifier_free": lambda schedule: classifier_free,
    "projected": lambda schedule: adaptive_projected(schedule, f32(0), f32(0.5)),
    "rescaled": lambda schedule: rescaled(classifier_free, schedule, f32(0.7)),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_scale_a_sample(rule):
    """Each sample is what it is alone with its scale; at 1 it is the wanted prediction."""
    x, t = noisy(Linear(), 0.6)
    pair, rule = gaussians(Linear()), RULES[rule](Linear())
    scales = jnp.asarray([1.0, 2.0, 7.5])
    whole, plain = guided(pair, scales, rule)(x, t), pair.alone(x, t)
    for i, scale in enumerate(scales):
        one = guided(pair, scale, rule)(x[i : i + 1], t)
        np.testing.assert_allclose(one.x0[0], whole.x0[i], atol=1e-5)
        np.testing.assert_allclose(one.eps[0], whole.eps[i], atol=1e-5)
        gap = jnp.abs(whole.x0[i] - plain.x0[i]).max()
        assert gap < 1e-6 if scale == 1 else gap > 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_consistent_and_finite_from_end_to_end(name):
    """x = alpha x0 + sigma eps, `fraction` carried, gradients finite; t = 1 included."""
    schedule = SCHEDULES[name]
    fraction = jnp.full((3, *SHAPE), 0.25)

    def learned(denoise):
        return lambda x, t: denoise(x, t)._replace(fraction=fraction)

    plain, scale = gaussians(schedule), jnp.asarray([3.0, 1.0, 0.0])
    pair = versus(learned(plain.alone), lambda x, t: plain.both(x, t)[1])
    denoisers = [guided(pair, scale, rule(schedule)) for rule in RULES.values()]
    denoisers += [
        dynamic_threshold(denoisers[0], schedule, f32(90)),
        classifier_guidance(
            denoisers[0], schedule, lambda x, t: -jnp.sum(x**2, axis=(1, 2, 3)), f32(0.1)
        ),
    ]

    @jax.jit
    def look(x, t):
        return [
            jax.value_and_grad(lambda x, d=d: (d(x, t).x0.sum(), d(x, t)), has_aux=True)(x)
            for d in denoisers
        ]

    for at in (1e-3, 0.5, 1.0):
        x, t = noisy(schedule, at)
        for (_, out), grads in look(x, t):
            chex.assert_tree_all_finite((out, grads))
            assert remainder(schedule, x, t, out) < 1e-4
            np.testing.assert_array_equal(out.fraction, fraction)


@pytest.mark.parametrize("rule", RULES)
def test_flat_predictions_have_finite_gradients(rule):
    """Two predictions of one and the same grey image: no spread, no step, no direction."""

    def flat(x, t):
        return Prediction(0 * x, x)

    denoise = guided(versus(flat, flat), f32(3), RULES[rule](Linear()))
    x = jnp.ones((2, *SHAPE))
    chex.assert_tree_all_finite(jax.grad(lambda x: denoise(x, f32(0.5)).eps.sum())(x))


def test_interval():
    """Guidance acts where low < sigma / alpha <= high, for one time or one a sample."""
    schedule = VarianceExploding()
    levels = jnp.asarray([0.5, 1.0, 1.5, 2.0, 2.5])
    times = schedule.time_at(levels)
    noise = schedule.sigma_ve(times)
    x, _ = noisy(schedule, 0.5, count=5)
    pair = gaussians(schedule)
    scale = in_interval(schedule, f32(4), noise[1], noise[3])
    np.testing.assert_array_equal(scale(times), [1, 1, 4, 4, 1])
    limited = guided(pair, scale, classifier_free)
    full, plain = guided(pair, f32(4), classifier_free), pair.alone
    for t, inside in zip(times, [False, False, True, True, False], strict=True):
        chex.assert_trees_all_close(limited(x, t), (full if inside else plain)(x, t), atol=1e-5)
    by_sample = limited(x, times)
    np.testing.assert_allclose(by_sample.x0[2:4], full(x, times).x0[2:4], atol=1e-6)
    np.testing.assert_allclose(by_sample.x0[:2], plain(x, times).x0[:2], atol=1e-6)


def counted():
    """A network of a table of shifts by label, and the batch sizes it has been called with."""
    sizes = []

    def apply(variables, x, t, labels):
        jax.debug.callback(lambda: sizes.append(len(x)))
        shift = variables["params"][labels][:, None, None, None]
        return jnp.tanh(x + shift + t[:, None, None, None] / 1000)

    return apply, sizes


def test_the_doubled_batch_is_one_call_and_outside_the_interval_half():
    apply, sizes = counted()
    process, table = Process(Linear()), jnp.asarray([0.3, -0.2, 0.7])
    labels, null = jnp.asarray([0, 1, 0]), jnp.full((3,), 2)
    x = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    pair = doubled(process, apply, table, labels, null)
    both = pair.both(x, f32(0.5))
    jax.effects_barrier()
    assert sizes == [6]
    for out, cond in zip(both, (labels, null), strict=True):
        chex.assert_trees_all_close(
            out, process.denoiser(apply, table, cond)(x, f32(0.5)), atol=1e-6
        )
    by_sample = pair.both(x, jnp.asarray([0.2, 0.5, 0.9]))[1]
    np.testing.assert_allclose(by_sample.x0[1], both[1].x0[1], atol=1e-6)
    sizes.clear()
    low, high = (Linear().sigma_ve(f32(t)) for t in (0.3, 0.6))
    denoise = jax.jit(guided(pair, in_interval(Linear(), f32(3), low, high), classifier_free))
    for t in (0.2, 0.5, 0.8):
        jax.block_until_ready(denoise(x, f32(t)))
        jax.effects_barrier()
    assert sizes == [3, 6, 3]


def test_projected():
    """Sadat et al. 2024: eta = 1 without a threshold is classifier-free guidance, 0 leaves what is
    orthogonal; the step has at most the norm r."""
    x, t = noisy(Cosine(), 0.6)
    pair, scale = gaussians(Cosine()), f32(5)
    wanted, unwanted = (np.asarray(p.x0, np.float64).reshape(3, -1) for p in pair.both(x, t))

    def step(eta, r):
        rule = adaptive_projected(Cosine(), f32(eta), f32(r))
        out = guided(pair, scale, rule)(x, t)
        return (np.asarray(out.x0).reshape(3, -1) - wanted) / 4, out

    free = guided(pair, scale, classifier_free)(x, t)
    chex.assert_trees_all_close(step(1, np.inf)[1], free, atol=2e-5)
    whole = wanted - unwanted
    across = whole - (whole * wanted).sum(1, keepdims=True) * wanted / (wanted**2).sum(
        1, keepdims=True
    )
    assert np.linalg.norm(whole - across, axis=1).min() > 0.01
    np.testing.assert_allclose(step(0, np.inf)[0], across, atol=1e-5)
    np.testing.assert_allclose(step(0.3, np.inf)[0], across + 0.3 * (whole - across), atol=1e-5)
    norms = np.linalg.norm(whole, axis=1)
    for r in np.outer((0.9, 1.1), norms).ravel():  # just below and just above each of them
        size = np.linalg.norm(step(1, r)[0], axis=1)
        np.testing.assert_allclose(size, np.minimum(norms, r), rtol=1e-5)


def test_rescaled():
    """Lin et al. 2024: phi = 1 gives the wanted prediction's spread back, phi mixes."""
    x, t = noisy(Linear(), 0.5)
    pair, scale = gaussians(Linear()), f32(6)
    wanted = np.asarray(pair.alone(x, t).x0)
    free = np.asarray(guided(pair, scale, classifier_free)(x, t).x0)
    spread = wanted.std((1, 2, 3), keepdims=True) / free.std((1, 2, 3), keepdims=True)
    assert np.abs(spread - 1).max() > 0.1
    for phi in (0.0, 0.7, 1.0):
        out = guided(pair, scale, rescaled(classifier_free, Linear(), f32(phi)))(x, t)
        np.testing.assert_allclose(out.x0, phi * free * spread + (1 - phi) * free, atol=1e-5)
    np.testing.assert_allclose(out.x0.std((1, 2, 3)), wanted.std((1, 2, 3)), rtol=1e-5)


@settings(max_examples=15)
@given(percentile=st.floats(0, 100), size=st.floats(0.2, 4))
def test_dynamic_threshold(percentile, size):
    """Saharia et al. 2022: by NumPy's percentile; below the limit it is clipping."""
    x0 = size * jax.random.normal(jax.random.key(1), (3, *SHAPE))
    x, t = jnp.ones_like(x0), f32(0.5)

    def denoise(x, t):
        return Prediction(x0, jnp.zeros_like(x))

    out = dynamic_threshold(denoise, Linear(), f32(percentile))(x, t)
    for image, given_ in zip(out.x0, np.asarray(x0), strict=True):
        most = max(np.percentile(np.abs(given_), np.float32(percentile)), 1)
        np.testing.assert_allclose(image, np.clip(given_, -most, most) / most, atol=2e-5)
    clipped = clip_x0(denoise, Linear())(x, t)
    calm = jnp.percentile(jnp.abs(x0).reshape(3, -1), percentile, axis=1) < 0.999
    chex.assert_trees_all_close(
        jax.tree.map(lambda a: a[calm], out), jax.tree.map(lambda a: a[calm], clipped), atol=1e-5
    )


def test_a_judge_of_clean_images_is_asked_about_x0():
    """On a Gaussian x0 = a x + b, so the gradient of -(x0 - c)² / 2 is -a (x0 - c)."""
    gaussian, t = Gaussian(Linear()), f32(0.4)
    x = jnp.linspace(-6, 9, 8).reshape(1, *SHAPE)
    alpha, sigma = Linear().alpha_sigma(t)
    x0 = gaussian.denoise(x, t).x0
    slope = alpha * gaussian.std**2 / (alpha**2 * gaussian.std**2 + sigma**2)
    log_prob = on_x0(gaussian.denoise, lambda x0: -((x0 - 0.4) ** 2).sum((1, 2, 3)) / 2)
    out = classifier_guidance(gaussian.denoise, Linear(), log_prob, f32(3))(x, t)
    seen = jnp.abs(x0) < 1  # what is clipped pulls nowhere
    assert 0 < seen.sum() < x.size
    pull = jnp.where(seen, -slope * (x0 - 0.4), 0.0)
    np.testing.assert_allclose(out.eps, gaussian.denoise(x, t).eps - 3 * sigma * pull, atol=1e-5)


class Net(nn.Module):
    """A network of a few parameters that knows three classes and their absence."""

    @nn.compact
    def __call__(self, x, t, labels):
        shift = nn.Embed(4, x[0].size, embedding_init=nn.initializers.normal(1.0))(labels)
        return jnp.tanh(x + shift.reshape(x.shape) + t[:, None, None, None] / 1000)


class Eye(nn.Module):
    """A judge."""

    @nn.compact
    def __call__(self, x):
        features = x.reshape(len(x), -1)
        return nn.Dense(3)(features), features


def flat_embedding(params, images):
    """A tower of one matrix."""
    return images.reshape(len(images), -1) @ params.T


def init(module, seed, *inputs):
    return jax.jit(module.init)(jax.random.key(seed), *inputs)["params"]


NET_INPUTS = (jnp.zeros((1, *SHAPE)), jnp.zeros((1,)), jnp.zeros((1,), jnp.int32))


def away(scale, **numbers):
    return Guidance(away=Away(scale, jnp.full((len(scale),), 3), **numbers))


def test_a_plan_is_made_of_the_parts():
    process, apply = Process(Linear()), Net().apply
    params, earlier = init(Net(), 0, *NET_INPUTS), init(Net(), 1, *NET_INPUTS)
    judge = init(Eye(), 2, NET_INPUTS[0])
    x, t = jax.random.normal(jax.random.key(3), (2, *SHAPE)), f32(0.3)
    labels, scale = jnp.asarray([0, 2]), jnp.asarray([2.0, 5.0])
    strong = process.denoiser(apply, params, labels)

    def check(guidance, expected, **networks):
        out = guide(process, apply, params, labels, guidance, **networks)(x, t)
        chex.assert_trees_all_close(out, clip_x0(expected, Linear())(x, t), atol=1e-4)

    free = guided(
        versus(strong, process.denoiser(apply, params, jnp.full((2,), 3))), scale, classifier_free
    )
    check(Guidance(), strong)
    check(away(scale), free)
    check(away(scale, high=0.01), strong)
    weak = process.denoiser(apply, earlier, jnp.full((2,), 3))
    check(away(scale, params=earlier), guided(versus(strong, weak), scale, classifier_free))
    log_prob = on_x0(
        strong,
        lambda x0: jax.nn.log_softmax(Eye().apply({"params": judge}, x0)[0])[
            jnp.arange(2), jnp.asarray([1, 2])
        ],
    )
    judged = Guidance(judged=Judged(ClassLogProb(Eye()), judge, scale, jnp.asarray([1, 2])))
    check(judged, classifier_guidance(strong, Linear(), log_prob, scale))
    out = guide(process, apply, params, labels, Guidance(percentile=f32(80)))(x, t)
    chex.assert_trees_all_close(out, dynamic_threshold(strong, Linear(), f32(80))(x, t), atol=1e-5)
    with pytest.raises(UserError, match="draws latents"):
        guide(process, apply, params, labels, judged, limit=None)


def test_one_compilation_serves_every_scale_interval_and_seed():
    traced = []

    class Traced(Net):
        def __call__(self, *given):
            traced.append(given)
            return super().__call__(*given)

    params, process = init(Net(), 0, *NET_INPUTS), Process(Linear())
    draw = make_draw(Traced(), process, DDIM(), SHAPE)
    times = times_of(process, params, Trailing(), 3)
    labels, seen, counts = np.asarray([0, 1, 2, 0]), [], []
    for i, scale in enumerate(([1.0] * 4, [2.0] * 4, [5.0] * 4, [-1.0] * 4, [1.0, 2.0, 3.0, 9.5])):
        for numbers in ({}, {"low": 0.1 * i, "high": 2.0 + i}, {"eta": i / 5, "rescale": 0.5}):
            guidance = away(jnp.asarray(scale), **numbers)
            seen.append(generate(draw, params, jax.random.key(i), 4, 4, times, labels, guidance)[0])
            counts.append(len(traced))
    assert counts == counts[:1] * len(seen)
    assert counts[0] > 0
    assert (seen[3] != seen[6]).any()


LINEAR = np.random.default_rng(0).normal(size=(4, np.prod(SHAPE))).astype(np.float32)
TEXTS = jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0], jnp.float32)
JUDGES = {
    "labels": (ClassLogProb(Eye()), init(Eye(), 2, NET_INPUTS[0]), jnp.asarray([2, 1, 0, 1, 2])),
    "texts": (Similarity(flat_embedding), LINEAR, TEXTS[jnp.asarray([0, 1, 2, 3, 0])]),
}


def test_the_gradient_of_a_cosine_with_a_linear_tower():
    """For f = W x0 and a unit c it is W' (c - cos f / |f|) / |f|; each sample has its own scale."""
    schedule, gaussian = Linear(), Gaussian(Linear())
    x, t = noisy(schedule, 0.4)
    alpha, sigma = map(float, schedule.alpha_sigma(t))
    slope = alpha * gaussian.std**2 / (alpha**2 * gaussian.std**2 + sigma**2)
    scales, plain = np.asarray([0, 3, 200], np.float32), gaussian.denoise(x, t)
    assert float(jnp.abs(plain.x0).max()) < 1, "nothing is clipped"
    f = np.asarray(plain.x0, np.float64).reshape(3, -1) @ LINEAR.T
    length = np.linalg.norm(f, axis=1, keepdims=True)
    cosine = (f * TEXTS[:3]).sum(1, keepdims=True) / length
    gradient = (TEXTS[:3] - cosine * f / length) / length @ LINEAR
    pull = (scales[:, None] * slope * gradient).reshape(x.shape)
    judge = functools.partial(Similarity(flat_embedding), LINEAR, targets=TEXTS[:3])
    log_prob = on_x0(gaussian.denoise, judge)
    out = classifier_guidance(gaussian.denoise, schedule, log_prob, jnp.asarray(scales))(x, t)
    np.testing.assert_allclose(out.eps, plain.eps - sigma * pull, atol=1e-4)
    np.testing.assert_allclose(out.x0, plain.x0 + sigma**2 / alpha * pull, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_equal(out.x0[0], plain.x0[0])
    chex.assert_trees_all_equal(out.eps[0], plain.eps[0])
    assert float(judge(out.x0)[1]) > float(judge(plain.x0)[1])


def test_an_embedding_of_zeros_has_a_gradient():
    judge = Similarity(flat_embedding)
    found = jax.grad(lambda x: judge(LINEAR, x, TEXTS[:1]).sum())(jnp.zeros((1, *SHAPE)))
    chex.assert_tree_all_finite(found)


def test_texts_and_scales_compile_once_beside_classifier_free_guidance():
    """Also where the judge is another object, of the same parts."""
    params, process, traced = init(Net(), 0, *NET_INPUTS), Process(Linear()), []

    class Traced(Net):
        def __call__(self, *given):
            traced.append(given)
            return super().__call__(*given)

    draw = make_draw(Traced(), process, DDIM(), SHAPE)
    times, labels = times_of(process, params, Trailing(), 3), np.asarray([0, 1, 2, 0])

    def drawn(scale, texts):
        judged = Judged(
            Similarity(flat_embedding), LINEAR, jnp.asarray(scale), TEXTS[jnp.asarray(texts)]
        )
        guidance = away(jnp.full((4,), 2.0))._replace(judged=judged)
        return generate(draw, params, jax.random.key(0), 4, 4, times, labels, guidance)[0]

    off = drawn([0.0] * 4, [0, 1, 2, 3])
    count = len(traced)
    other = drawn([0.0] * 4, [3, 2, 1, 0])
    one = drawn([0.0, 0.0, 50.0, 0.0], [0, 1, 2, 3])
    assert len(traced) == count > 0
    np.testing.assert_array_equal(other, off)
    np.testing.assert_array_equal(one[[0, 1, 3]], off[[0, 1, 3]])
    assert np.abs(one[2] - off[2]).max() > 0.01
    free = generate(draw, params, jax.random.key(0), 4, 4, times, labels, away(jnp.full((4,), 2.0)))
    np.testing.assert_allclose(free[0], off, atol=1e-5)


@pytest.mark.parametrize("kind", JUDGES)
def test_an_image_does_not_depend_on_its_batch(kind):
    """Scales, negative labels and a judge's go to their own samples, however these are cut."""
    judge, weights, targets = JUDGES[kind]
    params, process = init(Net(), 0, *NET_INPUTS), Process(Linear())
    draw = make_draw(Net(), process, DDIM(), SHAPE)
    times = times_of(process, params, Trailing(), 3)
    labels = np.asarray([0, 1, 2, 0, 1])
    scale = jnp.asarray([1.0, 2.0, 4.0, 1.0, 8.0])
    guidance = Guidance(
        away=Away(scale, jnp.asarray([3, 3, 0, 1, 2])),
        judged=Judged(judge, weights, 5 * scale, targets),
    )
    whole, _ = generate(draw, params, jax.random.key(0), 5, 5, times, labels, guidance)
    for batch in (1, 2):
        cut, _ = generate(draw, params, jax.random.key(0), 5, batch, times, labels, guidance)
        np.testing.assert_array_equal(to_uint8(cut), to_uint8(whole))
