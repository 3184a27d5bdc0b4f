"""Any file of a run damaged in any way: it ends as it would have, or says in one line why not."""

import collections
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from programs import RUN_FLAGS, program

from diffjax.runs import load

pytestmark = pytest.mark.faults
FLAGS = (*RUN_FLAGS, "--steps=6")
# Whatever happens to these, the weights and the metrics are as they were: they are only shown.
SHOWN = ("speed.jsonl", "environment.json", "flags.txt", "report.html", "reverse.gif")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = program("ddpm", *FLAGS, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def damage(path, rng):
    """Flips a bit, cuts, empties or removes a file; says which."""
    how = rng.choice(["bit flipped", "truncated", "emptied", "deleted"])
    data = bytearray(path.read_bytes())
    if how == "bit flipped" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif how == "truncated" and data:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif how == "emptied":
        path.write_bytes(b"")
    else:
        how = "deleted"
        path.unlink()
    return how


def same_weights(a, b):
    return all(
        np.array_equal(x, y)
        for x, y in zip(*(jax.tree.leaves(load(f)["denoiser"].params) for f in (a, b)), strict=True)
    )


def attempt(whole, folder, seed):
    """Damages one file of a copy and runs the same command; the case and what came of it."""
    rng = random.Random(seed)
    shutil.copytree(whole, folder)
    steps = folder / "checkpoints"
    newest, older = (
        [p for p in sorted((steps / step).rglob("*")) if p.is_file()] for step in ("6", "4")
    )
    # A kind of file first, or the many of a checkpoint would leave no try to the others.
    kinds = [newest] * 5 + [older, [folder / "metrics.jsonl"], [folder / "config.json"]]
    path = rng.choice(rng.choice([*kinds, [folder / n for n in SHOWN]]))
    name = path.relative_to(folder).as_posix()
    how = damage(path, rng)
    done = program("ddpm", *FLAGS, f"--workdir={folder}")
    assert "Traceback" not in done.stderr, (name, how, done.stderr)
    case = "newest checkpoint" if path in newest else "older checkpoint" if path in older else name
    if done.returncode:
        assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
        assert case == "config.json", (name, how, done.stderr)
        return f"{case} {how}", "refused in one line"
    assert same_weights(folder, whole), (name, how, done.stdout)
    metrics = (folder / "metrics.jsonl").read_text(errors="replace")
    if metrics != (whole / "metrics.jsonl").read_text():
        said = done.stderr
        assert "has changed since it was written" in said or "cannot be read" in said, (name, how)
        return f"{case} {how}", "same weights, change of metrics named"
    if "is damaged and was skipped" in done.stdout:
        return f"{case} {how}", "named, taken up from the one before, same end"
    return f"{case} {how}", "same end"


def test_damage(whole, tmp_path, damages):
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda i: attempt(whole, tmp_path / str(i), i), range(damages)))
    for (case, outcome), count in sorted(collections.Counter(outcomes).items()):
        print(f"{case:<32}{count:>4}  {outcome}")
    damaged = [o for case, o in outcomes if case.startswith("newest checkpoint")]
    assert len(damaged) >= damages / 3
    assert any("named" in outcome for outcome in damaged)
