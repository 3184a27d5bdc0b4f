"""Runs that nothing was trained for, and experiments.sample many times in one process."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
from programs import ROOT

from diffjax import trained
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.run import RunConfig, RunFolder

UNET = (
    "unet(in_channels=1,out_channels=1,block_out_channels=(8,),layers_per_block=1,"
    "norm_num_groups=4,mid_block_type=None,down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',)%s)"
)
JUDGE = "classifier(num_classes=3,stem=8,channels=(8,),num_features=8)"
EACH = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from diffjax.errors import UserError
from experiments import sample
for argv in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        try:
            flags.FLAGS(["sample", *argv])
            sample.main()
        except (UserError, flags.Error) as error:
            print("refused:", " ".join(str(error).split()))
"""


def untrained(
    folder: pathlib.Path, *, classes: int | None = None, null: bool = False, size: int = 8,
    seed: int = 0, target: str = "v", experiment: str = "ddpm", channels: int = 1,
) -> pathlib.Path:  # fmt: skip
    """A run folder of a tiny network with random weights, also where it would begin with zeros."""
    rows = "" if classes is None else f",num_class_embeds={classes + null}"
    judges = experiment == "classifier"
    config = RunConfig(
        experiment=experiment,
        model=JUDGE if judges else (UNET % rows).replace("channels=1", f"channels={channels}"),
        image_shape=(size, size, channels),
        num_classes=classes,
        training={},
        schedule=None if judges else "cosine()",
        target=None if judges else target,
    )
    build = trained.build_judge if judges else lambda config: trained.build(config)[0]
    init = trained.init_judge_params if judges else trained.init_params
    like = jax.eval_shape(lambda key: init(build(config), config, key), jax.random.key(0))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), like)
    with (
        RunFolder.create(folder, config, "") as run,
        Checkpoints(run.checkpoints) as checkpoints,
    ):
        checkpoints.save(1, {"step": np.int32(1), "ema_params": params}, {})
    return folder


def sample_each(*calls: tuple[str, ...], devices: int = 1) -> list[str]:
    """What python -m experiments.sample says to each list of flags, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(calls)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(calls), done.stdout
    return lines
