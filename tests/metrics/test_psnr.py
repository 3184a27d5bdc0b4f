"""The peak signal-to-noise ratio, in closed form."""

import numpy as np
import pytest

from diffjax.metrics.psnr import psnr

TRUTH = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 1)).astype(np.float32)


@pytest.mark.parametrize(("off", "expected"), [(2, 0), (0.2, 20), (0.02, 40)])
def test_of_a_constant_error(off, expected):
    assert psnr(TRUTH + np.float32(off), TRUTH) == pytest.approx(expected, abs=1e-4)


def test_span_is_the_truths_range():
    assert psnr(0.5 * TRUTH + 0.1, 0.5 * TRUTH, span=1) == pytest.approx(20, abs=1e-4)


def test_errors_are_averaged_before_the_logarithm():
    found = TRUTH.copy()
    found[0] += 0.2  # half of the pixels
    assert psnr(found, TRUTH) == pytest.approx(20 + 10 * np.log10(2), abs=1e-4)


def test_of_equal_images():
    assert psnr(TRUTH, TRUTH) == float("inf")
