"""The train step against closed-form gradients, and what must not change its result."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from diffjax.errors import UserError
from diffjax.models.batch_norm import BatchNorm
from diffjax.models.stateful import STATISTICS, Stateful
from diffjax.randomness import normal
from diffjax.training import parallel
from diffjax.training.optimizers import make_optimizer
from diffjax.training.step import (
    Loss,
    check_batch,
    ema_decay_at,
    init_state,
    make_train_step,
    tensor_names,
)

ROOT = jax.random.key(7)


def quadratic(params, keys, batch):
    """Mean of |w - x|² / 2: its gradient is w - mean(x)."""
    return 0.5 * jnp.mean(jnp.sum((params["w"] - batch["x"]) ** 2, -1)), {}


def noisy(params, keys, batch):
    """A loss whose noise is each sample's own."""
    noise = normal(keys, (3,))
    return jnp.mean((params["w"] * batch["x"] - noise) ** 2), {"noise": jnp.mean(noise)}


def run(loss_fn, steps=3, **options):
    tx = optax.sgd(0.1)
    step = jax.jit(make_train_step(loss_fn, tx, 0.9, **options))
    state = init_state({"w": jnp.ones(3)}, tx)
    batch = {"x": jnp.arange(24.0).reshape(8, 3) / 10}
    history = []
    for _ in range(steps):
        state, metrics = step(state, ROOT, batch)
        history.append(metrics)
    return state, history, batch


def test_a_step_descends_the_gradient():
    state, history, batch = run(quadratic, steps=1)
    gradient = 1 - np.mean(batch["x"], 0)
    np.testing.assert_allclose(state.params["w"], 1 - 0.1 * gradient, rtol=1e-6)
    np.testing.assert_allclose(history[0]["grad_norm"], np.linalg.norm(gradient), rtol=1e-6)
    np.testing.assert_allclose(
        history[0]["loss"], 0.5 * np.mean(np.sum((1 - np.asarray(batch["x"])) ** 2, 1)), rtol=1e-6
    )
    assert int(state.step) == 1


def test_ema_warms_up():
    """decay = min(limit, (1 + n) / (10 + n)): 0.1 after the first step."""
    state, _, _ = run(quadratic, steps=1)
    np.testing.assert_allclose(
        state.ema_params["w"], 0.1 * 1 + 0.9 * np.asarray(state.params["w"]), rtol=1e-6
    )
    np.testing.assert_allclose(ema_decay_at(jnp.asarray(10**6), 0.9), 0.9)


@pytest.mark.parametrize("accumulate", [2, 8])
def test_accumulation_changes_nothing(accumulate):
    one, first, _ = run(noisy)
    many, second, _ = run(noisy, accumulate=accumulate)
    chex.assert_trees_all_close(one, many, rtol=1e-5)
    chex.assert_trees_all_close(first, second, rtol=1e-5)


def test_noise_differs_by_step_and_by_sample():
    _, history, _ = run(noisy, steps=2)
    assert float(history[0]["noise"]) != float(history[1]["noise"])
    draws = lambda p, keys, b: (0.0 * jnp.sum(p["w"]), {"draws": normal(keys, ())})  # noqa: E731
    _, history, _ = run(draws, steps=2)
    assert len(np.unique([h["draws"] for h in history])) == 16


