"""What the README shows works as it stands there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_sampler_in_one_file_is_the_one_there():
    assert (ROOT / "diffjax" / "samplers" / "euler.py").read_text() in CODE


def test_flags_and_files_named_exist():
    programs = "".join(p.read_text() for p in (ROOT / "experiments").rglob("*.py"))
    known = set(re.findall(r'(?:DEFINE_\w+|define_specs?)\(\s*"(\w+)"', programs))
    assert {"model", "sampler", "nfe"} < known
    assert set(re.findall(r"--([a-z_]+)", TEXT)) <= known | {
        "help",
        "flagfile",
        "logdir",
        "xla_gpu_enable_command_buffer",
    }
    for name in re.findall(r"`(\w+\.flags)`", TEXT):
        assert (ROOT / "experiments" / "flagfiles" / name).is_file()
    for path in re.findall(r"\]\((docs/[^)]+)\)", TEXT):
        assert (ROOT / path).is_file(), path
