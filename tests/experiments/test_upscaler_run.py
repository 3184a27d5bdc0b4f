"""An upscaler through the command line: trained, measured, put to use; and what is refused."""

import json

import numpy as np
import pytest
from programs import TINY, check_refused, program
from sampling import untrained_upscaler

from diffjax import runs


def test_trained_measured_and_put_to_use(tmp_path):
    run, init = tmp_path / "run", tmp_path / "small.npy"
    flags = (
        TINY, "--factor=2", "--tile=8", "--noise=0.3", "--batch_size=8", "--steps=4",
        "--log_every=2", "--checkpoint_every=4", "--sample_every=4", "--sample_steps=2",
        "--num_samples=5", "--warmup_steps=2",
    )  # fmt: skip
    done = program("upscaler", *flags, f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    assert "psnr_bicubic" in done.stdout
    line = json.loads((run / "held_out.jsonl").read_text())
    assert line.keys() == {"step", "psnr", "psnr_bicubic"}
    assert line["psnr_bicubic"] > line["psnr"]  # of a network that has learnt nothing
    task = runs.load(run).task
    assert (task.image_shape, task.condition.shape) == ((8, 8, 1), (4, 4, 1))
    assert (task.condition.noise, task.target, task.process.time_input) == (0.3, "v", "index")
    np.save(init, np.zeros((6, 9), np.uint8))
    to = ("--task=upscale", f"--init={init}", "--steps=2", f"--out={tmp_path / 'out'}")
    done = program("sample", f"--run={run}", *to)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out" / "samples.npz")["images"].shape == (1, 12, 18, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tile=32",), "--tile=32 does not fit in images of 28x28"),
        (("--factor=3",), "factor=3 does not divide tiles of 28x28"),
        (("--num_classes=data",), "choose a backbone without classes"),
        (("--cond_drop=0.1",), "an upscaler is not guided: choose cond_drop=0"),
    ],
)
def test_refused(tmp_path, flags, message):
    check_refused(message, "upscaler", TINY, *flags, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_other_programs_refuse_it(tmp_path):
    teacher = untrained_upscaler(tmp_path / "teacher")
    folder = f"--workdir={tmp_path / 'run'}"
    check_refused("which no student learns", "distill", f"--teacher={teacher}", folder)
    net = TINY.removeprefix("--model=").replace("unet(", "unet(in_channels=3,")
    check_refused(
        "train it by experiments.upscaler",
        "ddpm",
        f'--model=upscaler(in_channels=1,net="{net}")',
        folder,
    )
    assert not (tmp_path / "run").exists()
