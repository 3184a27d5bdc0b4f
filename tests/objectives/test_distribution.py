"""Distribution matching of Gaussians: a student of another law comes to draw as its teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import Gaussian

from diffjax.errors import UserError
from diffjax.objectives.distribution import distribution_matching_loss
from diffjax.process import Process, expand
from diffjax.randomness import normal, sample_keys
from diffjax.schedules.cosine import Cosine

SHAPE = (2, 2, 1)
BATCH = {"image": 0.3 + 0.5 * normal(sample_keys(jax.random.key(1), 0, 256), SHAPE)}
SCHEDULE = Cosine()
PROCESS = Process(SCHEDULE, "x0", consistent=True)


def apply(variables, x, times, train=False):
    """The mean of x0 given x where x0 is N(mean, std²); of pure noise x0 = mean + std x itself."""
    own = variables["params"]
    t = (times + 1) / SCHEDULE.steps
    alpha, sigma = (expand(c, x) for c in SCHEDULE.alpha_sigma(t))
    variance = jnp.exp(2 * own["log_std"])
    share = alpha * variance / (alpha**2 * variance + sigma**2)
    known = own["mean"] + share * (x - alpha * own["mean"])
    drawn = own["mean"] + jnp.exp(own["log_std"]) * x
    return jnp.where(expand(t, x) > 0.99, drawn, known)


def teacher(cond):
    return Gaussian(SCHEDULE, mean=0.3, std=0.5).denoise


def network(mean, std):
    return {"mean": jnp.asarray(mean), "log_std": jnp.log(std)}


def keys(step, count=256):
    return sample_keys(jax.random.fold_in(jax.random.key(0), step), 0, count)


LOSS = distribution_matching_loss(PROCESS, apply, teacher, 1)


def test_the_student_comes_to_draw_as_the_teacher():
    params = {"student": network(-0.4, 1.2), "critic": network(-0.4, 1.2)}
    tx = optax.adam(optax.cosine_decay_schedule(0.02, 2000))

    @jax.jit
    def step(state, i):
        params, opt = state
        grads = jax.grad(lambda params: LOSS(params, keys(i), BATCH)[0])(params)
        updates, opt = tx.update(grads, opt)
        return (optax.apply_updates(params, updates), opt), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(2000))
    for side in ("student", "critic"):
        assert float(params[side]["mean"]) == pytest.approx(0.3, abs=0.03), side
        assert float(jnp.exp(params[side]["log_std"])) == pytest.approx(0.5, abs=0.05), side


@pytest.mark.parametrize(
    ("student", "sign"), [((0.5, 0.5), (1, 0)), ((0.1, 0.5), (-1, 0)), ((0.3, 0.8), (0, 1))]
)
def test_with_a_perfect_critic_the_pull_is_towards_the_teacher(student, sign):
    params = {"student": network(*student), "critic": network(*student)}
    many = {"image": jnp.tile(BATCH["image"], (64, 1, 1, 1))}
    grads = jax.grad(lambda params: LOSS(params, keys(0, len(many["image"])), many)[0])(params)
    found = grads["student"]["mean"], grads["student"]["log_std"]
    for value, expected in zip(found, sign, strict=True):
        if expected:
            assert np.sign(value) == expected
            assert abs(value) > 0.02
        else:
            assert abs(value) < 0.15 * max(map(abs, found))


def test_where_all_agree_nothing_is_pulled():
    params = {"student": network(0.3, 0.5), "critic": network(0.3, 0.5)}
    grads = jax.grad(lambda params: LOSS(params, keys(0), BATCH)[1]["student_loss"])(params)
    assert max(abs(leaf) for leaf in jax.tree.leaves(grads)) < 1e-4


def test_each_network_has_the_gradient_of_its_own_loss():
    params = {"student": network(0.1, 0.8), "critic": network(-0.2, 0.4)}

    def grad_of(name):
        return jax.grad(lambda params: LOSS(params, keys(0), BATCH)[1][name])(params)

    assert max(map(abs, jax.tree.leaves(grad_of("student_loss")["critic"]))) == 0
    assert max(map(abs, jax.tree.leaves(grad_of("critic_loss")["student"]))) == 0
    assert min(map(abs, jax.tree.leaves(grad_of("student_loss")["student"]))) > 0
    assert min(map(abs, jax.tree.leaves(grad_of("critic_loss")["critic"]))) > 0


def test_what_is_refused():
    with pytest.raises(UserError, match="consistent process"):
        distribution_matching_loss(Process(SCHEDULE, "x0"), apply, teacher, 1)
    with pytest.raises(UserError, match="choose 1 or more"):
        distribution_matching_loss(PROCESS, apply, teacher, 0)
