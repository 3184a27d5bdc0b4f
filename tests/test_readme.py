"""What the README shows works as it stands there."""

import pathlib
import re

from absl import flags

from experiments import ddpm

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_sampler_in_one_file_is_the_one_there():
    assert (ROOT / "diffjax" / "samplers" / "euler.py").read_text() in CODE


def test_flags_and_files_named_exist():
    known = set(flags.FLAGS) | {"run", "num", "out", "logdir", "judge"}
    assert ddpm.MODEL.name in known
    assert set(re.findall(r"--([a-z_]+)", TEXT)) <= known | {"help", "flagfile"}
    for name in re.findall(r"`(ddpm_\w+\.flags)`", TEXT):
        assert (ROOT / "experiments" / "flagfiles" / name).is_file()
    for path in re.findall(r"\]\((docs/[^)]+)\)", TEXT):
        assert (ROOT / path).is_file(), path
