"""What experiments.upsampling measures, where it is known; and the program, from start to end."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import program

from diffjax.data.embedded import Embedded
from diffjax.deconvolution import convolve
from diffjax.metrics.psnr import psnr
from experiments.studies import checkerboards, deblurring
from experiments.studies.checkerboards import (
    LAYERS,
    enlarge,
    gradients,
    stamps,
    unevenness,
    windows,
)

OF_LAYER = {layer.name: layer for layer in LAYERS}


@pytest.fixture(scope="module")
def results():
    train, test = (Embedded().open(split, None) for split in ("train", "test"))
    images, others = deblurring.mosaics(test, 1, 0), deblurring.mosaics(train, 4, 0)
    return images, {
        (r.psf.split(",")[0], r.stride, r.noise): r for r in deblurring.deblur(images, others, 0)
    }


def test_mosaics_are_of_garments():
    records = Embedded().open("test", None)
    (mosaic,) = deblurring.mosaics(records, 1, 3)
    known = {records[i]["image"].astype(np.float64).tobytes() for i in range(500)}
    cells = [mosaic[r : r + 28, c : c + 28] for r in range(0, 112, 28) for c in range(0, 112, 28)]
    assert len({cell.tobytes() for cell in cells} & known) == 16


def test_each_case_is_there(results):
    _, found = results
    assert len(found) == len(deblurring.CASES) == 8


def test_what_each_way_can_undo(results):
    """Without noise the inverse filter is exact; in noise it is lost, and none beats Wiener's.

    By more than the power of so few other images is off.
    """
    images, found = results
    for (_, stride, noise), result in found.items():
        gain = result.psnr
        if stride == 1 and not noise:
            assert gain["inverse filter"] > 80
        if noise:
            assert max(gain.values()) < gain["Wiener filter"] + 0.2
        if stride == 1 and noise:
            assert gain["inverse filter"] < 0
    gaussian = found["Gaussian", 1, 0.0]
    blurred = convolve(images, deblurring.PSFS["Gaussian, σ = 1.5 px"])
    assert gaussian.psnr["transposed, same kernel"] < psnr(blurred, images) - 1
    assert gaussian.psnr["transposed, kernel learnt"] > psnr(blurred, images) + 3


def test_learnt_kernels_differ_only_where_there_is_something_to_resize(results):
    _, found = results
    for (_, stride, _), result in found.items():
        both = [result.psnr[f"{way}, kernel learnt"] for way in ("transposed", "resize-conv")]
        assert (both[0] == both[1]) == (stride == 1)


@pytest.mark.parametrize(
    ("name", "per_axis"),
    [
        ("transposed k2 s2", [1, 1]),
        ("transposed k3 s2", [1, 2]),
        ("transposed k4 s2", [2, 2]),
        ("transposed k5 s2", [2, 3]),
        ("transposed k6 s4", [1, 1, 2, 2]),
        ("resize_conv", [3, 3]),
        ("pixel_shuffle", [3, 3]),
        ("bilinear", [1, 1]),
    ],
)
def test_stamps(name, per_axis):
    """How often pixels are written to, and the coefficient of variation of that."""
    counts = np.outer(per_axis, per_axis)
    pattern = stamps(OF_LAYER[name])
    assert set(pattern.ravel()) == set(counts.ravel())
    assert unevenness(pattern) == pytest.approx(counts.std() / counts.mean(), abs=1e-6)


@pytest.mark.parametrize(("kernel", "stride"), checkerboards.UP)
def test_the_gradient_has_the_pattern_of_the_transposed_convolution(kernel, stride):
    ours = windows("convolution", kernel, stride)
    theirs = stamps(OF_LAYER[f"transposed k{kernel} s{stride}"])
    assert unevenness(ours) == pytest.approx(unevenness(theirs), abs=1e-6)
    block = slice(0, stride), slice(0, stride)
    assert sorted(ours[block].ravel()) == sorted(theirs[block].ravel())


def test_the_gradients_of_pools():
    """An average of blocks hands each pixel the same, a maximum all to one of four."""
    images = jax.random.normal(jax.random.key(0), (2, 12, 12, 1))
    found = {g.name: g for g in gradients(images, 0)}
    assert unevenness(found["average k2 s2"].windows) == 0
    assert found["average k2 s2"].share == pytest.approx(0, abs=1e-9)
    assert unevenness(found["max k2 s2"].windows) == pytest.approx(np.sqrt(3), abs=1e-6)
    picture = found["max k2 s2"].picture
    blocks = picture.reshape(6, 2, 6, 2).transpose(0, 2, 1, 3).reshape(36, 4)
    assert ((blocks != 0).sum(1) == 1).all()
    np.testing.assert_allclose(blocks.sum(1), _largest(images[0, ..., 0]), rtol=1e-6)


def _largest(image):
    return np.asarray(image).reshape(6, 2, 6, 2).transpose(0, 2, 1, 3).reshape(36, 4).max(1)


def test_upscalers_learn(monkeypatch):
    monkeypatch.setattr(checkerboards, "LAYERS", (OF_LAYER["transposed k3 s2"],))
    records = Embedded().open("train", None)
    images = jnp.stack([records[i]["image"] for i in range(0, 4500, 45)])
    (found,) = enlarge(images[:80], images[80:], 60, 0)
    assert len(found.losses) == 60
    assert np.mean(found.losses[-5:]) < 0.5 * np.mean(found.losses[:5])
    assert found.share_trained < found.share_at_start
    assert found.trained.shape == (28, 28)


@pytest.mark.slow
def test_program(tmp_path):
    done = program("upsampling", "--preset=smoke", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    files = {"deconvolution.png", "checkerboard.png", "gradients.png", "upsampling.json"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == files | {"report.html"}
    values = json.loads((tmp_path / "out" / "upsampling.json").read_text())
    assert values["steps"] == 50
    assert len(values["deconvolution"]) == 8
    assert len(values["layers"]) == len(LAYERS)
    assert "Wiener filter" in done.stdout


def test_mistakes(tmp_path):
    done = program("upsampling", f"--init={tmp_path}/nothing.png", f"--out={tmp_path}/out")
    assert done.returncode == 1
    assert "no file or folder" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
