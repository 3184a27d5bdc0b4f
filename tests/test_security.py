"""What is read from others is data: nothing in this package can make a program of it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(path for part in ("diffjax", "experiments") for path in (ROOT / part).rglob("*.py"))
# Modules that run, or build objects of, whatever the bytes they are given ask for; and torch's and
# joblib's readers, which are pickle's.
UNSAFE_MODULES = {
    "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve",
    "torch",
}  # fmt: skip
UNSAFE_CALLS = {"compile", "eval", "exec", "__import__", "os.system", "os.popen"}
UNSAFE_METHODS = {"read_pickle", "to_pickle", "extractall", "unpack_archive"}


def unsafe(source: str) -> list[str]:
    """What a file's text does that could run what it reads, each as line number and code."""
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call) and _is_unsafe(node)
    ]


def _is_unsafe(node: ast.Import | ast.ImportFrom | ast.Call) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in UNSAFE_MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in UNSAFE_MODULES
    if ast.unparse(node.func) in UNSAFE_CALLS:
        return True
    if isinstance(node.func, ast.Attribute) and node.func.attr in UNSAFE_METHODS:
        return True
    options = {keyword.arg: keyword.value for keyword in node.keywords}
    return _may_be_true(options.get("allow_pickle")) or _may_be_true(options.get("shell"))


def _may_be_true(value: ast.expr | None) -> bool:
    return value is not None and not (isinstance(value, ast.Constant) and value.value is False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_read_is_run(path):
    found = unsafe(path.read_text())
    if path.name == "torch_peer.py":  # what the benchmark compares with: it reads no file by torch
        assert "torch.load" not in path.read_text()
        found = [line for line in found if not line.endswith(": import torch")]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    import dill as json",
        "from cloudpickle import loads",
        "import os, shelve",
        "from torch.serialization import load",
        "eval('1')",
        "exec(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "tarfile.open(path).extractall()",
        "shutil.unpack_archive(path)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
    ],
)
def test_the_check_sees(source):
    assert unsafe(source)


@pytest.mark.parametrize(
    "source",
    [
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "ast.literal_eval(text)",
        "re.compile(a)",
    ],
)
def test_the_check_lets_pass(source):
    assert not unsafe(source)
