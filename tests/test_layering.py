"""Imports point one way, flags stay in experiments, pmap and the sampling loop in one file each."""

import ast
import configparser
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Each part may import those named, and itself.
ALLOWED = {
    "errors": "",
    "devices": "",
    "typing": "",
    "spec": "errors",
    "randomness": "typing",
    "schedules": "errors typing",
    "spacings": "errors schedules",
    "models": "errors typing",
    "data": "errors spec third_party typing",
    "deconvolution": "",
    "display": "",
    "metrics": "errors interop models typing",
    "process": "errors schedules typing",
    "guidance": "errors process schedules typing",
    "samplers": "errors process randomness schedules spacings typing",
    "variational_terms": "process schedules typing",
    "weightings": "errors process schedules typing",
    "time_laws": "errors randomness schedules typing",
    "objectives": "errors models process randomness samplers schedules spacings time_laws"
    " typing variational_terms weightings",
    "likelihood": "process randomness schedules typing variational_terms",
    "generate": "devices errors guidance process randomness display samplers spacings typing",
    "editing": "data errors generate guidance process randomness display samplers schedules"
    " spacings typing",
    "training": "devices errors models randomness typing",
    "interop": "errors models spec typing",
    "run_report": "errors display training",
    "trained": "errors models process schedules spec training typing",
    "trained_gan": "errors models randomness display spec trained training typing",
}
FILES = sorted((ROOT / "diffjax").rglob("*.py"))


def part_of(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "diffjax").parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
    """Full names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    names = {n.split(".")[1] for n in imported(path) if n.startswith("diffjax.")}
    allowed = set(ALLOWED[part].split()) | {part}
    assert names <= allowed, f"{part} may not import {names - allowed}"


def test_library_knows_no_flags_and_no_other_framework():
    for path in FILES:
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & {"absl", "torch", "tensorflow", "experiments"}, path


def test_the_wheel_holds_every_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    inits = [p for top in ("diffjax", "experiments") for p in (ROOT / top).rglob("__init__.py")]
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in inits} | {"diffjax.third_party"}
    assert set(config["options"]["packages"].split()) == found


def test_only_one_file_names_pmap_and_one_loops_over_sampling_steps():
    texts = {p.relative_to(ROOT / "diffjax").as_posix(): p.read_text() for p in FILES}
    assert [p for p, t in texts.items() if "jax.pmap" in t] == ["training/parallel.py"]
    samplers = [p for p, t in texts.items() if p.startswith("samplers/") and "lax.scan" in t]
    assert samplers == ["samplers/base.py"]
