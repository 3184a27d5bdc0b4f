"""Editing through the command line."""

import numpy as np
import pytest
from PIL import Image
from sampling import sample_each, untrained, untrained_upscaler

LEFT = np.arange(8) < 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on grey images with three classes, and on colour images with none."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "grey": untrained(folder / "grey", classes=3, names=("bag", "shirt", "shoe")),
        "colour": untrained(folder / "colour", channels=3),
        "upscaler": untrained_upscaler(folder / "upscaler"),
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with a wide JPEG and an upright one with transparent parts."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 200, 300, 4), np.uint8)
    Image.fromarray(pixels[0, ..., 0]).save(folder / "a.jpg")
    Image.fromarray(pixels[1].swapaxes(0, 1)).save(folder / "b.png")
    return folder


def edit(run, pictures, out, **calls):
    """What each call, by name, writes."""
    lines = sample_each(
        *((f"--run={run}", f"--init={pictures}", "--steps=4", f"--out={out}/{name}", *flags)
        for name, flags in calls.items())
    )  # fmt: skip
    assert not [line for line in lines if line.startswith("refused")], lines
    return {name: np.load(out / name / "samples.npz")["images"] for name in calls}


def cells_of(path, columns):
    """The grid's cells of 8 x 8 pixels, by row and column, of any number of channels."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet).reshape(sheet.height, sheet.width, -1)
    rows, side = pixels.shape[0] // 58, 58
    assert pixels.shape[:2] == (rows * side, columns * side)
    cells = pixels.reshape(rows, side, columns, side, -1).swapaxes(1, 2)
    return cells[:, :, 4:-1:7, 4:-1:7]  # a pixel in the midst of each enlarged one


def test_tasks_on_grey(runs, pictures, tmp_path):
    """Files, numbers, known pixels, what the grid shows, and no dependence on the batch."""
    left = ("--task=inpaint", "--mask=left", "--jump=2", "--resample=2")
    made = edit(
        runs["grey"], pictures, tmp_path,
        inpaint=left,
        batches=(*left, "--batch_size=3"),
        labels=(*left, "--labels=shoe"),
        little=("--task=img2img", "--strength=0.001", "--num=3"),
        much=("--task=img2img", "--strength=1", "--num=3", "--sampler=ddpm"),
        interpolate=("--task=interpolate", "--num=5", "--labels=bag,2"),
        first=("--task=interpolate", "--num=5", "--labels=0"),
        last=("--task=interpolate", "--num=5", "--labels=2"),
        fine=("--task=super_resolution", "--factor=2", "--num=2"),
    )  # fmt: skip
    for name, num in (("inpaint", 8), ("little", 3), ("interpolate", 5), ("fine", 2)):
        assert made[name].shape == (num, 8, 8, 1)
        assert made[name].dtype == np.uint8
        found = {p.name for p in (tmp_path / name).iterdir()}
        assert found == {"samples.npz", "grid.png", "images", "trajectory.gif"}
    cells = cells_of(tmp_path / "inpaint" / "grid.png", 6)
    given, told, results = cells[:, 0], cells[:, 1], cells[:, 2:]
    np.testing.assert_array_equal(results.swapaxes(0, 1).reshape(8, 8, 8, 1), made["inpaint"])
    np.testing.assert_array_equal(
        results[..., ~LEFT, :], given[:, None][..., ~LEFT, :].repeat(4, 1)
    )
    np.testing.assert_array_equal(told[..., ~LEFT, :], given[..., ~LEFT, :])
    assert (told[..., LEFT, :] == 128).all()
    assert (results[:, 0] != results[:, 1])[..., LEFT, :].mean() > 0.5
    np.testing.assert_array_equal(made["batches"], made["inpaint"])
    assert (made["labels"] != made["inpaint"])[:, :, LEFT].any()
    near = np.abs(made["little"].astype(int) - given[[0, 1, 0]])
    assert near.max() <= 3
    assert np.abs(made["much"].astype(int) - given[[0, 1, 0]]).mean() > 20
    assert cells_of(tmp_path / "little" / "grid.png", 3)[1, 2].min() == 255  # nothing drawn there
    path = cells_of(tmp_path / "interpolate" / "grid.png", 7)
    np.testing.assert_array_equal(path[0, [0, -1]], given)
    np.testing.assert_array_equal(path[0, 1:-1], made["interpolate"])
    for end, name in ((0, "first"), (-1, "last")):  # each of its own picture's class
        np.testing.assert_array_equal(made["interpolate"][end], made[name][end])
        assert (made["interpolate"][-1 - end] != made[name][-1 - end]).any()
    told = cells_of(tmp_path / "fine" / "grid.png", 3)[:, 1, ..., 0]
    means = given[..., 0].reshape(2, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(told, means.repeat(2, 1).repeat(2, 2), atol=1)


@pytest.mark.slow
def test_tasks_on_colour(runs, pictures, tmp_path):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.broadcast_to(~LEFT, (8, 8))).save(mask)
    made = edit(
        runs["colour"], pictures, tmp_path,
        colourise=("--task=colourise", "--num=2"),
        free=("--task=colourise", "--num=2", "--zeta=0"),
        file=("--task=inpaint", f"--mask={mask}", "--num=2"),
        name=("--task=inpaint", "--mask=left", "--num=2"),
    )  # fmt: skip
    np.testing.assert_array_equal(made["file"], made["name"])
    given, told, _ = cells_of(tmp_path / "colourise" / "grid.png", 3).swapaxes(0, 1)
    luma = (0.299, 0.587, 0.114)
    np.testing.assert_allclose(told, (given @ luma)[..., None].repeat(3, -1), atol=1)
    gaps = {name: np.abs((made[name] - given.astype(int)) @ luma).mean() for name in made}
    assert gaps["colourise"] < 0.8 * gaps["free"], gaps


@pytest.mark.slow
def test_directions(runs, pictures, tmp_path):
    """Strength 0 is the first class and 1 the other, from one noise; a picture's is its own."""
    to = ("--task=direction", "--negative=bag", "--labels=shoe", "--guidance=0,1,3")
    made = edit(
        runs["grey"], pictures, tmp_path,
        shoe=to,
        shirt=(*to, "--labels=shirt"),
        back=("--task=interpolate", "--labels=bag", "--num=2"),
    )  # fmt: skip
    rows = made["shoe"].reshape(2, 3, 8, 8, 1)
    cells = cells_of(tmp_path / "shoe" / "grid.png", 4)
    np.testing.assert_array_equal(cells[:, 1:], rows)
    np.testing.assert_array_equal(cells[0, 0], cells_of(tmp_path / "back" / "grid.png", 4)[0, 0])
    np.testing.assert_allclose(rows[:, 0].astype(int), made["back"], atol=1)
    other = made["shirt"].reshape(rows.shape)
    np.testing.assert_array_equal(other[:, 0], rows[:, 0])
    assert (other != rows)[:, 1:].any((2, 3, 4)).all()
    calls = {
        "rows": (*to, "--num=6"),
        "0": ("--labels=bag", "--num=2"),
        "1": ("--labels=shoe", "--num=2"),
        "3": ("--labels=shoe", "--negative=bag", "--guidance=3", "--num=2"),
    }
    common = (f"--run={runs['grey']}", "--steps=4")
    sample_each(*((*common, f"--out={tmp_path}/{n}", *flags) for n, flags in calls.items()))
    drawn = {n: np.load(tmp_path / n / "samples.npz")["images"].astype(int) for n in calls}
    for column, name in enumerate(("0", "1", "3")):
        np.testing.assert_allclose(drawn["rows"][column::3], drawn[name], atol=1)


