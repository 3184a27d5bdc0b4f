"""experiments.sample from a pipeline's folder: its files, its lines, and what it refuses."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from programs import program
from sampling import sample_each
from tiny_pipeline import write_folder

import diffjax as dj
from diffjax.data.images import to_uint8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("pipelines") / "sd")


def test_prompts(folder, tmp_path):
    """Files and numbers are those of the library; a warning is a line."""
    out = tmp_path / "out"
    done = program(
        "sample", f"--pipeline={folder}", "--prompt=a cat", "--prompt=much too long",
        "--negative_prompt=b", "--guidance=4", "--steps=5", "--seed=7", f"--out={out}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 images of {folder} in {out}\n"
    assert done.stderr == "warning: a prompt is longer than 8 tokens: cut off 'o long'\n"
    assert {path.name for path in out.iterdir()} == {"samples.npz", "grid.png", "images"}
    found = np.load(out / "samples.npz")["images"]
    prompts = ["a cat", "much too long"]
    with pytest.warns(UserWarning, match="longer than 8 tokens"):
        images = dj.load_pipeline(folder).sample(
            prompts, ["b"], 4.0, steps=5, key=jax.random.key(7)
        )
    np.testing.assert_allclose(found.astype(int), to_uint8(np.asarray(images)), atol=1)


def test_pictures_and_what_is_refused(folder, tmp_path):
    """One process for all calls."""
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    other = shutil.copytree(folder, tmp_path / "other")
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    given, init = (f"--pipeline={folder}", "--prompt=red"), f"--init={tmp_path}/a.png"
    common = (*given, "--steps=5", "--num=2")
    calls = {
        (*common, "--task=inpaint", init, "--mask=left", f"--out={tmp_path}/left"): "2 images",
        (*common, "--task=img2img", init, "--strength=0.2", f"--out={tmp_path}/near"): "2 images",
    }
    bad = {
        given: "--pipeline needs a folder to write: give --out",
        (f"--pipeline={folder}", "--out=o"): "draws from texts: give --prompt='a text'",
        (*given, "--run=r", "--out=o"): "give --run=DIR, or --pipeline=FOLDER in its place",
        ("--out=o",): "give --run=DIR, or --pipeline=FOLDER in its place",
        (*given, "--out=o", "--height=9"): "height=9: give a multiple of 2 (--height)",
        (*given, "--out=o", "--labels=1"): "--labels is for a --run: leave it out",
        (*given, "--out=o", "--task=inpaint"): "--task=inpaint needs images: pass --init=FILE",
        (*given, "--out=o", "--task=colourise", init): "for a --run: choose img2img or inpaint",
        (*given, "--out=o", "--strength=0.5"): "does nothing without --task=img2img",
        (*given, "--out=o", "--guidance=1", "--negative_prompt=a"): "do nothing at guidance 1",
        (*given, "--out=o", "--sampler=ddin"): "did you mean 'ddim'",
        (*given, "--out=o", "--dtype=float64"): "float32|bfloat16",
        ("--run=r", "--height=8"): "--height does nothing without --pipeline",
        (f"--pipeline={other}", "--prompt=red", "--out=o"): "is of a FluxPipeline",
        (f"--pipeline={tmp_path}/none", "--prompt=red", "--out=o"): "has no model_index.json",
    }
    lines = sample_each(*calls, *bad)
    for line, expected in zip(lines, [*calls.values(), *bad.values()], strict=True):
        assert expected in line
    left, near = (np.load(tmp_path / d / "samples.npz")["images"] for d in ("left", "near"))
    np.testing.assert_array_equal(left[:, :, 4:], np.broadcast_to(picture[:, 4:], (2, 8, 4, 3)))
    assert (left[:, :, :4] != picture[:, :4]).mean() > 0.5
    assert (left[0] != left[1]).any()
    assert near.shape == (2, 8, 8, 3)
