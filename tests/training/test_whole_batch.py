"""Contrastive losses of the whole batch, on one device and on four, against float64 NumPy."""

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

from diffjax.objectives.contrastive import contrastive_loss
from diffjax.training.parallel import PARALLELISM, replicate
from diffjax.training.step import Loss, init_state, make_train_step

RNG = np.random.default_rng(0)
TOWERS = ("image", "text")
BATCH = {
    **{name: RNG.normal(size=(8, 3)).astype(np.float32) for name in TOWERS},
    "caption": np.asarray([0, 1, 2, 3, 4, 1, 6, 3], np.int32),  # two captions occur twice
}
START = {
    **{name: RNG.normal(size=(3, 2)).astype(np.float32) for name in TOWERS},
    "logit_scale": np.asarray(0.7, np.float32),
    "logit_bias": np.asarray(-0.3, np.float32),
}
RATE = 0.5
CONTRASTS = ("softmax", "sigmoid")
PIECES = (1, 2)


def encode(params, keys, batch):
    return tuple(jnp.tanh(batch[name] @ params[name]) for name in TOWERS)


def one_step(name, contrast, pieces):
    """The loss and the parameters after a step of gradient descent."""
    parallelism, tx = PARALLELISM[name], optax.sgd(RATE)

    def in_pieces(pieces):
        own = contrastive_loss(encode, contrast, pieces)
        return lambda params, frozen, keys, batch, gather: own(params, keys, batch, gather)

    loss = Loss(in_pieces(1), whole_batch=True, in_pieces=in_pieces)
    step = make_train_step(loss, tx, 0.9, accumulate=pieces, axis_name=parallelism.axis_name)
    state = replicate(lambda: init_state(jax.tree.map(jnp.asarray, START), tx))
    key = replicate(jax.random.key, np.uint32(0))
    batches = parallelism.shard({name: x[None] for name, x in BATCH.items()})
    state, metrics = parallelism.compile(step)(state, key, batches)
    params = {name: np.asarray(value).tolist() for name, value in state.params.items()}
    figures = {name: float(metrics[name][0]) for name in ("loss", "accuracy", "temperature")}
    return {**figures, **params}


def print_steps():
    """What the test below starts on several devices."""
    found = {
        f"{name} {contrast} {pieces}": one_step(name, contrast, pieces)
        for name in PARALLELISM
        for contrast in CONTRASTS
        for pieces in PIECES
    }
    print(json.dumps([jax.device_count(), found]))


def embedded(params):
    for name in TOWERS:
        h = np.tanh(BATCH[name].astype(np.float64) @ params[name])
        yield h / np.sqrt((h**2).sum(1, keepdims=True))


def reference(params, contrast):
    """The loss in float64, a pair at a time."""
    images, texts = embedded(params)
    cosines, captions = images @ texts.T, BATCH["caption"]
    total = 0.0
    for i in range(8):
        others = [j for j in range(8) if captions[j] != captions[i]]
        if contrast == "softmax":
            for scores in (cosines, cosines.T):
                logits = np.exp(params["logit_scale"]) * scores[i]
                total += (np.log(np.exp(logits[[i, *others]]).sum()) - logits[i]) / 2
        else:
            logits = np.exp(params["logit_scale"]) * cosines[i] + params["logit_bias"]
            total -= np.log(1 / (1 + np.exp(-logits[i])))
            total -= np.log(1 / (1 + np.exp(logits[others]))).sum()
    return total / 8


def accuracy(params, contrast):
    """The share of images (and, for the softmax, texts) most similar to their own."""
    images, texts = embedded(params)
    cosines, captions = images @ texts.T, BATCH["caption"]
    same = captions[:, None] == captions
    sides = (cosines, cosines.T) if contrast == "softmax" else (cosines,)
    return np.mean([np.diag(c) > np.where(same, -2, c).max(1) for c in sides])


def descended(start, contrast, width=1e-5):
    """A step of gradient descent by central differences."""
    after = {}
    for name, value in start.items():
        slope = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            move = np.zeros_like(value)
            move[index] = width
            ends = [reference({**start, name: value + sign * move}, contrast) for sign in (1, -1)]
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


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("name", PARALLELISM)
@pytest.mark.parametrize("devices", [1, 4])
def test_loss_and_gradient_are_the_whole_batch_s(devices, name, contrast, pieces):
    found = found_on(devices)[f"{name} {contrast} {pieces}"]
    start = {name: np.asarray(value, np.float64) for name, value in START.items()}
    np.testing.assert_allclose(found["loss"], reference(start, contrast), rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], accuracy(start, contrast), rtol=1e-6)
    np.testing.assert_allclose(found["temperature"], np.exp(-0.7), rtol=1e-6)
    for part, value in descended(start, contrast).items():
        if (part, contrast) != ("logit_bias", "softmax"):  # which has none
            assert np.abs(value - start[part]).max() > 1e-3
        np.testing.assert_allclose(found[part], value, rtol=1e-5, atol=1e-6)
