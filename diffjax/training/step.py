"""The train state and the one pure train step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, Key

from diffjax.errors import UserError
from diffjax.models.stateful import collect, marked, mean_state, merge_state, split_state
from diffjax.randomness import sample_keys
from diffjax.typing import Gather, Params

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
LossFn = Callable[[Params, Key[Array, "B"], Batch], tuple[Float[Array, ""], Metrics]]
WholeLossFn = Callable[
    [Params, Params, Key[Array, "B"], Batch, Gather], tuple[Float[Array, ""], Metrics]
]


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a train step minimises: (params, frozen, keys, batch, gather) -> (loss, metrics).

    `params` is the tree of trained parameters merged with the model state. `frozen` is a tree of
    arrays that are not trained, such as a teacher's parameters. It is an argument of the compiled
    step, not a constant. `keys` and `batch` are this device's share.

    `gather` joins the devices' shares of an array, or of a tree of arrays, along the leading axis.
    A contrastive loss computes embeddings of its share, gathers them and compares all samples of
    the batch. All devices compute the same loss. The mean of their gradients is then the gradient
    of the loss of the whole batch, because the transpose of `gather` sums over devices.

    whole_batch: the loss compares the samples of the whole batch with each other.
    may_be_cut: accumulation may compute the loss in pieces. None means: unless whole_batch.
    in_pieces: the same loss of the whole batch, which computes each device's share in so many
    pieces by itself. Its value and gradient are those of `function`.
    timed: `frozen` also holds `step`, the number of steps before this one.
    """

    function: WholeLossFn
    whole_batch: bool = False
    may_be_cut: bool | None = None
    in_pieces: Callable[[int], WholeLossFn] | None = None
    timed: bool = False

    @classmethod
    def of(cls, loss: "LossFn | Loss") -> "Loss":
        """A Loss as it is; a plain function as a Loss that uses neither `frozen` nor `gather`."""
        if isinstance(loss, Loss):
            return loss
        return cls(lambda params, frozen, keys, batch, gather: loss(params, keys, batch))

    def cut(self, accumulate: int) -> tuple["Loss", int]:
        """The loss to minimise, and in how many pieces the step computes its gradient.

        Raises UserError for an accumulation that would change the loss.
        """
        if accumulate > 1 and self.in_pieces is not None:
            return Loss(self.in_pieces(accumulate), whole_batch=True, timed=self.timed), 1
        may_be_cut = not self.whole_batch if self.may_be_cut is None else self.may_be_cut
        if accumulate > 1 and not may_be_cut:
            raise UserError(
                f"accumulate={accumulate} cuts the batch in pieces, and this loss compares all "
                "samples of the batch: choose 1"
            )
        return self, accumulate


class TrainState(flax.struct.PyTreeNode):
    """Everything that training carries from step to step, and a checkpoint holds."""

    step: Any  # int32 scalar; like every leaf a shape or a host array at times
    params: Params
    ema_params: Params
    opt_state: Any
    model_state: Params  # running statistics and other state that no gradient moves; {} for none

    @property
    def eval_params(self) -> Params:
        """What evaluation and samplers use: the averaged parameters and the model state."""
        return merge_state(self.ema_params, self.model_state)


@runtime_checkable
class TrainStep(Protocol):
    """A pure (state, key, batch, frozen) -> (state, metrics); frozen=None stands for {}."""

    def __call__(
        self, state: TrainState, key: Key[Array, ""], batch: Batch, frozen: Params | None = None
    ) -> tuple[TrainState, Metrics]: ...


