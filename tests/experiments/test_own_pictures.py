"""A folder of pictures in classes: what is said of it, kept of it, and asked for by its names."""

import numpy as np
from PIL import Image
from programs import ROOT, RUN_FLAGS, program

from diffjax.runs import open_run


def fill(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * len(name)).save(root / name)


def samples(folder, out, labels):
    done = program(
        "sample", f"--run={folder}", f"--out={out}", f"--labels={labels}", "--num=3", "--steps=2"
    )
    assert done.returncode == 0, done.stderr
    return np.load(out / "samples.npz")["images"]


def test_classes_from_start_to_sample(tmp_path):
    """The flagfile says that there are classes, and the data which; then the data change."""
    data, run = tmp_path / "pictures", tmp_path / "run"
    fill(data, *(f"{kind}/{i}.png" for kind in ("2", "10", "sea dog") for i in range(4)))
    (data / "notes.txt").write_text("none")
    flags = [flag for flag in RUN_FLAGS if not flag.startswith("--num_classes")]
    assert "--num_classes=data" in (ROOT / flags[0].partition("=")[2]).read_text().splitlines()
    flags += [f"--dataset=folder(path='{data}')", "--image_size=8", f"--workdir={run}"]
    done = program("ddpm", *flags, "--steps=2")
    assert done.returncode == 0, done.stderr
    assert (
        "data: 9 images of 8x8 in grey; 3 classes: 2 (3), 10 (3), sea dog (3); 3 held out; "
        "passed over 1 .txt files that hold no picture"
    ) in done.stdout.splitlines()
    condition = open_run(run)[1].task.condition
    assert condition.names == ("2", "10", "sea dog")
    by_name = samples(run, tmp_path / "a", "sea dog,10,2")
    np.testing.assert_array_equal(by_name, samples(run, tmp_path / "b", "sea dog,1,2"))
    assert np.ptp(by_name) > 0
    fill(data, "2/9.png")
    done = program("ddpm", *flags, "--steps=4")
    assert done.returncode == 0, done.stderr
    assert "the run was planned for 2 steps and now for 4: its rate follows" in done.stdout
    assert "the data set had 9 images and has 10 now" in done.stdout
    (data / "2").rename(data / "3")
    done = program("ddpm", *flags, "--steps=4")
    assert done.returncode == 1
    assert "was made with condition=label(num_classes=3, names=('2', '10', 'sea dog'))" in (
        done.stderr
    )
