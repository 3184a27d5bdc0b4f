"""What a user gets wrong ends in one line that says what to do, and changes nothing."""

import re
import subprocess
import sys

import pytest
from absl import flags
from PIL import Image
from programs import ROOT, RUN_FLAGS, TINY, check_refused, program
from sampling import sample_each, untrained, untrained_clip, untrained_judge

from diffjax.errors import UserError
from experiments.start.command import said

TWO_LEVELS = (
    TINY.replace("(8,)", "(8,8)")
    .replace("('DownBlock2D',)", "('DownBlock2D','DownBlock2D')")
    .replace("('UpBlock2D',)", "('UpBlock2D','UpBlock2D')")
)
WIDER = TINY.replace("(8,)", "(16,)")

WRONG = {
    "a misspelt sampler": (("--sampler=dimm",), "did you mean 'ddim'"),
    "a misspelt flag": (("--bacth_size=8",), "Did you mean: batch_size"),
    "a misspelt target": (("--target=epsilon",), "eps"),
    "a misspelt schedule option": (("--schedule=linear(stepz=10)",), "did you mean 'steps'"),
    "code in a spec": (("--schedule=linear(steps=print(1))",), "a value is a number"),
    "a word too many": (("train",), "flags are written --name=value"),
    "an unknown dataset": (("--dataset=fashionmnist",), "choose one of"),
    "a folder that is not there": (("--dataset=folder(path='/no/such')",), "/no/such"),
    "idx files that are not there": (("--dataset=idx(path='/no/such')",), "/no/such"),
    "an unprepared TFDS set": (("--dataset=tfds(name='mnist')", "--data_dir=/no/such"), "/no/such"),
    "an unknown model option": (("--model=unet(chanels=3)",), "no option 'chanels'"),
    "an impossible model": ((f"{TINY[:-1]},attention_head_dim=0)",), "attention_head_dim"),
    "classes that the data lack": ((f"{TINY[:-1]},num_class_embeds=7)",), "10 classes"),
    "an indivisible batch": (
        ("--batch_size=9", "--accumulate=2"),
        "choose a multiple of 2 (--batch_size)",
    ),
    "a batch larger than the data set": (("--batch_size=1000000",), "has 4,500 images"),
    "no steps": (("--steps=0",), "steps"),
    "a judge for a backbone": (("--model=classifier",), "predicts no noise: choose a backbone"),
    "an image too small to be halved": (("--image_size=7", TWO_LEVELS), "7"),
}


@pytest.mark.parametrize("case", WRONG)
def test_training(tmp_path, case):
    flags, message = WRONG[case]
    check_refused(message, "ddpm", *RUN_FLAGS, f"--workdir={tmp_path}/run", *flags)
    assert not (tmp_path / "run").exists()


def test_folder_without_images(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "notes.txt").write_text("none")
    check_refused("pictures", "ddpm", *RUN_FLAGS, f"--dataset=folder(path='{tmp_path}/pictures')")