def init_state(tree: Params, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step, from the tree that a network's init returns.

    The tree may hold several networks, by name. The average starts at the parameters themselves.
    """
    params, model_state = split_state(tree)
    ema = jax.tree.map(jnp.array, params)  # a copy: the state is donated, each buffer once
    return TrainState(jnp.zeros((), jnp.int32), params, ema, tx.init(params), model_state)


def ema_decay_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """A decay that starts low, so that the first, random weights are soon forgotten."""
    return jnp.minimum(decay, (1 + step) / (10 + step))


def make_train_step(
    loss_fn: LossFn | Loss,
    tx: optax.GradientTransformation,
    ema_decay: float,
    *,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> TrainStep:
    """A pure (state, key, batch, frozen) -> (state, metrics), the batch being this device's share.

    Each sample draws from a key of its step and its place in the global batch, so that neither the
    number of devices nor `accumulate`, the number of pieces the batch is cut into, changes a draw.

    An update from what is not finite is left out: the step is counted, the rest of the state stays
    as it was, and `skipped` is 1 in the metrics. `nonfinite` there has an entry for each of
    tensor_names; the last, of parameters that overflow in the update itself, cannot be undone.

    The loss sees the trained parameters merged with the model state, and the gradient is with
    respect to the trained parameters alone. The new model state is the mean over calls, pieces and
    devices; batch norm normalises each call's samples by their own statistics.

    Raises UserError where `accumulate` would change the loss.
    """
    objective, pieces = Loss.of(loss_fn).cut(accumulate)
    gradients = _gradients(_merged(objective, axis_name), pieces)
    update = _update(tx, ema_decay)

    def step(
        state: TrainState, key: Key[Array, ""], batch: Batch, frozen: Params | None = None
    ) -> tuple[TrainState, Metrics]:
        size = jax.tree.leaves(batch)[0].shape[0]
        first = lax.axis_index(axis_name) * size if axis_name else 0
        keys = sample_keys(jax.random.fold_in(key, state.step), first, size)
        held = {} if frozen is None else frozen
        given = state.model_state, {**held, "step": state.step} if objective.timed else held
        (loss, (metrics, moved)), grads = gradients(state.params, given, keys, batch)
        if axis_name:
            loss, metrics, moved, grads = lax.pmean((loss, metrics, moved, grads), axis_name)
        # The norm is made of these sums too; a finite number whose square is not counts as bad.
        squares = [optax.tree.norm(grad, squared=True) for grad in jax.tree.leaves(grads)]
        bad = ~jnp.isfinite(jnp.stack([loss, *squares]))
        sound = ~bad.any()
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}
        # A branch: choosing number by number takes twice as long on a CPU.
        state = lax.cond(
            sound, update, lambda state, *_: state.replace(step=state.step + 1),
            state, grads, moved,
        )  # fmt: skip
        # A sum compiles in a fourth of the time of isfinite over all numbers.
        moved_to = jax.tree.leaves((state.params, state.model_state))
        sums = [jnp.abs(array).sum() for array in moved_to]
        nonfinite = jnp.append(bad, ~jnp.isfinite(jnp.stack(sums)).all())
        return state, {**metrics, "skipped": 1.0 - sound, "nonfinite": nonfinite}

    return step


def _gradients(loss: Callable[..., Any], accumulate: int) -> Callable[..., tuple[Any, Any]]:
    """The value and gradient of `_merged`, the mean over the pieces of the batch."""
    value_and_grad = jax.value_and_grad(loss, has_aux=True)

    def gradients(
        params: Params, given: tuple[Params, Params], keys: Key[Array, "B"], batch: Batch
    ) -> tuple[Any, Any]:
        if accumulate == 1:
            return value_and_grad(params, given, keys, batch)
        pieces = jax.tree.map(
            lambda a: a.reshape(accumulate, a.shape[0] // accumulate, *a.shape[1:]), (keys, batch)
        )

        def one(_: None, piece: Any) -> tuple[None, Any]:
            return None, value_and_grad(params, given, *piece)

        _, parts = lax.scan(one, None, pieces)
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), parts)

    return gradients


def _update(
    tx: optax.GradientTransformation, ema_decay: float
) -> Callable[[TrainState, Params, Params], TrainState]:
    """The state after a step, from the gradient and the new model state."""

    def update(state: TrainState, grads: Params, moved: Params) -> TrainState:
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay_at(state.step, ema_decay)
        with jax.named_scope("ema"):
            ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)
        model_state = merge_state(state.model_state, moved)
        return TrainState(state.step + 1, params, ema_params, opt_state, model_state)

    return update


def _merged(loss: Loss, axis_name: str | None) -> Callable[..., Any]:
    """The loss as a function of the trained parameters, and the model state that it computes.

    (params, (model_state, frozen), keys, batch) -> (loss, (metrics, new model state)).
    """

    def gather(share: Any) -> Any:
        return lax.all_gather(share, axis_name, tiled=True) if axis_name else share

    def merged(
        params: Params, given: tuple[Params, Params], keys: Key[Array, "B"], batch: Batch
    ) -> tuple[Float[Array, ""], tuple[Metrics, Params]]:
        model_state, frozen = given
        tree = merge_state(params, marked(model_state))
        with collect() as moved:  # each of several calls begins where the step does
            value, metrics = loss.function(tree, frozen, keys, batch, gather)
        return value, (metrics, mean_state(moved))

    return merged


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
