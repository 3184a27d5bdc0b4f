"""The comparison of families: planned, trained, resumed and shown, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import JUDGE_FLAGS, check_refused, program
from sampling import untrained_judge

import diffjax.models
import diffjax.models.gan
from diffjax import spec
from experiments.measurements.compared import Cell, floors, rows, spread, table
from experiments.measurements.contenders import FAMILIES


def cell(folder, frechet, seconds=10.0, bits=None):
    names = ("frechet", "kernel", "precision", "recall", "coverage")
    real: dict = {"frechet": 2.0, "kernel": 0.0, "precision": 0.9, "recall": 0.9, "coverage": 0.9}
    real["intervals"] = {name: [0.25, 3.0] for name in names}
    samples = {**real, "frechet": frechet, "recall": 0.5}
    draws = [
        {"sampler": "flow_map", "steps": n, "images_per_second": 100 / n, "samples": samples,
         "real": real}
        for n in (1, 2)
    ]  # fmt: skip
    training = {
        "seconds": seconds, "peak_bytes": 2e9, "steps": [30], "images_per_second": 123.4,
    }  # fmt: skip
    return Cell("MeanFlow", str(folder), 1_000_000, training, draws, bits)


def test_rows_and_table(tmp_path):
    found = {"mean_flow": [cell(tmp_path, 4.0), cell(tmp_path, 8.0)], "gan": []}
    one, two = rows(found)
    assert (one.name, two.name) == ("MeanFlow, 1 step", "MeanFlow, 2 steps")
    assert one.ratios() == [2.0, 4.0]
    assert two.speed() == 50
    lines = table(found).splitlines()
    assert "3 ± 1.4" in lines[1]
    assert "1,000,000" in lines[1]
    assert lines[-1].split()[:3] == ["real", "images", "1"]
    assert "0.9 (0.25 to 3)" in lines[-1]
    assert "123" in lines[1].split()
    assert floors({"gan": []}) == []
    assert spread([0.5], (0.4, 0.65)) == "0.5 (0.4 to 0.65)"


def test_a_table_of_one_seed_tells_intervals_and_bits(tmp_path):
    known = {"mean": 3.5, "error": 0.1}
    found = {"mean_flow": [cell(tmp_path, 4.0, bits=known)], "gan": [cell(tmp_path, 4.0)]}
    lines = table(found).splitlines()
    assert "2 (0.125 to 1.5)" in lines[1]
    assert "3.5 (3.3 to 3.7)" in lines[1]
    assert "-" in lines[3].split()
    assert len(set(map(len, lines[:-1]))) == 1


def parameters(name, models, form, given, **of_form):
    (flags,) = (stage.flags for stage in FAMILIES[name].fitted(form[0]).stages)
    (text,) = (flag.removeprefix("--model=") for flag in flags if flag.startswith("--model="))
    model = spec.build(text, models).clone(**of_form)
    shapes = jax.eval_shape(lambda key: model.init(key, *given), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize("form", [(28, 28, 1), (32, 32, 3)])
def test_families_have_as_many_parameters_within_a_tenth(form):
    side, _, channels = form
    images = jnp.zeros((1, *form))
    unet = parameters(
        "ddpm", diffjax.models, form, (images, jnp.zeros(1)),
        sample_size=side, in_channels=channels, out_channels=channels,
    )  # fmt: skip
    vae = parameters("vae", diffjax.models, form, (images,), sample_size=side, in_channels=channels)
    gan = parameters(
        "gan", diffjax.models.gan, form, (jnp.zeros((1, 64)),),
        sample_size=side, image_channels=channels,
    )  # fmt: skip
    assert abs(vae / unet - 1) < 0.1
    assert abs(gan / unet - 1) < 0.1


@pytest.mark.slow
def test_a_comparison_is_made_and_taken_up(tmp_path):
    judge, out = tmp_path / "judge", tmp_path / "out"
    assert program("classifier", *JUDGE_FLAGS, f"--workdir={judge}").returncode == 0
    flags = (
        f"--judge={judge}", "--families=gan", "--minutes=0.7", "--seeds=1",
        "--num=100", f"--out={out}",
    )  # fmt: skip
    done = program("compare", *flags)
    assert done.returncode == 0, done.stderr
    for name in ("comparison.json", "table.txt", "trilemma.png", "images.png", "report.html"):
        assert (out / name).stat().st_size > 0, name
    saved = json.loads((out / "comparison.json").read_text())["families"]
    assert len(saved["gan"][0]["draws"]) == 1
    for cells in saved.values():
        assert abs(cells[0]["parameters"] / 1_142_081 - 1) < 0.1
    times = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
    (out / "cells/gan/seed_0/cell.json").unlink()  # measured again, not trained again
    again = program("compare", *flags)
    assert again.returncode == 0, again.stderr
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
    changed = {path for path in times if times[path] != kept[path]}
    assert changed == {out / "cells/gan/seed_0/cell.json"}
    images = [np.load(path)["images"] for path in sorted(out.rglob("drawn_*.npz"))]
    assert all(image.shape == (40, 28, 28, 1) for image in images)
    check_refused("--minutes=0.7", "compare", *flags, "--minutes=2")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--families=gan,vea",), "choose among vae, gan"),
        (("--families=gan",), "needs --judge"),
        (("--judge=nowhere",), "nowhere"),
        (("--judge=nowhere", "--steps=5"), "--steps does nothing here"),
    ],
)
def test_refused(flags, told):
    check_refused(told, "compare", *flags)


def test_a_judge_of_another_size_is_refused_before_anything_is_trained(tmp_path):
    judge = untrained_judge(tmp_path / "judge")
    flags = (f"--judge={judge}", "--families=gan", f"--out={tmp_path}/out")
    check_refused("images of 28x28x1 and the judge knows 8x8x1", "compare", *flags)
    assert not (tmp_path / "out").exists()
