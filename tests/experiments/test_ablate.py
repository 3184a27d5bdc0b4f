"""A grid of runs: its cells are what their flags say, and a second start computes none again."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from programs import JUDGE_FLAGS, ROOT, check_refused, program, python

from diffjax.runs import open_run
from diffjax.spec import render

SMALL = (
    f"--flagfile={ROOT}/experiments/flagfiles/course_04a.flags",
    "--model=course_unet(channels=(32,32,32),num_class_embeds=10)",
    "--schedule=linear(steps=150)", "--sample_steps=3", "--num_samples=4",
    "--steps=2", "--sample_every=2", "--checkpoint_every=2", "--log_every=2", "--num=30",
)  # fmt: skip


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges") / "small"
    done = program("classifier", *JUDGE_FLAGS, "--image_size=16", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def stamps(folder):
    """When each file was last written."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_grid(judge, tmp_path):
    out = tmp_path / "grid"
    flags = (
        *SMALL, f"--judge={judge}", "--preset=smoke", f"--out={out}", "--nocourse_compat",
        "--ablate=time_embedding.raw,time_embedding.sinusoidal", "--sampler=ddpm",
    )  # fmt: skip
    done = program("ablate", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "ablation.json").read_text())["rows"]
    assert [row["value"] for row in found] == ["sinusoidal", "raw"]
    assert [len(row["seeds"]) for row in found] == [1, 1], "the preset's"
    assert "--batch_size=16" in (out / "base.flags").read_text(), "the preset of experiments.ddpm"
    for row, folder in zip(found, ("base", "time_embedding_raw"), strict=True):
        for seed, figures in enumerate(row["seeds"]):
            run, config = open_run(out / "cells" / folder / f"seed_{seed}")
            assert config.training.seed == seed
            assert (f"'{row['value']}'" in render(config.task.model)) == (folder != "base")
            saved = json.loads((run.path / "evaluation.json").read_text())
            assert figures["frechet"] == saved["samples"]["frechet"]
            assert figures["loss"] == saved["loss"]["mean"]
        told = re.escape(f"{row['seeds'][0]['loss']:.4g} +- 0")
        assert re.search(rf"{row['value']} .*{told}", done.stdout), done.stdout
    assert Image.open(out / "ablation.png").width > 1000
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") >= 3
    assert "orbax-checkpoint" in page, "the machine that the runs recorded"

    before = stamps(out / "cells")
    again = program("ablate", *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert stamps(out / "cells") == before, "nothing is trained or drawn again"
    check_refused("has other flags", "ablate", *flags, "--learning_rate=1")


# Each row's flags given to experiments.ddpm on top of what the runs have in common.
CHOICES = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from diffjax.runs import RunConfig
from experiments import ablate, ddpm
from experiments.flags import learning

flags.FLAGS(["ablate", "--judge=none", f"--flagfile={sys.argv[1]}"])
rows = ablate.choices(ablate.base_model())
base = learning.flags_text("ddpm", ddpm.OWN).splitlines()[1:]
configs = {}
for row in rows:
    with flagsaver.flagsaver():
        flags.FLAGS(["ddpm", "--judge=none", *base, *row.flags])
        config = RunConfig(ddpm.describe(learning.open_records()), learning.training()).to_dict()
        sampler = {"sampler": ddpm.SAMPLER.value, "folder": row.folder}
        values = {"task": config["task"], **config["config"], **config["training"], **sampler}
        configs[row.factor + " " + row.value] = values
print(json.dumps([configs, ablate.spread([1.0, 2.0, 4.0]), ablate.spread([3.0])]))
"""


def test_each_row_is_one_thing_changed():
    """In a process of its own: the program's flags are also those of others."""
    flagfile = f"{ROOT}/experiments/flagfiles/ablate_fashion_mnist.flags"
    done = python(CHOICES, flagfile)
    assert done.returncode == 0, done.stderr
    configs, (mean, deviation), alone = json.loads(done.stdout.splitlines()[-1])
    base = configs.pop("mistakes as the course has it")
    assert base["schedule"] == "linear(steps=150)"
    changed = {
        name: {key for key in (config | base) if config.get(key) != base.get(key)} - {"folder"}
        for name, config in configs.items()
    }
    same = {"norm group", "activation gelu", "pooling rearrange", "time_embedding sinusoidal"}
    assert {name for name, keys in changed.items() if not keys} == same
    assert all(configs[name]["folder"] == base["folder"] == "base" for name in same)
    folders = {config["folder"] for name, config in configs.items() if name not in same}
    assert len(folders) == len(configs) - len(same)
    assert all(re.fullmatch(r"\w+", folder) for folder in folders)
    keys = [keys for name, keys in changed.items() if name.startswith("mistakes")]
    assert keys == [{"schedule"}, {"sampler"}, {"model"}, {"condition"}, {"model"}, {"dataset"}]
    factors = ("norm", "activation", "pooling", "time_embedding")
    assert all(changed[n] == {"model"} for n in configs if n.startswith(factors) and n not in same)
    assert (mean, deviation) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    assert alone == [3, 0], "one run has no spread"


def test_refused(judge):
    given = f"--flagfile={ROOT}/experiments/flagfiles/ablate_fashion_mnist.flags"
    for flags, message in (
        ((given, "--judge=/no/such"), "/no/such is no run folder"),
        ((*SMALL, f"--judge={judge}", "--ablate=colour"), "choose among norm"),
        ((*SMALL, f"--judge={judge}", "--ablate=norm.bach"), "single values as norm.batch"),
        ((*SMALL, f"--judge={judge}", "--nocourse_compat", "--model=unet"), "course_unet"),
        (
            (given, f"--judge={judge}", "--num_classes=0", "--cond_drop=0"),
            "pass --num_classes",
        ),
    ):
        check_refused(message, "ablate", *flags)
