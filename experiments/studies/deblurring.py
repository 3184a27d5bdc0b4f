"""Ways back from a known blur, each with its PSNR: what experiments.upsampling shows first."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import einops
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from diffjax.data import Records, epoch
from diffjax.deconvolution import (
    convolve,
    fit_kernel,
    gaussian,
    inverse_filter,
    mean_power,
    motion,
    observe,
    spread,
    transposed,
    wiener,
)
from diffjax.metrics.psnr import psnr

SIDE, ACROSS = 112, 4  # pixels, and garments of 28 that make them
PSFS = {"Gaussian, σ = 1.5 px": gaussian(1.5), "motion, 9 px at 30°": motion(9, 30)}
# Point-spread function, stride, and the noise's standard deviation, of images in [-1, 1].
CASES = tuple(itertools.product(PSFS, (1, 2), (0.0, 0.04)))
KERNEL = 11
Square = Float[np.ndarray, "N h h"]


class Sight(NamedTuple):
    """What is seen of images, and how; of others of their kind, to learn from, all is known."""

    psf: Float[np.ndarray, "K K"]
    stride: int
    noise: float
    observed: Square
    others: Square
    others_observed: Square


class Result(NamedTuple):
    """One degradation: by method the first image, as it was and as it came back, and the PSNR."""

    psf: str
    stride: int
    noise: float
    pictures: dict[str, Float[np.ndarray, "h h"]]
    psnr: dict[str, float]


def repeated(observed: Square, stride: int) -> Square:
    return observed.repeat(stride, 1).repeat(stride, 2)


def fitted(sight: Sight, grow: Callable[[Square, int], Square]) -> Square:
    """As a layer that has learnt from the others: `grow`, then one convolution."""
    kernel = fit_kernel(grow(sight.others_observed, sight.stride), sight.others, KERNEL)
    return convolve(grow(sight.observed, sight.stride), kernel)


METHODS: dict[str, Callable[[Sight], Square]] = {
    "transposed, same kernel": lambda s: transposed(s.observed, s.psf, s.stride),
    "transposed, kernel learnt": lambda s: fitted(s, spread),
    "resize-conv, kernel learnt": lambda s: fitted(s, repeated),
    "inverse filter": lambda s: inverse_filter(s.observed, s.psf, s.stride),
    "Wiener filter": lambda s: wiener(
        s.observed, s.psf, s.stride, mean_power(s.others), s.noise**2
    ),
}


def mosaics(records: Records, count: int, seed: int) -> Square:
    """Squares of 16 garments each, drawn without a repeat."""
    whole = next(epoch(records, len(records)))["image"]
    chosen = np.random.RandomState(seed).permutation(len(whole))[: count * ACROSS**2]
    rows = einops.rearrange(whole[chosen], "(n r c) h w 1 -> n (r h) (c w)", r=ACROSS, c=ACROSS)
    return rows.astype(np.float64)


def deblur(images: Square, others: Square, seed: int) -> Iterator[Result]:
    """A result for each of CASES; the ways that learn do so from `others`."""
    rng = np.random.RandomState(seed)

    def seen(images: Square, psf: Float[np.ndarray, "K K"], stride: int, noise: float) -> Square:
        exact = observe(images, psf, stride)
        return exact + noise * rng.standard_normal(exact.shape)

    for name, stride, noise in CASES:
        of = (PSFS[name], stride, noise)
        sight = Sight(*of, seen(images, *of), others, seen(others, *of))
        back = {method: undo(sight) for method, undo in METHODS.items()}
        pictures = {"image": images[0], "observed": sight.observed[0]}
        pictures |= {method: found[0] for method, found in back.items()}
        yield Result(
            name, stride, noise, pictures, {m: psnr(found, images) for m, found in back.items()}
        )


def said(result: Result) -> str:
    noise = f"noise {result.noise:g}" if result.noise else "no noise"
    return f"{result.psf}, stride {result.stride}, {noise}"


def plot(results: list[Result]) -> Figure:
    """A row a degradation, a column a way back."""
    columns = list(results[0].pictures)
    size = (1.75 * len(columns) + 1, 1.9 * len(results))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.subplots(len(results), len(columns), squeeze=False)
    for row, result in zip(grid, results, strict=True):
        row[0].set_ylabel(said(result).replace(", stride", "\nstride"), fontsize=8)
        for axes, (name, picture) in zip(row, result.pictures.items(), strict=True):
            axes.imshow(picture, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if name in result.psnr:
                axes.set_xlabel(f"{result.psnr[name]:.1f} dB", fontsize=8)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize=8)
    return figure
