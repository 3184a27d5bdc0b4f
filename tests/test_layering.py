"""Imports point one way, flags stay in experiments, pmap and the sampling loop in one file each."""

import ast
import configparser
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Each part may import those named, and itself.
ALLOWED = {
    "errors": "",
    "typing": "",
    "files": "",
    "lazy": "",
    "processor": "",
    "compiling": "processor",
    "devices": "",
    "arrays": "errors",
    "batches": "",
    "checksum": "typing",
    "spec": "errors",
    "randomness": "errors typing",
    "conditions": "errors randomness spec typing",
    "spaces": "errors randomness spec typing",
    "schedules": "errors spec typing",
    "optimizers": "errors spec typing",
    "rates": "errors spec",
    "spacings": "errors schedules spec",
    "models": "conditions errors processor spec typing",
    "data": "errors lazy spec third_party",
    "text": "errors",
    "deconvolution": "",
    "display": "errors files",
    "metrics": "batches checksum errors interop models third_party typing",
    "process": "errors schedules typing",
    "guidance": "batches conditions errors process schedules typing",
    "samplers": "errors process randomness schedules spacings spec typing",
    "drawing": "samplers schedules spacings typing",
    "variational_terms": "process schedules typing",
    "weightings": "errors process schedules spec typing",
    "time_laws": "errors randomness schedules spec typing",
    "objectives": "conditions errors models process randomness samplers schedules spacings"
    " time_laws typing variational_terms weightings",
    "losses": "objectives",
    "likelihood": "batches conditions process randomness schedules typing variational_terms",
    "generate": "batches compiling conditions devices errors guidance process randomness samplers"
    " spacings typing",
    "editing": "arrays data errors generate guidance process randomness samplers schedules spacings"
    " typing",
    "trust": "conditions display errors files interop lazy metrics objectives process randomness"
    " run_report samplers spec typing",
    "tiling": "batches errors models typing",
    "absorbing": "conditions objectives process randomness time_laws typing",
    "training": "arrays compiling devices errors files lazy models optimizers randomness rates"
    " typing",
    "interop": "arrays data errors files lazy models process samplers schedules spacings spec text"
    " third_party typing",
    "tasks": "absorbing batches compiling conditions data display editing errors files generate"
    " guidance interop metrics models objectives process randomness samplers schedules spaces"
    " spacings spec text time_laws training typing weightings",
    "run_pipeline": "conditions errors files interop models process runs spaces spec tasks typing",
    "pipelines": "batches devices editing errors generate guidance interop models process"
    " randomness samplers spaces spacings spec tasks text typing",
    "findings": "display",
    "run_report": "conditions display errors findings spec training",
    "runs": "checksum data errors guidance interop metrics models optimizers rates samplers"
    " spacings spec tasks training typing",
    "session": "data display errors files run_report runs spec tasks training typing",
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


# Flags of other programs, and one that is read from a run's flags.txt.
NAMED = {
    "data/tfds_files.py": {"--file_format", "--data_dir"},  # the command line of `tfds build`
    "run_report.py": {"--steps"},
}


def test_library_names_no_flag_and_no_program():
    for path in FILES:
        name = path.relative_to(ROOT / "diffjax").as_posix()
        found = set(re.findall(r"(?<!-)--[a-z_]{3,}|\bexperiments\.", path.read_text()))
        assert found <= NAMED.get(name, set()), f"{name} names {found}"


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


PROGRAMS = {
    "ablate", "audit", "benchmark", "classifier", "clip", "compare", "ddpm", "distill", "evaluate",
    "export", "gan", "latent_diffusion", "masked_diffusion", "report", "sample", "text_to_image",
    "unet", "upsampling", "upscaler", "vae",
}  # fmt: skip


def test_experiments_holds_programs_and_packages_alone():
    found = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
    assert found == PROGRAMS
    for name in PROGRAMS:
        text = (ROOT / "experiments" / f"{name}.py").read_text()
        assert 'if __name__ == "__main__":' in text, name
        assert f"python -m experiments.{name}" in ast.get_docstring(ast.parse(text)), name


def names_of(top: str) -> set[str]:
    """Modules and packages below a folder, but the programs, and the classes they define."""
    found = set()
    for path in (ROOT / top).rglob("*.py"):
        if path.parent not in (ROOT / "experiments", ROOT / "experiments" / "benchmarks"):
            found.add(path.parent.name if path.name == "__init__.py" else path.stem)
        found |= {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)}
    return found - {top, "__init__"}


def test_no_name_stands_for_two_things():
    """Neither in both packages, nor for two classes that specs name."""
    assert names_of("diffjax") & names_of("experiments") == set()
    exported = [
        f"{path.parent.name}.{node.value.elts[0].value}"
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        and len(node.value.elts) == 1
    ]  # fmt: skip
    classes = [name.partition(".")[2] for name in exported]
    assert len(classes) > 60
    assert len(set(classes)) == len(classes)
