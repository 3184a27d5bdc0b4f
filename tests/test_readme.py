"""What the README shows works as it stands there."""

import pathlib
import re

import jax
import numpy as np
import pytest
from absl import flags
from oracles import Gaussian

from diffjax.randomness import normal, sample_keys
from diffjax.samplers.base import sample, uniform_times
from diffjax.schedules.linear import Linear

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_sampler_in_one_file():
    (code,) = [c for c in CODE if "class Euler" in c]
    scope: dict = {"__name__": "euler"}
    exec(code, scope)
    schedule, errors, steps = Linear(), [], np.array([50, 100, 200])
    keys = sample_keys(jax.random.key(0), 0, 2)
    x = normal(keys, (4, 4, 1))
    oracle = Gaussian(schedule)
    for n in steps:
        out, _ = sample(scope["Euler"](), schedule, oracle.denoise, keys, x, uniform_times(int(n)))
        errors.append(float(np.sqrt(np.mean((out - oracle.flow(x, 1.0)) ** 2))))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(1, abs=0.15)


def test_flags_and_files_named_exist():
    from experiments import training

    known = set(flags.FLAGS) | {"run", "num", "out", "logdir", "sampler", "judge"}
    assert training.STEPS.name in known
    assert set(re.findall(r"--([a-z_]+)", TEXT)) <= known | {"help", "flagfile"}
    for name in re.findall(r"`(ddpm_\w+\.flags)`", TEXT):
        assert (ROOT / "experiments" / "flagfiles" / name).is_file()
    for path in re.findall(r"\]\((docs/[^)]+)\)", TEXT):
        assert (ROOT / path).is_file(), path