@pytest.mark.parametrize("options", [None, {"xla_backend_optimization_level": 1}])
@pytest.mark.parametrize("name", parallel.PARALLELISM)
def test_a_dispatch_equals_single_steps_and_compiles_once(name, options, monkeypatch):
    monkeypatch.setattr(parallel, "step_options", lambda: options)
    tx = optax.sgd(0.1)
    traces = []

    def counted(params, keys, batch):
        traces.append(1)
        return noisy(params, keys, batch)

    parallelism = parallel.PARALLELISM[name]
    step = make_train_step(counted, tx, 0.9, axis_name=parallelism.axis_name)
    run_steps = parallelism.compile(step)
    state = parallel.replicate(lambda: init_state({"w": jnp.ones(3)}, tx))
    x = np.arange(24, dtype=np.float32).reshape(8, 3) / 10
    key = parallel.replicate(jax.random.key, np.uint32(7))
    for i in range(3):
        batches = parallelism.shard({"x": np.stack([x, x])})
        state, metrics = run_steps(state, key, batches)
        if i == 0:
            after_first = len(traces)
    assert len(traces) == after_first, "the second and third dispatch compile nothing"
    chex.assert_shape(metrics["loss"], (2,))
    one, history, _ = run(noisy, steps=6)
    chex.assert_trees_all_close(jax.device_get(state), jax.device_get(one), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"][-1], history[-1]["loss"], rtol=1e-5)


@pytest.mark.parametrize("name", parallel.PARALLELISM)
def test_a_step_is_compiled_with_its_options(name, monkeypatch):
    monkeypatch.setattr(parallel, "step_options", lambda: {"xla_no_such_option": 1})
    parallelism, tx = parallel.PARALLELISM[name], optax.sgd(0.1)
    step = make_train_step(noisy, tx, 0.9, axis_name=parallelism.axis_name)
    state = parallel.replicate(lambda: init_state({"w": jnp.ones(3)}, tx))
    key = parallel.replicate(jax.random.key, np.uint32(7))
    batches = parallelism.shard({"x": np.zeros((1, 8, 3), np.float32)})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        parallelism.compile(step)(state, key, batches)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_an_update_that_is_not_finite_is_left_out(bad):
    """1e30 is finite, its square is not: the loss here, and what the gradient's norm is made of."""
    tx = optax.adam(0.1)
    step = jax.jit(make_train_step(quadratic, tx, 0.9))
    state = init_state({"v": jnp.ones(2), "w": jnp.ones(3)}, tx)
    good = {"x": jnp.ones((4, 3))}
    before, metrics = step(state, ROOT, good)
    assert not metrics["skipped"]
    assert not metrics["nonfinite"].any()
    after, metrics = step(before, ROOT, {"x": good["x"].at[2, 1].set(bad)})
    assert metrics["skipped"] == 1
    assert int(after.step) == 2
    chex.assert_trees_all_equal(after.replace(step=before.step), before)
    names = tensor_names(state.params)
    assert names == ("loss", "v", "w", "the parameters, which overflow")
    found = {name for name, flag in zip(names, metrics["nonfinite"], strict=True) if flag}
    assert found == {"loss", "w"}
    again, metrics = step(after, ROOT, good)
    assert not metrics["skipped"]
    chex.assert_tree_all_finite(again)


def test_parameters_that_overflow_in_the_update_are_told():
    tx = optax.sgd(3e38)
    step = jax.jit(make_train_step(quadratic, tx, 0.9))
    state, metrics = step(init_state({"w": jnp.ones(3)}, tx), ROOT, {"x": -100 * jnp.ones((4, 3))})
    assert not metrics["skipped"]
    np.testing.assert_array_equal(metrics["nonfinite"], [False, False, True])
    assert not np.isfinite(state.params["w"]).any()


def test_rate_warms_up_and_falls():
    tx = make_optimizer(0.1, 100, warmup_steps=10, grad_clip=1.0)
    state, moves = tx.init(jnp.zeros(())), []
    for _ in range(100):
        update, state = tx.update(jnp.ones(()), state)
        moves.append(-float(update))
    # With a constant gradient Adam moves by the rate itself.
    assert moves[0] < 0.02
    assert np.argmax(moves) == 10
    np.testing.assert_allclose(max(moves), 0.1, rtol=1e-3)
    np.testing.assert_allclose(moves[55], 0.05, rtol=0.02)
    assert moves[-1] < 1e-3


def test_gradients_are_clipped_before_adam_sees_them():
    tx = make_optimizer(0.1, 100, grad_clip=1.0)
    state = tx.init(jnp.zeros(2))
    _, small = tx.update(jnp.asarray([0.6, 0.8]), state)
    _, large = tx.update(jnp.asarray([600.0, 800.0]), state)
    chex.assert_trees_all_close(small, large, rtol=1e-5)


@pytest.mark.parametrize(("batch", "devices", "accumulate"), [(10, 4, 1), (8, 1, 3), (0, 1, 1)])
def test_indivisible_batch(batch, devices, accumulate):
    with pytest.raises(UserError, match="choose a multiple of"):
        check_batch(batch, devices, accumulate)


class Normalised(Stateful):
    """A batch norm and one weight a number."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = BatchNorm(train, name="norm")(x)
        return x * self.param("w", nn.initializers.ones, x.shape[-1:])


NET, DATA = Normalised(), {"x": jnp.arange(24.0).reshape(8, 3) ** 2 / 100}


def norm_loss(params, keys, batch):
    return jnp.mean((NET.apply({"params": params}, batch["x"], train=True) - 1) ** 2), {}


def norm_step(**options):
    tx = optax.adam(0.1)
    state = init_state(jax.jit(NET.init)(ROOT, DATA["x"])["params"], tx)
    return state, make_train_step(norm_loss, tx, 0.9, **options)


def statistics(state):
    return state.model_state[STATISTICS]["norm"]


def test_running_statistics_move_and_are_averaged():
    state, step = norm_step()
    state, metrics = jax.jit(step)(state, ROOT, DATA)
    assert set(metrics) == {"loss", "grad_norm", "skipped", "nonfinite"}
    mean, var = np.mean(DATA["x"], 0), np.var(DATA["x"], 0, ddof=1)
    np.testing.assert_allclose(statistics(state)["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(statistics(state)["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_model_state_is_apart_from_what_the_optimizer_and_the_average_see():
    state, step = norm_step()
    for now in (state, jax.jit(step)(state, ROOT, DATA)[0]):
        assert set(now.model_state) == {STATISTICS}
        for trained in (now.params, now.ema_params, now.opt_state[0].mu, now.opt_state[0].nu):
            assert set(trained) == {"norm", "w"}
        merged = now.eval_params
        chex.assert_trees_all_equal(merged, {**now.ema_params, **now.model_state})
        assert NET.apply({"params": merged}, DATA["x"]).shape == DATA["x"].shape
    assert all("mean" not in name and "var" not in name for name in tensor_names(state.params))


def test_each_component_s_state_comes_back_under_its_name():
    """One is called twice, one once, one not in training; a frozen network's goes nowhere."""

    def loss_fn(params, frozen, keys, batch, gather):
        def call(tree, x, train=True):
            return jnp.mean(NET.apply({"params": tree}, x, train=train) ** 2)

        x = batch["x"]
        copied = jax.tree.map(lambda a: 1 * a, params["twice"])  # the mark outlives the copy
        losses = (
            call(frozen["teacher"], x + 9), call(copied, x), call(params["once"], x + 1),
            call(params["twice"], x + 2), call(params["never"], x, train=False),
        )  # fmt: skip
        return sum(losses) * params["scale"], {}

    tree, tx = jax.jit(NET.init)(ROOT, DATA["x"])["params"], optax.adam(0.1)
    parts = {name: jax.tree.map(jnp.array, tree) for name in ("twice", "once", "never")}
    state = init_state({**parts, "scale": jnp.ones(())}, tx)
    assert set(state.params) == {*parts, "scale"}
    step = jax.jit(make_train_step(Loss(loss_fn), tx, 0.9))
    after, _ = step(state, ROOT, DATA, {"teacher": tree})
    chex.assert_trees_all_equal_structs(after, state)
    mean = np.mean(DATA["x"], 0)
    for name, wanted in (("twice", mean + 1), ("once", mean + 1), ("never", 0 * mean)):
        found = after.model_state[name][STATISTICS]["norm"]["mean"]
        np.testing.assert_allclose(found, 0.1 * wanted, rtol=1e-5)
    var = after.model_state["never"][STATISTICS]["norm"]["var"]
    np.testing.assert_array_equal(var, 1)


def test_running_statistics_are_the_mean_over_devices_and_pieces():
    """Each part's variance is its own: so the mean of them is not that of all."""
    pieces = np.asarray(DATA["x"]).reshape(2, 4, 3)
    wanted = 0.9 + 0.1 * np.mean([piece.var(0, ddof=1) for piece in pieces], 0)
    state, step = norm_step(accumulate=2)
    accumulated, _ = jax.jit(step)(state, ROOT, DATA)
    state, step = norm_step(axis_name="batch")
    shares = jnp.asarray(pieces)
    shared, _ = jax.jit(jax.vmap(step, (None, None, 0), axis_name="batch"))(
        state, ROOT, {"x": shares}
    )
    np.testing.assert_allclose(statistics(accumulated)["var"], wanted, rtol=1e-5)
    for device in range(2):
        np.testing.assert_allclose(statistics(shared)["var"][device], wanted, rtol=1e-5)


def test_a_step_that_is_left_out_moves_no_statistics():
    state, step = norm_step()
    after, metrics = jax.jit(step)(state, ROOT, {"x": DATA["x"].at[0, 0].set(np.nan)})
    assert metrics["skipped"] == 1
    chex.assert_trees_all_equal(after.replace(step=state.step), state)


def test_of_two_calls_the_statistics_are_the_mean():
    def twice(params, keys, batch):
        NET.apply({"params": params}, batch["x"] + 2, train=True)
        return norm_loss(params, keys, batch)

    state, _ = norm_step()
    state, _ = jax.jit(make_train_step(twice, optax.adam(0.1), 0.9))(state, ROOT, DATA)
    wanted = 0.1 * (np.mean(DATA["x"], 0) + 1)
    np.testing.assert_allclose(statistics(state)["mean"], wanted, rtol=1e-5)


@pytest.mark.parametrize("name", parallel.PARALLELISM)
def test_frozen_arrays_are_data(name):
    """Other values give another result, with no other compilation."""
    traces, tx = [], optax.sgd(0.1)

    def towards(params, frozen, keys, batch, gather):
        traces.append(1)
        return 0.5 * jnp.mean(jnp.sum((params["w"] - frozen["v"] * batch["x"]) ** 2, -1)), {}

    parallelism = parallel.PARALLELISM[name]
    step = make_train_step(Loss(towards), tx, 0.9, axis_name=parallelism.axis_name)
    run_steps = parallelism.compile(step)
    key = parallel.replicate(jax.random.key, np.uint32(7))
    x = np.arange(24, dtype=np.float32).reshape(8, 3) / 10
    counts = []
    for v in (1.0, -3.0):
        state = parallel.replicate(lambda: init_state({"w": jnp.ones(3)}, tx))
        frozen = parallel.replicate(lambda v: {"v": v}, np.full(3, v, np.float32))
        state, _ = run_steps(state, key, parallelism.shard({"x": x[None]}), frozen)
        np.testing.assert_allclose(
            state.params["w"], 1 - 0.1 * (1 - v * x.mean(0)), rtol=1e-5, atol=1e-6
        )
        chex.assert_trees_all_equal(frozen["v"], np.full(3, v, np.float32))  # it is not donated
        counts.append(len(traces))
    assert counts[0] == counts[1]


def test_a_loss_without_frozen_arrays_gets_an_empty_tree():
    seen = []

    def loss_fn(params, frozen, keys, batch, gather):
        seen.append((frozen, gather(batch["x"]) is batch["x"]))
        return quadratic(params, keys, batch)

    _, history, _ = run(Loss(loss_fn), steps=1)
    _, plain, _ = run(quadratic, steps=1)
    assert seen == [({}, True)]
    chex.assert_trees_all_equal(history, plain)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_timed_loss_reads_the_number_of_steps_before_it(accumulate):
    """Gradients of 1 from the second step on: w moves by the rate at each of the others."""

    def loss_fn(params, frozen, keys, batch, gather):
        started = (frozen["step"] >= 1).astype(jnp.float32)
        return frozen["one"] * started * jnp.sum(params["w"]), {"step": frozen["step"]}

    tx = optax.sgd(0.1)
    step = jax.jit(make_train_step(Loss(loss_fn, timed=True), tx, 0.9, accumulate=accumulate))
    state = init_state({"w": jnp.zeros(2)}, tx)
    for before, w in enumerate((0.0, -0.1, -0.2)):
        state, metrics = step(state, ROOT, DATA, {"one": jnp.ones(())})
        assert metrics["step"] == before
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-6)


