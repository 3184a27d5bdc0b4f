"""The README and the pages in docs/ name what exists, and their Python runs."""

import pathlib
import re

import jax
import numpy as np
import pytest
from programs import RUN_FLAGS, program

ROOT = pathlib.Path(__file__).parent.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"
COURSE, EXTENDING, PYTHON = DOCS / "course.md", DOCS / "extending.md", DOCS / "python.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
MOST_LINES = 170
# Flags of absl, tensorboard and XLA, and those of other programs that the text names.
FLAG = re.compile(r"--([a-z_0-9]+)(?![\w-])")  # with a hyphen within it is another program's
FLAGS_OF_OTHERS = {
    "help",
    "flagfile",
    "logdir",
    "preset",
    "spot",
    "xla_gpu_enable_command_buffer",
    "xla_cpu_experimental_ynn_fusion_type",
}
OTHER_PROGRAMS = re.compile(r"\b(gcloud|kubectl|gcsfuse|srun|git|uv|pip|tensorboard)\b")


def code(path, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def own_text(path):
    """A page without the shell commands of other programs, except an `experiments.NAME` in them."""
    text = path.read_text()
    for block in code(path, "bash"):
        commands = block.replace("\\\n", " ").splitlines()
        text = text.replace(block, "\n".join(map(_own_part, commands)))
    return text


def _own_part(command):
    ours = re.search(r"-m experiments\..*", command)
    if ours:
        return ours[0]
    return "" if OTHER_PROGRAMS.search(command) else command


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= MOST_LINES


def test_the_sampler_in_one_file_is_the_one_there():
    assert (ROOT / "diffjax" / "samplers" / "euler.py").read_text() in code(EXTENDING)


def test_the_lines_of_the_course_are_in_the_library():
    sources = [path.read_text() for path in (ROOT / "diffjax").rglob("*.py")]
    assert code(COURSE)
    for lines in code(COURSE):
        assert any(lines in source for source in sources), lines


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_flags_and_programs_named_exist(path):
    text = own_text(path)
    programs = "".join(p.read_text() for p in (ROOT / "experiments").rglob("*.py"))
    known = set(re.findall(r'(?:DEFINE_\w+|define_\w+)\(\s*"(\w+)"', programs))
    assert {"model", "sampler", "nfe"} < known
    assert set(FLAG.findall(text)) <= known | FLAGS_OF_OTHERS
    for name in re.findall(r"(\w+\.flags)\b", text):
        assert (ROOT / "experiments" / "flagfiles" / name).is_file(), name
    for name in re.findall(r"\bexperiments\.([a-z]\w*)", text):
        assert (ROOT / "experiments" / f"{name}.py").is_file(), name


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    for link, anchor in re.findall(r"\]\(([^):#]*)#?([^):]*)\)", path.read_text()):
        target = path.parent / link if link else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[^):#]*)", README.read_text()))
    assert {str(page.relative_to(ROOT)) for page in PAGES if page != README} <= linked


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A class-conditional run of a tiny network."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    flags = (*RUN_FLAGS, "--steps=2", "--num_classes=10", "--cond_drop=0.1")
    done = program("ddpm", *flags, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def execute(page, run):
    """Runs a page's Python in order, as one session on the run; returns the names it has set."""
    names: dict = {}
    assert code(page)
    for number, block in enumerate(code(page), 1):
        lines = block.replace("runs/NAME", str(run))
        exec(compile(lines, f"{page.name}, block {number}", "exec"), names)
    return names


def test_python_of_the_readme_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = execute(README, run)
    images, trajectory = names["images"], names["trajectory"]
    assert images.shape == (16, 28, 28, 1)
    assert images.dtype == np.float32
    assert np.abs(images).max() <= 1
    np.testing.assert_array_equal(trajectory[-1], images)


@pytest.mark.slow
def test_python_of_the_python_page_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = execute(PYTHON, run)
    assert np.isfinite(names["loss"])
    assert names["x"].shape == (3, 28, 28, 1)
    saved, loaded = names["component"].params, names["params"]
    jax.tree.map(np.testing.assert_array_equal, loaded, saved)