def test_images_are_made_larger(runs, tmp_path):
    """Two rows of one image and its enlargement, whatever the tiles at a time; noise moves it."""
    np.save(tmp_path / "small.npy", np.random.default_rng(0).integers(0, 256, (2, 5, 7, 1)))
    to = ("--task=upscale", f"--init={tmp_path}/small.npy")
    made = edit(
        runs["upscaler"], tmp_path, tmp_path, upscaled=to, few=(*to, "--batch_size=1"),
        noisy=(*to, "--noise=0.2"),
    )  # fmt: skip
    assert made["upscaled"].shape == (2, 10, 14, 1)
    assert {p.name for p in (tmp_path / "upscaled").iterdir()} == {
        "samples.npz", "grid.png", "images"
    }  # fmt: skip
    np.testing.assert_allclose(made["few"].astype(int), made["upscaled"], atol=1)
    assert (made["noisy"] != made["upscaled"]).mean() > 0.3


def test_bad_input(runs, pictures, tmp_path):
    """One line each, and nothing is written."""
    grey, picture = runs["grey"], f"--init={pictures}/a.jpg"
    Image.new("1", (9, 8)).save(tmp_path / "wide.png")
    Image.new("1", (8, 8)).save(tmp_path / "black.png")
    np.save(tmp_path / "half.npy", np.full((8, 8), 0.5))
    np.save(tmp_path / "bright.npy", np.full((8, 8), 1.5))
    np.save(tmp_path / "deep.npy", np.full((8, 8), 256))
    np.save(tmp_path / "nan.npy", np.full((8, 8), np.nan))
    np.save(tmp_path / "line.npy", np.zeros(8))
    np.save(tmp_path / "words.npy", np.full((8, 8), "a"))
    broken = (pictures / "b.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(broken[: len(broken) // 2])
    (tmp_path / "broken.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    inpaint = ("--task=inpaint", picture)
    upscale = (f"--run={runs['upscaler']}", "--task=upscale")
    np.save(tmp_path / "tiny.npy", np.zeros((3, 4), np.uint8))
    np.save(tmp_path / "rgb.npy", np.zeros((5, 5, 3), np.uint8))
    direction = ("--task=direction", picture, "--negative=0", "--labels=1")
    cases = (
        (("--task=paint", picture), "inpaint|img2img|interpolate|direction|colourise|"),
        (("--task=inpaint",), "pass --init"),
        ((picture,), "--init does nothing without --task=inpaint or img2img"),
        (("--strength=0.5",), "--strength does nothing without --task=img2img"),
        ((*inpaint, "--strength=0.5"), "--strength does nothing without --task=img2img"),
        (("--task=img2img", picture, "--mask=left"), "--mask does nothing without --task=inpaint"),
        ((*inpaint, "--mask=middle"), "no mask 'middle': give a file, or one of left, right"),
        ((*inpaint, f"--mask={tmp_path}/wide.png"), "is 8x9, the run's images 8x8"),
        ((*inpaint, f"--mask={tmp_path}/black.png"), "keeps nothing"),
        ((*inpaint, f"--mask={tmp_path}/half.npy"), "1 is kept, 0 painted"),
        ((*inpaint, f"--mask={tmp_path}/broken.png"), "broken.png"),
        ((*inpaint, "--mask="), "no mask ''"),
        ((*inpaint, "--jump=0"), "jump=0: choose 1 or more"),
        ((*inpaint, "--resample=0"), "resample=0: choose 1 or more"),
        ((*inpaint, "--labels=3"), "'3' is no class: choose from 0 to 2, or by name: bag,"),
        (("--task=img2img", picture, "--strength=0"), "strength=0.0: choose above 0"),
        (("--task=img2img", picture, "--strength=1.5"), "strength=1.5: choose above 0"),
        (("--task=interpolate", picture), "has one image"),
        (("--task=interpolate", f"--init={pictures}", "--num=1"), "--num=1: give a multiple of 1"),
        (("--task=interpolate", f"--init={pictures}", "--sampler=ddpm"), "choose a sampler"),
        (("--task=interpolate", f"--init={pictures}", "--steps=1"), "at least two sampling steps"),
        (direction[:1], "leads from --negative to --labels: give one class to each"),
        ((*direction, "--labels=1,2"), "leads from --negative to --labels: give one class"),
        ((*direction, "--num=7"), "--num=7: give 5, or without --init another multiple of 5"),
        ((*direction, "--guidance=1"), "--negative does nothing at --guidance=1"),
        ((*direction, "--guidance=0,x"), "give numbers with commas between"),
        ((*direction, "--sampler=ddpm"), "choose a sampler without"),
        ((*direction, f"--run={runs['colour']}"), "and this run takes neither"),
        (("--task=upscale", picture), "is a diffusion run, where an upscaling run is needed"),
        ((*upscale, f"--init={tmp_path}/tiny.npy"), "images of 3x4 are smaller than what this"),
        ((*upscale, f"--init={tmp_path}/rgb.npy"), "5x5x3: this run enlarges images of 1 channels"),
        ((*upscale, f"--init={pictures}"), "give those of one shape"),
        ((*upscale, picture, "--noise=0.3"), "--noise=0.3: the run was trained with 0.2 at most"),
        ((*upscale, picture, "--labels=1"), "--labels does nothing with --task=upscale"),
        ((*upscale, picture, "--dynamic_threshold=90"), "an upscaler is not guided"),
        ((f"--run={runs['upscaler']}",), "makes images larger: pass --task=upscale and --init"),
        ((*inpaint, f"--run={runs['upscaler']}"), "makes images larger: pass --task=upscale"),
        ((*inpaint, "--noise=0.1"), "--noise does nothing without --task=upscale"),
        (("--task=colourise", picture), "no colour to find"),
        (("--task=super_resolution", picture, "--factor=3"), "choose one of 2, 4, 8"),
        (("--task=super_resolution", picture, "--factor=1"), "factor=1: choose 2 or more"),
        (("--task=super_resolution", picture, "--zeta=-1"), "zeta=-1.0: choose 0"),
        (("--task=img2img", "--init=/no/such"), "no file or folder '/no/such'"),
        (("--task=img2img", f"--init={tmp_path}/empty"), "no images in"),
        (("--task=img2img", f"--init={tmp_path}/bright.npy"), "its values go from 1.5 to 1.5"),
        (("--task=img2img", f"--init={tmp_path}/deep.npy"), "from 0 to 255"),
        (("--task=img2img", f"--init={tmp_path}/nan.npy"), "out of range"),
        (("--task=img2img", f"--init={tmp_path}/line.npy"), "shape (8,): give HW, HWC or NHWC"),
        (("--task=img2img", f"--init={tmp_path}/words.npy"), "give whole numbers or floats"),
        (("--task=img2img", f"--init={tmp_path}/broken.png"), "cannot read image"),
        (("--task=img2img", f"--init={tmp_path}/broken.npz"), "broken.npz ("),
    )
    lines = sample_each(*((f"--run={grey}", f"--out={tmp_path}/out", *flags) for flags, _ in cases))
    for line, (_, message) in zip(lines, cases, strict=True):
        assert line.startswith("refused: "), line
        assert message in line
        assert "max_bad_records" not in line
    assert not (tmp_path / "out").exists()
