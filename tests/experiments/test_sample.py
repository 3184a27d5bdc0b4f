"""Sampling through the command line."""

import numpy as np
import pytest
from PIL import Image
from programs import program


def draw(run, out, *flags):
    done = program("sample", f"--run={run}", f"--out={out}", "--steps=4", *flags)
    assert done.returncode == 0, done.stderr
    with np.load(out / "samples.npz") as file:
        return file["images"]


def test_files(trained, tmp_path):
    images = draw(trained, tmp_path, "--num=5", "--sampler=ddim(eta=0)")
    assert images.shape == (5, 28, 28, 1)
    assert images.dtype == np.uint8
    assert {p.name for p in tmp_path.iterdir()} == {"samples.npz", "grid.png", "trajectory.gif"}
    with Image.open(tmp_path / "trajectory.gif") as film:
        assert film.n_frames == 4


@pytest.mark.parametrize("sampler", ["ddim(eta=0)", "ddpm"])
def test_same_seed_same_images_whatever_the_batch(trained, tmp_path, sampler):
    whole = draw(trained, tmp_path / "a", "--num=8", f"--sampler={sampler}")
    for batch in (1, 3, 4):
        flags = ("--num=8", f"--batch_size={batch}", f"--sampler={sampler}")
        cut = draw(trained, tmp_path / f"b{batch}", *flags)
        np.testing.assert_array_equal(cut, whole)
    other = draw(trained, tmp_path / "c", "--num=8", "--seed=1", f"--sampler={sampler}")
    assert (other != whole).mean() > 0.5
