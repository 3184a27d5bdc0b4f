"""The train state and the one pure train step."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key

from diffjax.errors import UserError
from diffjax.models.batch_norm import STATISTICS, collect
from diffjax.randomness import sample_keys
from diffjax.training.optimizers import make_optimizer as make_optimizer  # kept importable here
from diffjax.typing import Params

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
LossFn = Callable[[Params, Key[Array, "B"], Batch], tuple[Float[Array, ""], Metrics]]


class TrainState(flax.struct.PyTreeNode):
    """Everything that training carries from step to step, and a checkpoint holds."""

    step: Any  # int32 scalar; like every leaf a shape or a host array at times
    params: Params
    ema_params: Params
    opt_state: Any


TrainStep = Callable[[TrainState, Key[Array, ""], Batch], tuple[TrainState, Metrics]]


def init_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the average starts at the parameters themselves."""
    ema = jax.tree.map(jnp.array, params)  # a copy: the state is donated, each buffer once
    return TrainState(jnp.zeros((), jnp.int32), params, ema, tx.init(params))


def ema_decay_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """A decay that starts low, so that the first, random weights are soon forgotten."""
    return jnp.minimum(decay, (1 + step) / (10 + step))


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    ema_decay: float,
    *,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> TrainStep:
    """A pure (state, key, batch) -> (state, metrics), the batch being this device's share.

    Each sample draws from a key of its step and its place in the global batch, so that neither the
    number of devices nor `accumulate`, the number of pieces the batch is cut into, changes a draw.

    An update from what is not finite is left out: the step is counted, the rest of the state stays
    as it was, and `skipped` is 1 in the metrics. `nonfinite` there has an entry for each of
    tensor_names; the last, of parameters that overflow in the update itself, cannot be undone.

    What a network with batch norm moves its running statistics to goes into the new state's
    parameters, the mean over devices and pieces; each of those normalises by its own samples.
    """
    loss_fn = _with_statistics(loss_fn)

    def gradients(params: Params, keys: Key[Array, "B"], batch: Batch) -> tuple[Any, Any]:
        if accumulate == 1:
            return jax.value_and_grad(loss_fn, has_aux=True)(params, keys, batch)
        pieces = jax.tree.map(
            lambda a: a.reshape(accumulate, a.shape[0] // accumulate, *a.shape[1:]), (keys, batch)
        )

        def one(_: None, piece: Any) -> tuple[None, Any]:
            return None, jax.value_and_grad(loss_fn, has_aux=True)(params, *piece)

        _, parts = lax.scan(one, None, pieces)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), parts)

    def update(state: TrainState, grads: Params, statistics: Params) -> TrainState:
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = {**optax.apply_updates(state.params, updates), **statistics}
        decay = ema_decay_at(state.step, ema_decay)
        with jax.named_scope("ema"):
            ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)
        return TrainState(state.step + 1, params, ema_params, opt_state)

    def step(state: TrainState, key: Key[Array, ""], batch: Batch) -> tuple[TrainState, Metrics]:
        size = jax.tree.leaves(batch)[0].shape[0]
        first = lax.axis_index(axis_name) * size if axis_name else 0
        keys = sample_keys(jax.random.fold_in(key, state.step), first, size)
        (loss, metrics), grads = gradients(state.params, keys, batch)
        if axis_name:
            loss, metrics, grads = lax.pmean((loss, metrics, grads), axis_name)
        statistics = {STATISTICS: metrics.pop(STATISTICS)} if STATISTICS in metrics else {}
        # The norm is made of these sums too; a finite number whose square is not counts as bad.
        squares = [optax.tree.norm(grad, squared=True) for grad in jax.tree.leaves(grads)]
        bad = ~jnp.isfinite(jnp.stack([loss, *squares]))
        sound = ~bad.any()
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}
        # A branch: choosing number by number takes twice as long on a CPU.
        state = lax.cond(
            sound, update, lambda state, *_: state.replace(step=state.step + 1),
            state, grads, statistics,
        )  # fmt: skip
        # A sum compiles in a fourth of the time of isfinite over all numbers.
        sums = [jnp.abs(param).sum() for param in jax.tree.leaves(state.params)]
        nonfinite = jnp.append(bad, ~jnp.isfinite(jnp.stack(sums)).all())
        return state, {**metrics, "skipped": 1.0 - sound, "nonfinite": nonfinite}

    return step


def _with_statistics(loss_fn: LossFn) -> LossFn:
    """The loss, and among its metrics the running statistics that its calls move, if any do."""

    def told(
        params: Params, keys: Key[Array, "B"], batch: Batch
    ) -> tuple[Float[Array, ""], dict[str, Any]]:
        with collect() as moved:
            loss, metrics = loss_fn(params, keys, batch)
        if moved:  # each of several calls begins where the step does
            mean = jax.tree.map(lambda *parts: sum(parts) / len(parts), *moved)
            metrics = {**metrics, STATISTICS: mean}
        return loss, metrics

    return told


def tensor_names(params: Params) -> tuple[str, ...]:
    """What each entry of the metric `nonfinite` stands for: loss, each gradient, all parameters."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    gradients = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths)
    return ("loss", *gradients, "the parameters, which overflow")


def check_batch(batch_size: int, devices: int, accumulate: int) -> None:
    """Raises UserError unless the global batch can be cut evenly."""
    pieces = devices * accumulate
    if batch_size < 1 or batch_size % pieces:
        raise UserError(
            f"batch_size={batch_size} cannot be divided by {pieces} "
            f"({devices} devices x accumulate={accumulate}): choose a multiple of {pieces}",
            option="batch_size",
        )
