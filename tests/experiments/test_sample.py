"""Sampling through the command line."""

import numpy as np
import pytest
from PIL import Image, ImageSequence
from programs import program
from sampling import sample_each, untrained, untrained_clip, untrained_judge


def draw(run, out, *flags):
    done = program("sample", f"--run={run}", f"--out={out}", "--steps=4", *flags)
    assert done.returncode == 0, done.stderr
    with np.load(out / "samples.npz") as file:
        return file["images"]


def test_files(trained, tmp_path):
    images = draw(trained, tmp_path, "--num=5", "--sampler=ddim(eta=0)")
    assert images.shape == (5, 28, 28, 1)
    assert images.dtype == np.uint8
    assert {p.name for p in tmp_path.iterdir()} == {
        "samples.npz", "grid.png", "images", "trajectory.gif"
    }  # fmt: skip
    files = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in files] == [f"{i:05d}.png" for i in range(5)]
    for path, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image[..., 0])
    with Image.open(tmp_path / "trajectory.gif") as film:
        assert film.n_frames == 4


@pytest.mark.parametrize("sampler", ["ddim(eta=0)", "ddpm"])
def test_same_seed_same_images_whatever_the_batch(trained, tmp_path, sampler):
    asked = ("--num=8", "--steps=4", f"--sampler={sampler}")
    cuts = {f"by {batch}": (*asked, f"--batch_size={batch}") for batch in (1, 3, 4)}
    drawn = draw_each(trained, tmp_path, whole=asked, other=(*asked, "--seed=1"), **cuts)
    for name in cuts:
        np.testing.assert_array_equal(drawn[name], drawn["whole"], err_msg=name)
    assert (drawn["other"] != drawn["whole"]).mean() > 0.5


def draw_each(run, out, devices=1, **calls):
    """The images of each call, by name."""
    lines = sample_each(
        *((f"--run={run}", "--num=4", "--steps=2", f"--out={out}/{name}", *flags)
        for name, flags in calls.items()), devices=devices
    )  # fmt: skip
    assert all(" images of step " in line for line in lines), lines
    return {name: np.load(out / name / "samples.npz")["images"].astype(int) for name in calls}


def test_same_images_on_any_number_of_devices(tmp_path):
    """Noise, labels, scales, pictures and the film go with their samples."""
    run = untrained(tmp_path / "run", classes=3, null=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    calls = {
        "guided": ("--guidance=1,4,5,2", "--labels=0,2,1,2", "--sampler=ddpm"),
        "edited": (f"--init={tmp_path}/a.png", "--task=inpaint", "--mask=left"),
    }
    one, three = (draw_each(run, tmp_path / str(n), n, **calls) for n in (1, 3))
    for name in calls:
        np.testing.assert_allclose(three[name], one[name], atol=1, err_msg=name)
        films = []
        for n in (1, 3):  # three devices draw six images for four: two are shown nowhere
            with Image.open(tmp_path / str(n) / name / "trajectory.gif") as film:
                frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(film)]
            films.append(np.stack(frames).astype(int))
        np.testing.assert_allclose(films[1], films[0], atol=3, err_msg=name)


@pytest.mark.slow
def test_guidance(tmp_path):
    """Scales and classes go to their images, 1 is off, and a run is no worse than itself."""
    run = untrained(tmp_path / "run", classes=3, null=True)
    weak = untrained(tmp_path / "weak", classes=3, seed=1)
    drawn = draw_each(
        run,
        tmp_path,
        plain=(),
        guided=("--guidance=4",),
        first=("--labels=0",),
        each=("--guidance=1,4,4,2", "--batch_size=3"),
        never=("--guidance=4", "--guidance_interval=1e-9,1e-8"),
        rescaled=("--guidance=4", "--guidance_rescale=0.7", "--guidance_interval=0,inf"),
        projected=("--guidance=4", "--apg_eta=0", "--apg_threshold=2"),
        itself=("--guidance=4", f"--weak={run}"),
        weak=("--guidance=4", f"--weak={weak}"),
        negative=("--guidance=4", "--negative=0"),
        dynamic=("--dynamic_threshold=90",),
    )
    np.testing.assert_array_equal(drawn["each"][1:3], drawn["guided"][1:3])
    np.testing.assert_array_equal(drawn["never"], drawn["plain"])
    np.testing.assert_allclose(drawn["itself"], drawn["plain"], atol=1)
    own = [0, 3]  # of class 0, from which there is no way to itself
    np.testing.assert_allclose(drawn["negative"][own], drawn["plain"][own], atol=1)
    np.testing.assert_allclose(drawn["each"][0], drawn["plain"][0], atol=1)
    np.testing.assert_array_equal(drawn["first"][own], drawn["plain"][own])
    assert (drawn["first"][1:3] != drawn["plain"][1:3]).mean() > 0.2
    for name in ("guided", "rescaled", "projected", "weak", "negative", "dynamic"):
        assert (drawn[name] != drawn["plain"]).mean() > 0.2, name
    for name in ("rescaled", "projected", "weak", "negative"):
        assert (drawn[name] != drawn["guided"]).mean() > 0.2, name


def test_judge(tmp_path):
    """A judge tells classes to a run that knows none."""
    run = untrained(tmp_path / "run")
    judge = untrained_judge(tmp_path / "judge")
    drawn = draw_each(
        run,
        tmp_path,
        plain=(),
        judged=(f"--judge={judge}", "--judge_scale=1000", "--labels=0"),
        other=(f"--judge={judge}", "--judge_scale=0,1000,1000,1000", "--labels=1"),
    )
    np.testing.assert_allclose(drawn["other"][0], drawn["plain"][0], atol=1)
    assert (drawn["judged"] != drawn["plain"]).mean() > 0.2
    assert (drawn["judged"][1:] != drawn["other"][1:]).mean() > 0.2


@pytest.mark.slow
def test_clip(tmp_path):
    """Texts and scales go to their images, beside classifier-free guidance and in an edit."""
    run = untrained(tmp_path / "run", classes=3, null=True)
    clip = untrained_clip(tmp_path / "clip")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    by = (f"--clip={clip}", "--clip_scale=1000")
    edit = (f"--init={tmp_path}/a.png", "--task=inpaint", "--mask=left")
    drawn = draw_each(
        run,
        tmp_path,
        plain=(),
        free=("--guidance=4",),
        heart=(*by, "--clip_text=a red heart, broken"),
        both=(*by, "--clip_text=a red heart, broken", "--guidance=4"),
        turn=(*by, "--clip_text=a red heart, broken", "--clip_text=dog"),
        off=(f"--clip={clip}", "--clip_text=dog", "--clip_scale=0,0,1000,0"),
        edited=edit,
        guided=(*edit, *by, "--clip_text=dog"),
    )
    np.testing.assert_array_equal(drawn["turn"][[0, 2]], drawn["heart"][[0, 2]])
    np.testing.assert_allclose(drawn["off"][[0, 1, 3]], drawn["plain"][[0, 1, 3]], atol=1)
    for name, other in (
        ("heart", "plain"), ("both", "free"), ("both", "heart"), ("guided", "edited"),
    ):  # fmt: skip
        assert (drawn[name] != drawn[other]).mean() > 0.2, (name, other)
    assert (drawn["turn"][[1, 3]] != drawn["heart"][[1, 3]]).mean() > 0.1
    assert (drawn["off"][2] != drawn["plain"][2]).mean() > 0.2