def test_corrupt_image(tmp_path):
    for i in range(12):
        Image.new("L", (30, 20), i).save(tmp_path / f"{i:02}.png")
    broken = (tmp_path / "07.png").read_bytes()
    (tmp_path / "07.png").write_bytes(broken[: len(broken) // 2])
    flags = (f"--dataset=folder(path='{tmp_path}')", "--image_size=16")
    check_refused("07.png", "ddpm", *RUN_FLAGS, *flags)


def test_run_folder_of_another_model(trained):
    before = {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()}
    check_refused(
        "was made with model=", "ddpm", *RUN_FLAGS, f"--workdir={trained}", WIDER, "--steps=6"
    )
    assert {p: p.read_bytes() for p in trained.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num=0",), "num"),
        (("--steps=0",), "steps"),
        (("--batch_size=0",), "batch_size"),
        (("--sampler=ddim(eta=3)",), "choose eta"),
        (("--run=/no/such",), "/no/such is no run folder"),
        (("--out=/proc/none",), "cannot write"),
    ],
)
def test_sampling(trained, tmp_path, flags, message):
    check_refused(message, "sample", f"--run={trained}", f"--out={tmp_path}/o", *flags)
    assert not (tmp_path / "o").exists()


GUIDED = {  # of a run of three classes that may be guided
    ("--labels=0,3",): "'3' is no class: choose from 0 to 2 (--labels)",
    ("--labels=one",): "'one' is no class: choose from 0 to 2 (--labels)",
    ("--guidance=2", "--negative=3"): "'3' is no class: choose from 0 to 2 (--negative)",
    ("--guidance=1,2,3",): "has 3 scales: give one, or --num=4",
    ("--guidance=two",): "give numbers with commas",
    ("--guidance=nan",): "a scale is a finite float32 number",
    ("--guidance=2", "--guidance_interval=3,1"): "0 <= low < high",
    ("--guidance=2", "--guidance_interval=3"): "give low,high",
    ("--guidance=2", "--guidance_rescale=1.5"): "guidance_rescale",
    ("--guidance=2", "--apg_threshold=0"): "choose a number above 0",
    ("--guidance=2", "--apg_eta=inf"): "give a finite number",
    ("--guidance_interval=1,3",): "--guidance_interval does nothing at --guidance=1",
    ("--negative=0",): "--negative does nothing at --guidance=1",
    ("--dynamic_threshold=101",): "dynamic_threshold",
    ("--judge_scale=2",): "--judge_scale does nothing without --judge",
    ("--clip={clip}",): "--clip needs a text to guide to: pass --clip_text",
    ("--clip_text=a dog",): "--clip_text does nothing without --clip",
    ("--clip_scale=2",): "--clip_scale does nothing without --clip",
    ("--clip={clip}", "--clip_text=a", "--judge={judge}"): "--clip and --judge both guide",
    ("--clip={clip}", "--clip_text=a", "--clip_scale=1,2"): "has 2 scales: give one, or --num=4",
    ("--clip={run}", "--clip_text=a"): "is a diffusion run, where a contrastive run is needed",
    ("--clip=/no/such", "--clip_text=a"): "/no/such",
    ("--guidance=2", "--negative=0", "--weak={run}"): "leave one out",
    ("--guidance=2", "--weak={classless}/no"): "is no run folder",
    ("--guidance=2", "--weak={large}"): "image_shape=(16, 16, 1)",
    ("--guidance=2", "--weak={x0}"): "has target=x0",
    ("--guidance=2", "--weak={run}", "--weak_step=1"): "train with averages",
    ("--weak_step=1",): "--weak_step does nothing without --weak",
    ("--judge={run}",): "is a diffusion run, where a classifier run is needed",
}
CLASSLESS = {
    ("--guidance=2",): "train with cond_drop above 0",
    ("--labels=1",): "this run takes no condition: leave the labels out (--labels)",
    ("--guidance=2", "--negative=1"): "this run takes no condition",
    (
        "--guidance=2",
        "--weak={run}",
    ): "label(drop=0.1, num_classes=3) and --run on none",
    ("--judge={judge}",): "8x8",
}


@pytest.mark.slow
def test_guidance(tmp_path):
    runs = {
        "run": untrained(tmp_path / "run", classes=3, null=True),
        "classless": untrained(tmp_path / "classless"),
        "large": untrained(tmp_path / "large", classes=3, size=16),
        "x0": untrained(tmp_path / "x0", classes=3, target="x0"),
        "judge": untrained_judge(tmp_path / "judge", size=16),
        "clip": untrained_clip(tmp_path / "clip"),
    }
    cases = [("run", *case) for case in GUIDED.items()]
    cases += [("classless", *case) for case in CLASSLESS.items()]
    common = ("--num=4", f"--out={tmp_path}/out")
    lines = sample_each(
        *((f"--run={runs[run]}", *common, *(flag.format(**runs) for flag in flags))
        for run, flags, _ in cases)
    )  # fmt: skip
    for line, (_, _, message) in zip(lines, cases, strict=True):
        assert line.startswith("refused: "), line
        assert message in line
    assert not (tmp_path / "out").exists()


def test_no_run_given():
    check_refused("--run", "sample")


def test_help_explains_each_flag():
    text = program("ddpm", "--help").stdout
    for flag in (
        "dataset",
        "data_dir",
        "image_size",
        "model",
        "schedule",
        "target",
        "sampler",
        "ema_decay",
        "workdir",
    ):
        assert re.search(rf"--{flag}: \S", text), text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("too small", "image_size"), "too small (--image_size)"),
        (UserError("--image_size=1 is too small", "image_size"), "--image_size=1 is too small"),
        (UserError("too small", "size"), "too small"),
        (UserError("too small"), "too small"),
    ],
)
def test_the_flag_that_puts_it_right_is_named_once(monkeypatch, error, line):
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    flags.DEFINE_integer("image_size", None, "Pixels.", flag_values=flags.FLAGS)
    assert said(error) == line


def test_output_that_nobody_reads_any_more():
    lines = (
        "from experiments.start.command import run; "
        "run(lambda: [print('x' * 1000) for _ in range(1000)])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", lines],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
