"""Where checkerboards come from, and where they go: what experiments.upsampling shows second."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int, Key
from matplotlib.figure import Figure

from diffjax.metrics.checkerboard import checkerboard_energy
from diffjax.metrics.psnr import psnr
from diffjax.models.layers import Conv3x3, Resized
from diffjax.models.upsampling import WAYS, Transposed
from diffjax.typing import Images, Params

FEATURES, BATCH, RATE = 16, 64, 3e-3
STARTS = 8  # random weights that a figure at the start is the mean of
EDGE = 8  # pixels of a flat picture whose border is within a kernel of the outside
Pairs = tuple[tuple[int, int], ...]
UP: Pairs = ((2, 2), (3, 2), (4, 2), (5, 2), (4, 4), (6, 4), (8, 4))
DOWN: tuple[tuple[Literal["convolution", "average", "max"], int, int], ...] = (
    *(("convolution", kernel, stride) for kernel, stride in UP),
    ("average", 2, 2), ("average", 3, 2), ("max", 2, 2), ("max", 3, 2),
)  # fmt: skip


class UpsamplingLayer(NamedTuple):
    """A way to enlarge by `stride`; `build(channels)` is a Linen module."""

    name: str
    build: Callable[..., nn.Module]
    stride: int


LAYERS = (
    *(
        UpsamplingLayer(f"transposed k{k} s{s}", partial(Transposed, kernel=k, stride=s), s)
        for k, s in UP
    ),
    *(UpsamplingLayer(way, build, 2) for way, build in WAYS.items() if way != "transposed"),
)


class Enlarger(nn.Module):
    """The least network that learns to enlarge: features, then the layer, which gives the image."""

    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        return self.layer(1)(nn.relu(Conv3x3(FEATURES)(x)))


class Enlarged(NamedTuple):
    """What a layer makes of a flat image and of garments, before and after training."""

    layer: UpsamplingLayer
    stamps: Float[np.ndarray, "h h"]
    started: Float[np.ndarray, "H H"]
    trained: Float[np.ndarray, "H H"]
    share_at_start: float
    share_trained: float
    psnr: float
    losses: list[float]

    def figures(self) -> dict[str, float]:
        return {
            "unevenness of stamps": unevenness(self.stamps),
            "checkerboard at the start": self.share_at_start,
            "checkerboard, trained": self.share_trained,
            "PSNR, trained": self.psnr,
        }


class Gradient(NamedTuple):
    """A way to shrink, seen from its input."""

    name: str
    stride: int
    windows: Float[np.ndarray, "h h"]
    picture: Float[np.ndarray, "H H"]
    share: float

    def figures(self) -> dict[str, float]:
        return {"unevenness of windows": unevenness(self.windows), "checkerboard": self.share}


def coarse(images: Images, stride: int) -> Resized:
    """The mean of each block."""
    return einops.reduce(images, "n (h p) (w q) c -> n h w c", "mean", p=stride, q=stride)


def enlarge(train: Images, test: Images, steps: int, seed: int) -> Iterator[Enlarged]:
    """Each layer measured, trained for so many steps, and measured again."""
    # These keys compile in half the time of the usual ones, and NumPy's rows in none.
    keys = jax.random.split(jax.random.key(seed, impl="unsafe_rbg"), STARTS)
    rows = np.random.RandomState(seed).randint(0, len(train), (steps, BATCH))
    for layer in LAYERS:
        model = Enlarger(layer.build)
        given, shown = coarse(train, layer.stride), coarse(test, layer.stride)
        starts = _starts(model, shown[:1], keys)
        at_start, trained, losses = map(np.asarray, _fit(model, starts, given, train, rows, shown))
        yield Enlarged(
            layer,
            stamps(layer),
            at_start[0, 0, ..., 0],
            trained[0, ..., 0],
            float(np.mean([checkerboard_energy(x, layer.stride).mean() for x in at_start])),
            float(checkerboard_energy(trained, layer.stride).mean()),
            psnr(trained, np.asarray(test)),
            losses.tolist(),
        )


@partial(jax.jit, static_argnums=0)
def _starts(model: nn.Module, images: Resized, keys: Key[Array, "S"]) -> Params:
    return lax.map(lambda key: model.init(key, images)["params"], keys)


@partial(jax.jit, static_argnums=0)
def _fit(
    model: nn.Module,
    starts: Params,
    given: Resized,
    wanted: Images,
    rows: Int[Array, "T B"],
    shown: Resized,
) -> tuple[Float[Array, "S N H W C"], Images, Float[Array, "T"]]:
    """What each start makes of `shown`, what the first does once trained, and its losses.

    Trained by Adam on the squared error of each step's rows.
    """
    tx = optax.adam(RATE)

    def apply(params: Params, images: Resized) -> Any:
        return model.apply({"params": params}, images)

    def step(carry: Any, rows: Int[Array, "B"]) -> tuple[Any, Float[Array, ""]]:
        params, state = carry
        loss, grads = jax.value_and_grad(
            lambda params: jnp.mean((apply(params, given[rows]) - wanted[rows]) ** 2)
        )(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    first = jax.tree.map(lambda leaves: leaves[0], starts)
    (params, _), losses = lax.scan(step, (first, tx.init(first)), rows)
    return lax.map(lambda params: apply(params, shown), starts), apply(params, shown), losses


def stamps(layer: UpsamplingLayer) -> Float[np.ndarray, "h h"]:
    """A flat image through the layer with kernels of ones: how often each pixel is written to."""
    flat = jnp.ones((1, 48 // layer.stride, 48 // layer.stride, 1))
    module = layer.build(1)
    params = jax.tree_util.tree_map_with_path(
        lambda path, p: np.full(p.shape, path[-1].key == "kernel", np.float32),
        jax.eval_shape(module.init, jax.random.key(0), flat)["params"],
    )
    return _inner(jax.jit(module.apply)({"params": params}, flat))


def unevenness(pattern: Float[np.ndarray, "h h"]) -> float:
    """Standard deviation over mean: 0 where each pixel counts alike."""
    return float(pattern.std() / pattern.mean())


def gradients(test: Images, seed: int) -> Iterator[Gradient]:
    """Each way to shrink, by the gradient of what it gives with respect to what it is given."""
    rng = np.random.RandomState(seed)
    for kind, kernel, stride in DOWN:
        weights = rng.standard_normal((STARTS, kernel, kernel, 1, FEATURES)).astype(np.float32)
        found = np.asarray(_slopes(test, weights, kind=kind, stride=stride))
        share = float(np.mean([checkerboard_energy(x, stride).mean() for x in found]))
        seen = windows(kind, kernel, stride)
        yield Gradient(f"{kind} k{kernel} s{stride}", stride, seen, found[0, 0, ..., 0], share)


def windows(kind: str, kernel: int, stride: int) -> Float[np.ndarray, "h h"]:
    """The gradient of the sum, of kernel and image of ones: how many windows see each pixel."""
    ones, flat = jnp.ones((kernel, kernel, 1, 1)), jnp.ones((1, 48, 48, 1))
    of_sum = jax.grad(lambda x: shrunk(x, ones, kind=kind, stride=stride).sum())
    return _inner(jax.jit(of_sum)(flat))


@partial(jax.jit, static_argnames=("kind", "stride"))
def _slopes(
    images: Images, weights: Float[Array, "S k k 1 F"], *, kind: str, stride: int
) -> Float[Array, "S B H W C"]:
    """Gradients of half the sum of squares, of each of several weights."""

    def one(weights: Float[Array, "k k 1 F"]) -> Images:
        given = partial(shrunk, weights=weights, kind=kind, stride=stride)
        return jax.grad(lambda x: 0.5 * (given(x) ** 2).sum())(images)

    return lax.map(one, weights)


def shrunk(x: Images, weights: Float[Array, "k k 1 F"], *, kind: str, stride: int) -> Resized:
    """1 / stride of the height and width; pools use no more of `weights` than their size."""
    window, strides = weights.shape[:2], (stride, stride)
    match kind:
        case "average":
            return nn.avg_pool(x, window, strides, "SAME")
        case "max":
            return nn.max_pool(x, window, strides, "SAME")
    form = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, weights, strides, "SAME", dimension_numbers=form)


def _inner(image: Images) -> Float[np.ndarray, "h h"]:
    return np.asarray(image)[0, EDGE:-EDGE, EDGE:-EDGE, 0]


def plot_layers(found: list[Enlarged]) -> Figure:
    """A column a layer: its stamps, and a held-out garment before and after training."""
    rows = [
        [(e.stamps, f"unevenness {unevenness(e.stamps):.2f}") for e in found],
        [(e.started, f"checkerboard {e.share_at_start:.2%}") for e in found],
        [(e.trained, f"checkerboard {e.share_trained:.2%}\n{e.psnr:.1f} dB") for e in found],
    ]
    sides = ("stamps a pixel", "a garment at the start", "after training")
    return _plot([e.layer.name for e in found], sides, rows)


def plot_gradients(found: list[Gradient]) -> Figure:
    """A column a way to shrink: gradients of the sum, of ones, and of the squares, of a garment."""
    rows = [
        [(g.windows, f"unevenness {unevenness(g.windows):.2f}") for g in found],
        [(g.picture, f"checkerboard {g.share:.2%}") for g in found],
    ]
    sides = ("gradient of the sum,\nkernel and image of ones", "of half the squares,\na garment")
    return _plot([g.name for g in found], sides, rows)


def _plot(
    titles: list[str], sides: tuple[str, ...], rows: list[list[tuple[np.ndarray, str]]]
) -> Figure:
    figure = Figure(
        figsize=(1.35 * len(titles) + 0.5, 1.75 * len(rows)), dpi=110, layout="constrained"
    )
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title.replace(" ", "\n", 1), fontsize=8)
    for line, side, cells in zip(grid, sides, rows, strict=True):
        line[0].set_ylabel(side, fontsize=8)
        for axes, (picture, text) in zip(line, cells, strict=True):
            axes.imshow(picture, cmap="gray", interpolation="nearest", **_range(picture))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(text, fontsize=7)
    return figure


def _range(picture: np.ndarray) -> dict[str, float]:
    """From black to white; a flat picture is grey, not the two values that rounding may give it."""
    low, high = float(picture.min()), float(picture.max())
    flat = high - low < 1e-4 * abs(high)
    return {"vmin": 0, "vmax": 2 * high} if flat else {"vmin": low, "vmax": high}
