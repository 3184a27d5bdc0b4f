"""A contrastive loss of the whole batch, on one device and on four, against float64 NumPy."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.training.parallel import PARALLELISM, replicate
from diffjax.training.step import Loss, init_state, make_train_step

RNG = np.random.default_rng(0)
BATCH = {name: RNG.normal(size=(8, 3)).astype(np.float32) for name in ("image", "text")}
START = {
    **{name: RNG.normal(size=(3, 2)).astype(np.float32) for name in ("image", "text")},
    "logit_scale": np.asarray(0.7, np.float32),
}
RATE = 0.5


def tower(weights, x):
    """Embeddings of unit length."""
    h = jnp.tanh(x @ weights)
    return h / jnp.linalg.norm(h, axis=-1, keepdims=True)


def contrastive(params, frozen, keys, batch, gather):
    """Symmetric cross entropy over all pairings (Radford et al. 2021, fig. 3)."""
    own = {name: tower(params[name], batch[name]) for name in ("image", "text")}
    all_of = gather(own)
    logits = jnp.exp(params["logit_scale"]) * all_of["image"] @ all_of["text"].T
    labels = jnp.arange(len(logits))
    both = [
        optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
        for scores in (logits, logits.T)
    ]
    return sum(both) / 2, {"rows": jnp.asarray(len(logits), jnp.float32)}


def one_step(name):
    """The loss and the parameters after a step of gradient descent."""
    parallelism, tx = PARALLELISM[name], optax.sgd(RATE)
    loss = Loss(contrastive, whole_batch=True)
    step = make_train_step(loss, tx, 0.9, axis_name=parallelism.axis_name)
    state = replicate(lambda: init_state(jax.tree.map(jnp.asarray, START), tx))
    key = replicate(jax.random.key, np.uint32(0))
    batches = parallelism.shard({name: x[None] for name, x in BATCH.items()})
    state, metrics = parallelism.compile(step)(state, key, batches)
    params = {name: np.asarray(value).tolist() for name, value in state.params.items()}
    return {"loss": float(metrics["loss"][0]), "rows": float(metrics["rows"][0]), **params}


def print_steps():
    """What the test below starts on several devices."""
    print(json.dumps([jax.device_count(), {name: one_step(name) for name in PARALLELISM}]))


def reference(params):
    """The loss in float64, written out."""
    embedded = {}
    for name in ("image", "text"):
        h = np.tanh(BATCH[name].astype(np.float64) @ params[name])
        embedded[name] = h / np.sqrt((h**2).sum(1, keepdims=True))
    logits = np.exp(params["logit_scale"]) * embedded["image"] @ embedded["text"].T
    total = 0.0
    for scores in (logits, logits.T):
        total += np.mean(np.log(np.exp(scores).sum(1)) - np.diag(scores))
    return total / 2


def descended(start, width=1e-5):
    """A step of gradient descent by central differences."""
    after = {}
    for name, value in start.items():
        slope = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            move = np.zeros_like(value)
            move[index] = width
            ends = [reference({**start, name: value + sign * move}) for sign in (1, -1)]
            slope[index] = (ends[0] - ends[1]) / (2 * width)
        after[name] = value - RATE * slope
    return after


@functools.cache
def found_on(devices):
    done = subprocess.run(
        [sys.executable, "-c", "import test_whole_batch; test_whole_batch.print_steps()"],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
        cwd=pathlib.Path(__file__).parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, found = json.loads(done.stdout)
    assert count == devices
    return found


@pytest.mark.parametrize("name", PARALLELISM)
@pytest.mark.parametrize("devices", [1, 4])
def test_loss_and_gradient_are_the_whole_batch_s(devices, name):
    found = found_on(devices)[name]
    start = {name: np.asarray(value, np.float64) for name, value in START.items()}
    wanted = descended(start)
    assert found["rows"] == 8
    np.testing.assert_allclose(found["loss"], reference(start), rtol=1e-6)
    for part, value in wanted.items():
        assert np.abs(value - start[part]).max() > 1e-3
        np.testing.assert_allclose(found[part], value, rtol=1e-5, atol=1e-6)
