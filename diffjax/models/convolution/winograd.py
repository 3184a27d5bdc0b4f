"""3x3 convolutions by fewer multiplications (Winograd 1980; Lavin & Gray 2016, sec. 4).

An image is cut into tiles of m x m outputs, which see (m+2) x (m+2) inputs each. Input tiles and
kernel are taken to (m+2)² points where convolution is multiplication, so that each point is one
matrix product over the channels: (m+2)² multiplications for 9 m².

The transforms are matrix products as well: on a CPU they run at the speed of memory, and a
convolution is a dozen operations to compile. A piece of the batch is taken at a time, so that its
tiles stay in the cache that the cores share, and of large images a band of rows.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from diffjax.models.convolution.window import Kernel, Pair, Tensor, Window

SAME = Window((3, 3), (1, 1), ((1, 1), (1, 1)))
TILE_BYTES = 5 << 20
# Images whose tiles take more than WHOLE_BYTES are computed a band of about BAND_BYTES at a time.
WHOLE_BYTES, BAND_BYTES = 64 << 20, 16 << 20

Table = dict[int, list[list[float | int]]]
# To the points and back, B^T and A^T of Lavin & Gray (eq. 11 and sec. 4.3): F(m x m, 3 x 3).
INPUT: Table = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
KERNEL: Table = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
OUTPUT: Table = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}
Matrix = Float[np.ndarray, "p q"]
Points = Float[Array, "P T C"]  # at each point a row a tile, or for a kernel a row an input channel


@dataclasses.dataclass(frozen=True)
class Winograd:
    """F(m x m, 3 x 3): takes 3x3 windows of stride 1 whose images keep their size."""

    m: int

    def takes(self, window: Window) -> bool:
        return window == SAME

    def forward(self, x: Tensor, w: Kernel, window: Window) -> Tensor:
        return self._convolve(x, _transformed(w, matrix(KERNEL, self.m)), 1)

    def input_gradient(self, dy: Tensor, w: Kernel, window: Window, size: Pair) -> Tensor:
        """dy convolved with the kernel turned round, inputs for outputs."""
        return self._convolve(dy, _transformed(w, matrix(KERNEL, self.m)[:, ::-1]), 2)

    def weight_gradient(self, x: Tensor, dy: Tensor, window: Window) -> Kernel:
        """The transpose of `forward` in its kernel: at each point a product over the tiles."""
        to_points, from_points = matrix(INPUT, self.m), matrix(OUTPUT, self.m)
        parts = [
            lax.dot_general(
                self._to_points(x[piece], to_points, border=1),
                self._to_points(dy[piece], from_points.T, border=0),
                (((1,), (1,)), ((0,), (0,))),
            )
            for piece in self._pieces(x)
        ]
        total, n = functools.reduce(operator.add, parts), self.m + 2
        dw = _transformed(total.reshape(n, n, *total.shape[1:]), matrix(KERNEL, self.m).T)
        return dw.reshape(3, 3, *total.shape[1:])

    def _convolve(self, x: Tensor, kernel: Points, contracted: int) -> Tensor:
        """`contracted` is the axis of the kernel that the channels of x are."""
        _, height, width, _ = x.shape

        def whole_tiles(padded: Tensor) -> Tensor:
            points = self._points(padded, matrix(INPUT, self.m))
            products = lax.dot_general(points, kernel, (((2,), (contracted,)), ((0,), (0,))))
            return self._from_points(products, padded.shape[1] - 2, width)

        wide = x.shape[3] + kernel.shape[3 - contracted]  # channels of both sides
        if self._bytes(height, width, wide, x) > WHOLE_BYTES:
            rows = max(1, BAND_BYTES // self._bytes(self.m, width, wide, x))
            return self._in_bands(x, rows, whole_tiles)
        padded = self._padded(x, self.m + 2, border=1)
        made = [whole_tiles(padded[piece]) for piece in self._pieces(x)]
        return jnp.concatenate(made)[:, :height]

    def _in_bands(self, x: Tensor, rows: int, convolved: Callable[[Tensor], Tensor]) -> Tensor:
        """`rows` rows of tiles at a time, of one image after the other."""
        batch, height, _, _ = x.shape
        bands = -(-self._tiles(height) // rows)
        rows = -(-self._tiles(height) // bands) * self.m  # of pixels, in bands of one height
        padded = self._padded(x, self.m + 2, border=1, height=bands * rows)

        def band(index: Int[Array, ""]) -> Tensor:
            start = (index // bands, index % bands * rows, 0, 0)
            return convolved(lax.dynamic_slice(padded, start, (1, rows + 2, *padded.shape[2:])))

        made = lax.map(band, jnp.arange(batch * bands))
        return made.reshape(batch, bands * rows, *made.shape[3:])[:, :height]

    def _padded(self, x: Tensor, length: int, *, border: int, height: int | None = None) -> Tensor:
        """x with zeros: `border` before the first tile, and so many that all tiles are whole.

        A tile sees `length` pixels. height: of all tiles' outputs, by default as few as there can
        be.
        """
        after = length - self.m - border
        down = height or self._tiles(x.shape[1]) * self.m
        below = down - x.shape[1] + after
        right = self._tiles(x.shape[2]) * self.m - x.shape[2] + after
        return jnp.pad(x, ((0, 0), (border, below), (border, right), (0, 0)))

    def _to_points(self, x: Tensor, to_points: Matrix, *, border: int) -> Points:
        """The tiles of x, transformed; `border` zeros before the first."""
        return self._points(self._padded(x, to_points.shape[1], border=border), to_points)

    def _points(self, x: Tensor, to_points: Matrix) -> Points:
        """The tiles of images of whole tiles, transformed in width and height."""
        batch, height, width, channels = x.shape
        points, length = to_points.shape
        down, across = ((side - length) // self.m + 1 for side in (height, width))
        x = _through(to_points, self._cut(x, 2, across, length))
        x = x.reshape(points * batch, -1, across, channels)
        x = _through(to_points, self._cut(x, 1, down, length))
        return x.reshape(points**2, batch * down * across, channels)

    def _from_points(self, products: Points, height: int, width: int) -> Tensor:
        """Tiles of outputs, put side by side and cut to the images' width."""
        n, m, channels = self.m + 2, self.m, products.shape[-1]
        down, across = self._tiles(height), self._tiles(width)
        y = _transformed(products.reshape(n, n, -1, channels), matrix(OUTPUT, m))
        y = y.reshape(m, m, -1, down, across, channels).transpose(2, 3, 0, 4, 1, 5)
        return y.reshape(-1, down * m, across * m, channels)[:, :, :width]

    def _cut(self, x: Tensor, axis: int, tiles: int, length: int) -> Float[Array, "l B h w C"]:
        """Position by position within a tile, those of all tiles along `axis`."""
        last = (tiles - 1) * self.m + 1
        return jnp.stack([lax.slice_in_dim(x, i, i + last, self.m, axis) for i in range(length)])

    def _tiles(self, pixels: int) -> int:
        return -(-pixels // self.m)

    def _pieces(self, x: Tensor) -> list[slice]:
        """Cuts the batch so that the tiles of a piece take about TILE_BYTES."""
        batch, height, width, channels = x.shape
        step = max(1, TILE_BYTES // self._bytes(height, width, channels, x))
        return [slice(start, start + step) for start in range(0, batch, step)]

    def _bytes(self, height: int, width: int, channels: int, x: Tensor) -> int:
        """What the points of one such image take, of numbers such as those of x."""
        tiles = self._tiles(height) * self._tiles(width)
        return (self.m + 2) ** 2 * tiles * channels * x.dtype.itemsize


def matrix(table: Table, m: int) -> Matrix:
    """One of the three transforms."""
    return np.array(table[m], np.float64)


def _through(transform: Matrix, x: Float[Array, "q ..."]) -> Float[Array, "p rest"]:
    """The transform over the first axis."""
    return jnp.asarray(transform, x.dtype) @ x.reshape(len(x), -1)


def _transformed(x: Float[Array, "q q T C"], transform: Matrix) -> Points:
    """The transform over the first two axes, which become one."""
    # In one product: more of them than one axis after the other, and half the memory traffic.
    both = _through(np.kron(transform, transform), x.reshape(-1, *x.shape[2:]))
    return both.reshape(-1, *x.shape[2:])
