"""Distilling through the command line: a student's folder, its pictures, and taking it up again."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from programs import calls, check_refused, program
from sampling import untrained, write_run

from diffjax.checksum import checksum
from diffjax.errors import UserError
from diffjax.runs import load, load_frozen, source_of
from diffjax.spec import render
from diffjax.tasks.base import params_of
from diffjax.tasks.diffusion import Diffusion
from diffjax.tasks.distillation import Distillation
from diffjax.training.step import init_state, make_train_step

FLAGS = (
    "--batch_size=8",
    "--log_every=2",
    "--checkpoint_every=2",
    "--sample_every=4",
    "--num_samples=4",
    "--warmup_steps=2",
    "--steps=4",
)


def distil(teacher, folder, *flags, **options):
    done = program(
        "distill", f"--teacher={teacher}", f"--workdir={folder}", *FLAGS, *flags, **options
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def student(trained, tmp_path_factory):
    """The folder of a finished progressive student of four steps."""
    folder = tmp_path_factory.mktemp("students") / "progressive"
    distil(trained, folder, "--student_steps=4")
    return folder


@pytest.fixture
def further(trained, tmp_path):
    """The teacher at another step."""
    shutil.copytree(trained, tmp_path / "further")
    shutil.rmtree(tmp_path / "further" / "checkpoints" / "6")
    return tmp_path / "further"


@pytest.fixture(scope="module")
def consistent(trained, tmp_path_factory):
    """The folder of a finished consistency model."""
    folder = tmp_path_factory.mktemp("students") / "consistency"
    distil(trained, folder, "--method=consistency_distillation")
    return folder


def weights(folder):
    return jax.tree.leaves(load(folder)["denoiser"].params)


def check_equal(a, b):
    for x, y in zip(weights(a), weights(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_a_students_folder(trained, student):
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(np.isfinite(line["loss"]) and line["skipped"] == 0 for line in lines)
    assert [p.name for p in (student / "samples").iterdir()] == ["step_00000004.png"]
    with Image.open(student / "reverse.gif") as film:
        assert film.n_frames == 4
    config = json.loads((student / "config.json").read_text())
    digest = checksum(load(trained)["denoiser"].params)
    source = {"path": str(trained), "component": "denoiser", "digest": digest}
    assert (config["task"], config["config"]["teacher"]) == ("distillation", source)
    task = load(student, Distillation).task
    assert (task.method, task.student_steps) == ("progressive", 4)
    assert render(task.weighting) == "truncated_snr()"


def test_it_starts_from_its_teacher(trained, student):
    """Near it after four small steps, and not at it."""
    gaps = [np.abs(a - b).max() for a, b in zip(weights(trained), weights(student), strict=True)]
    assert 0 < max(gaps) < 4 * 2e-4 * 1.01


def test_stopped_and_taken_up_equals_whole(trained, student, tmp_path):
    """To the last bit; and a teacher is known by its weights, wherever it lies."""
    folder, moved = tmp_path / "halves", tmp_path / "moved"
    shutil.copytree(student, folder)
    shutil.copytree(trained, moved)
    shutil.rmtree(folder / "checkpoints" / "4")
    done = distil(moved, folder, "--student_steps=4")
    assert "going on from step 2 of 4" in done.stdout
    assert (folder / "metrics.jsonl").read_text() == (student / "metrics.jsonl").read_text()
    check_equal(student, folder)


@pytest.fixture
def teacher(tmp_path):
    """The folder of a run of random weights."""
    return untrained(tmp_path / "teacher")


def student_of(teacher, method="progressive"):
    """The task of a student of four steps."""
    of = load(teacher, Diffusion).task
    return Distillation(
        model=of.model, image_shape=of.image_shape, schedule=of.schedule, target=of.target,
        teacher=source_of(teacher, "denoiser"), method=method, student_steps=4,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["progressive", "consistency_distillation"])
def test_the_teacher_is_data_of_the_compiled_step(teacher, method):
    """Its weights are no constants of the program, and others need no other program."""
    task = student_of(teacher, method)
    frozen = load_frozen(task, training=True)
    given = params_of(frozen)
    other = jax.tree.map(lambda leaf: 1.5 * leaf, given)
    tx = optax.sgd(1e-3)
    step = make_train_step(task.loss(frozen), tx, 0.99)
    state = init_state(task.init(jax.random.key(0), given), tx)
    batch = {"image": np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)}
    traces = []

    @jax.jit
    def counted(state, key, batch, frozen):
        traces.append(1)
        return step(state, key, batch, frozen)

    losses = [
        float(counted(state, jax.random.key(1), batch, each)[1]["loss"])
        for each in (given, other, given)
    ]
    assert len(traces) == 1
    assert losses[0] == losses[2]
    assert abs(losses[1] - losses[0]) > 1e-3 * losses[0]
    program = counted.lower(state, jax.random.key(1), batch, given).as_text()
    baked = jax.jit(lambda *args: step(*args, given)).lower(state, jax.random.key(1), batch)
    kernels = [leaf for leaf in jax.tree.leaves(given) if leaf.size > 100]  # written in hex
    for leaf in kernels:
        bits = np.asarray(leaf).tobytes().hex().upper()
        assert bits not in program
        assert bits in baked.as_text(), "as a constant it would be there"


def test_a_student_is_drawn_from_without_its_teacher_but_not_trained(teacher, tmp_path):
    task = student_of(teacher)
    student = write_run(tmp_path / "student", task)
    load_frozen(task, training=True)
    shutil.rmtree(teacher)
    untrained(teacher, seed=1)
    with pytest.raises(UserError, match="has other weights than those"):
        load_frozen(task, training=True)
    shutil.rmtree(teacher)
    with pytest.raises(UserError, match="is no run folder"):
        load_frozen(task, training=True)
    run = load(student)
    assert run.components.keys() == {"denoiser"}
    assert run.sample(jax.random.key(0), num=2, steps=4).shape == (2, 8, 8, 1)


@pytest.mark.parametrize("damage", [{"digesu": "0"}, {"componenu": "denoiser"}])
def test_a_damaged_source_is_refused(damage):
    values = {"teacher": {"path": "runs/teacher", "component": "denoiser", **damage}}
    with pytest.raises(UserError, match="a Distillation cannot be made of these fields"):
        Distillation.from_dict(values)


def test_another_teacher_is_another_run(student, further, tmp_path):
    before = (student / "config.json").read_text()
    given = (f"--teacher={further}", f"--workdir={student}", "--student_steps=4")
    check_refused("made with teacher_digest=", "distill", *FLAGS, *given)
    assert (student / "config.json").read_text() == before


@pytest.mark.slow
def test_a_consistency_model_draws_by_its_own_sampler(consistent, tmp_path):
    flags = (f"--run={consistent}", "--num=2", "--steps=2", f"--out={tmp_path}/out")
    done = program("sample", *flags, "--sampler=consistency")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out" / "samples.npz")["images"].shape == (2, 28, 28, 1)


# Each is tried in the one process that these share: starting one takes longer than all of them.
WRONG = {
    "a judge": ("{judge}", "", "where a diffusion or distillation or"),
    "no run": ("{tmp}", "", "no config.json"),
    "no checkpoint": ("{bare}", "", "no checkpoint"),
    "other images": ("{trained}", "--image_size=14", "draws images of 28x28x1"),
    "a consistency model": ("{model}", "", "is a consistency model"),
    "a student of a student": (
        "{student}", "--method=consistency_training", "is a progressive student"
    ),
    "no step": ("{trained}", "--student_steps=0", "range [1, "),
    "not half": ("{student}", "--student_steps=3", "draws in 4, so choose 2"),
    "more steps than half": ("{trained}", "--student_steps=501", "choose 1 to 500"),
    "a flag of another method": (
        "{trained}", "--intervals=3", "knows no intervals: leave it out (--intervals)"
    ),
    "a rate of no critic": ("{trained}", "--critic_rate=0.1", "knows no critic_rate"),
    "an optimizer of two networks": (
        "{trained}", "--method=distribution_matching --optimizer=muon", "an Adam and a steady rate"
    ),
    "a noisy solver": (
        "{trained}", "--method=consistency_distillation --solver=ddpm", "draws noise"
    ),
    "too many intervals": (
        "{trained}", "--method=consistency_training --intervals=1000", "choose 1 to 999"
    ),
}  # fmt: skip


def test_mistakes(trained, judge, student, tmp_path):
    bare, model = tmp_path / "bare", tmp_path / "model"
    bare.mkdir()
    shutil.copy(trained / "config.json", bare)
    shutil.copytree(student, model)
    config = json.loads((student / "config.json").read_text())
    config["config"]["method"] = "consistency_training"
    (model / "config.json").write_text(json.dumps(config))
    places = {
        "trained": trained, "judge": judge, "student": student, "model": model,
        "bare": bare, "tmp": tmp_path,
    }  # fmt: skip
    asked = [
        [f"--teacher={teacher.format(**places)}", f"--workdir={tmp_path}/new", *more.split()]
        for teacher, more, _ in WRONG.values()
    ]
    for (name, (_, _, message)), said in zip(WRONG.items(), calls("distill", *asked), strict=True):
        assert "refused:" in said, f"{name}: {said}"
        assert message in said, f"{name}: {said}"
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_student_is_the_next_ones_teacher(student, tmp_path):
    distil(student, tmp_path / "next")
    assert load(tmp_path / "next", Distillation).task.student_steps == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", ["progressive", "consistency_distillation"])
def test_two_devices_learn_as_one(trained, student, consistent, tmp_path, method):
    """The teacher's weights are on both; the draws are each sample's own."""
    alone = student if method == "progressive" else consistent
    steps = "--student_steps=4" if method == "progressive" else "--student_steps=2"
    distil(trained, tmp_path / "two", f"--method={method}", steps, devices=2)
    for a, b in zip(weights(alone), weights(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["consistency_training", "distribution_matching"])
def test_taken_up_equals_whole(trained, tmp_path, method):
    flags = (f"--method={method}", "--accumulate=2")
    distil(trained, tmp_path / "whole", *flags)
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    shutil.rmtree(tmp_path / "halves" / "checkpoints" / "4")
    assert "going on from step 2" in distil(trained, tmp_path / "halves", *flags).stdout
    check_equal(tmp_path / "whole", tmp_path / "halves")
