"""What the README shows works as it stands there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README, COURSE = ROOT / "README.md", ROOT / "docs" / "course.md"


def code(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_sampler_in_one_file_is_the_one_there():
    assert (ROOT / "diffjax" / "samplers" / "euler.py").read_text() in code(README)


def test_the_lines_of_the_course_are_in_the_library():
    sources = [path.read_text() for path in (ROOT / "diffjax").rglob("*.py")]
    assert code(COURSE)
    for lines in code(COURSE):
        assert any(lines in source for source in sources), lines


@pytest.mark.parametrize("path", [README, COURSE], ids=lambda p: p.stem)
def test_flags_and_files_named_exist(path):
    text = path.read_text()
    programs = "".join(p.read_text() for p in (ROOT / "experiments").rglob("*.py"))
    known = set(re.findall(r'(?:DEFINE_\w+|define_specs?)\(\s*"(\w+)"', programs))
    assert {"model", "sampler", "nfe"} < known
    others = {"help", "flagfile", "logdir", "preset", "xla_gpu_enable_command_buffer"}
    assert set(re.findall(r"--([a-z_0-9]+)", text)) <= known | others
    for name in re.findall(r"(\w+\.flags)", text):
        assert (ROOT / "experiments" / "flagfiles" / name).is_file(), name
    for name in re.findall(r"-m experiments\.(\w+)", text):
        assert (ROOT / "experiments" / f"{name}.py").is_file(), name
    for link in re.findall(r"\]\(([^):#]+)\)", text):
        assert (path.parent / link).exists(), link
