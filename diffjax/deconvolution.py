"""Images blurred by a known point-spread function and thinned out, and ways back.

What is called deconvolution in networks, the transposed convolution, is only the numerator of what
is called so elsewhere. Images are periodic and square, so that a convolution is a product of
spectra; all in float64 NumPy, H a multiple of `stride`. A kernel has its centre at its middle pixel
and an odd size.
"""

import math

import numpy as np
from jaxtyping import Complex, Float

Image = Float[np.ndarray, "*N H H"]
Thinned = Float[np.ndarray, "*N h h"]  # every stride-th row and column
Kernel = Float[np.ndarray, "K K"]
Spectrum = Float[np.ndarray, "H H"]
LOST = 1e-26  # of the largest power: what a spectrum has no more than this of is not there


def gaussian(sigma: float | int) -> Kernel:
    """A Gaussian point-spread function, cut off past three standard deviations, of sum 1."""
    reach = math.ceil(3 * sigma)
    falls = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.outer(falls, falls) / falls.sum() ** 2


def motion(length: float | int, degrees: float | int) -> Kernel:
    """The blur of a straight move of `length` pixels, `degrees` from the horizontal, of sum 1."""
    reach = math.ceil(length / 2)
    places = np.linspace(-length / 2, length / 2, 64 * reach + 1)
    rows = np.rint(-places * math.sin(math.radians(degrees))).astype(int) + reach
    columns = np.rint(places * math.cos(math.radians(degrees))).astype(int) + reach
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    np.add.at(kernel, (rows, columns), 1 / len(places))
    return kernel


def convolve(images: Image, kernel: Kernel) -> Image:
    """The periodic convolution."""
    return _inverse(_transfer(kernel, images.shape[-1]) * np.fft.fft2(images))


def observe(images: Image, psf: Kernel, stride: int = 1) -> Thinned:
    """Blurred, then every stride-th row and column: a strided convolution."""
    return convolve(images, psf)[..., ::stride, ::stride]


def spread(observed: Thinned, stride: int) -> Image:
    """Back on the grid of the image, with zeros between."""
    *count, height, width = observed.shape
    whole = np.zeros((*count, stride * height, stride * width))
    whole[..., ::stride, ::stride] = observed
    return whole


def transposed(observed: Thinned, psf: Kernel, stride: int = 1) -> Image:
    """The transposed convolution of `observe`, times stride² so that a flat image keeps its mean.

    It gives the image its size back, and turns each frequency by what `observe` turned it; what
    that weakened, it weakens again.
    """
    return stride**2 * convolve(spread(observed, stride), psf[::-1, ::-1])


def wiener(
    observed: Thinned, psf: Kernel, stride: int, power: Spectrum, noise: float | int
) -> Image:
    """The linear estimate of least mean squared error (Wiener 1949).

    X = stride² S H* Y / (Σ S |H|² + noise stride² N), with Y the spectrum of the spread-out
    observation, H the transfer function, S = E|X|² the power of images of N pixels, and the sum
    over the stride² frequencies that thinning out makes one. `noise` is the variance of what was
    added to each observed pixel.
    """
    side = len(power)
    transfer = _transfer(psf, side)
    seen = _folded(power * np.abs(transfer) ** 2, stride) + noise * (stride * side) ** 2
    there = seen > LOST * seen.max()
    gain = np.divide(stride**2 * power * transfer.conj(), seen, out=0j * power, where=there)
    return _inverse(gain * np.fft.fft2(spread(observed, stride)))


def inverse_filter(observed: Thinned, psf: Kernel, stride: int = 1) -> Image:
    """Y / H: of all images that `observe` would make this of, the one of least norm."""
    side = stride * observed.shape[-1]
    return wiener(observed, psf, stride, np.ones((side, side)), 0.0)


def mean_power(images: Image) -> Spectrum:
    """E|X|² as `wiener` takes it: the mean over images."""
    return np.mean(np.abs(np.fft.fft2(images)) ** 2, axis=0)


def fit_kernel(given: Image, wanted: Image, size: int) -> Kernel:
    """The kernel whose convolution of `given` comes nearest to `wanted`, in squared error.

    What a layer with one kernel could learn at best: normal equations, from correlations.
    """
    of_given = np.fft.fft2(given)
    own = _inverse(np.abs(of_given) ** 2).sum(0)
    cross = _inverse(np.fft.fft2(wanted) * of_given.conj()).sum(0)
    places = np.indices((size, size)).reshape(2, -1) - size // 2
    apart = places[:, :, None] - places[:, None]
    solved = np.linalg.lstsq(own[apart[0], apart[1]], cross[places[0], places[1]], rcond=None)
    return solved[0].reshape(size, size)


def _transfer(kernel: Kernel, side: int) -> Complex[np.ndarray, "H H"]:
    """The kernel's spectrum, its centre moved to the first pixel; it may be larger than H."""
    whole = np.zeros((side, side))
    places = np.arange(len(kernel)) - len(kernel) // 2
    np.add.at(whole, tuple(np.meshgrid(places % side, places % side, indexing="ij")), kernel)
    return np.fft.fft2(whole)


def _folded(power: Spectrum, stride: int) -> Spectrum:
    """At each frequency, the sum over those that it cannot be told from once thinned out."""
    rest = len(power) // stride
    summed = power.reshape(stride, rest, stride, rest).sum((0, 2))
    return np.tile(summed, (stride, stride))


def _inverse(spectrum: Complex[np.ndarray, "*N H H"] | Image) -> Image:
    return np.fft.ifft2(spectrum).real