def test_a_loss_of_the_whole_batch_is_not_cut_in_pieces():
    def loss_fn(params, frozen, keys, batch, gather):
        return quadratic(params, keys, batch)

    tx = optax.sgd(0.1)
    for loss in (Loss(loss_fn, whole_batch=True), Loss(loss_fn, may_be_cut=False)):
        make_train_step(loss, tx, 0.9)
        with pytest.raises(UserError, match="accumulate=2 cuts the batch"):
            make_train_step(loss, tx, 0.9, accumulate=2)
    for loss in (Loss(loss_fn), Loss(loss_fn, whole_batch=True, may_be_cut=True)):
        make_train_step(loss, tx, 0.9, accumulate=2)


def test_what_is_made_on_every_device_is_what_is_made_on_one():
    """But for rounding, although its compiler spares effort."""

    def make(seed):
        numbers = nn.Conv(16, (3, 3), kernel_init=nn.initializers.lecun_normal()).init(
            jax.random.key(seed), jnp.zeros((1, 8, 8, 3))
        )
        return numbers, jax.random.uniform(jax.random.key(seed), (129,), minval=-0.3, maxval=0.7)

    seed = np.uint32(3)
    made = parallel.on_one_device(parallel.replicate(make, seed))
    chex.assert_trees_all_close(made, jax.jit(make)(seed), rtol=1e-6)
