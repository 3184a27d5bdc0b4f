"""Run folders, metrics and checkpoints: what is kept, and what is refused."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.journal import Journal, Log, keep_until
from diffjax.training.loop import Plan
from diffjax.training.run import RunFolder

CONFIG = {
    "task": "diffusion",
    "config": {"target": "eps", "teacher": {"path": "a", "digest": "1"}},
    "training": {"seed": 0, "dataset": "a(b)"},
}


def changed(part, **values):
    """CONFIG with other values in a part."""
    return {**CONFIG, part: {**CONFIG[part], **values}}


def test_a_folder_is_taken_up_by_the_same_config_alone(tmp_path):
    with RunFolder.create(tmp_path / "run", CONFIG, "--seed=0\n") as run:
        pass
    with RunFolder.create(run.path, CONFIG, "--seed=0\n") as again:
        assert again == run
    for other, message in (
        (changed("config", target="v"), "made with target=eps, not v"),
        (changed("training", seed=1), "made with seed=0, not 1"),
        (changed("training", new=1), "made with new=its default, not 1"),
        ({**CONFIG, "task": "gan"}, "made with task=diffusion, not gan"),
        (changed("config", teacher={"path": "a", "digest": "2"}), "with teacher_digest=1, not 2"),
    ):
        with pytest.raises(UserError, match=message), RunFolder.create(run.path, other, "x"):
            pass
    assert (run.path / "flags.txt").read_text() == "--seed=0\n"


def test_where_another_run_lies_is_no_part_of_what_a_run_is(tmp_path):
    moved = changed("config", teacher={"path": "b", "digest": "1"})
    for config in (CONFIG, moved):
        with RunFolder.create(tmp_path / "run", config, "") as run:
            pass
    assert RunFolder.open(run.path) == (run, moved)


def test_another_start_that_made_the_folder_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    """Between the look at an empty folder and its lock another run has begun there."""
    hold, other = RunFolder._hold, changed("training", seed=1)

    def held(run, lock):
        (run.path / "config.json").write_text(json.dumps(other))
        hold(run, lock)

    monkeypatch.setattr(RunFolder, "_hold", held)
    with (
        pytest.raises(UserError, match="made with seed=1, not 0"),
        RunFolder.create(tmp_path / "run", CONFIG, ""),
    ):
        pass
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == other


def test_two_runs_on_one_folder(tmp_path):
    with (
        RunFolder.create(tmp_path / "run", CONFIG, ""),
        pytest.raises(UserError, match="in use by another process"),
        RunFolder.create(tmp_path / "run", CONFIG, ""),
    ):
        pass
    with RunFolder.create(tmp_path / "run", CONFIG, ""):
        pass  # let go of


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is no run"), RunFolder.create(tmp_path, CONFIG, ""):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is no folder"), RunFolder.create("gs://b/r", CONFIG, ""):
        pass
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        RunFolder.open(tmp_path)


def test_plan_stretches_stop_at_every_event():
    plan = Plan(20, log_every=5, checkpoint_every=10, sample_every=7, steps_per_dispatch=3)
    step, seen = 0, []
    while step < plan.steps:
        step += plan.stretch(step)
        seen.append(step)
    assert {5, 7, 10, 14, 15, 20} <= set(seen)
    assert all(b - a in (1, 3) for a, b in zip([0, *seen], seen, strict=False))


def steps_of(losses, skipped=0):
    return {"loss": np.asarray(losses), "skipped": np.full(len(losses), float(skipped))}


def test_journal_writes_window_means_and_resumes_to_the_byte(tmp_path):
    values = np.arange(1, 7, dtype=np.float32) / 3

    def journal(step, window=()):
        return Journal(tmp_path, step=step, steps=6, batch_size=2, window=window)

    with journal(0) as whole:
        for half in (values[:3], values[3:]):
            whole.add(steps_of(half))
            whole.write(3 if half[0] == values[0] else 6)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text.splitlines()[0])["loss"] == pytest.approx(2 / 3)
    # Stopped after step 4, with step 4's loss still unwritten, and half a line of step 6.
    (tmp_path / "metrics.jsonl").write_text(text[:-9])
    window = json.loads(json.dumps([{"loss": float(values[3]), "skipped": 0.0}]))
    with journal(4, window) as rest:
        rest.add(steps_of(values[4:]))
        rest.write(6)
    assert (tmp_path / "metrics.jsonl").read_text() == text
    speeds = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in speeds] == [3, 6]
    assert all(e["images_per_s"] == pytest.approx(2 * e["steps_per_s"]) for e in speeds)


def test_journal_says_where_its_lines_have_changed(tmp_path, capsys):
    with Journal(tmp_path, step=0, steps=6, batch_size=2) as journal:
        journal.add(steps_of([1.0, 2.0]))
        journal.write(2)
        digest = journal.digest()
        journal.add(steps_of([1.0, 2.0]))
        journal.write(4)
    options = {"step": 2, "steps": 6, "batch_size": 2, "digest": digest}
    with Journal(tmp_path, **options):
        pass
    path = tmp_path / "metrics.jsonl"
    assert "changed" not in capsys.readouterr().err
    path.write_text(path.read_text().replace("1.5", "1.4"))
    with Journal(tmp_path, **options):
        pass
    assert f"{path} has changed since it was written" in capsys.readouterr().err


def test_journal_leaves_skipped_steps_out_of_the_mean_and_counts_them(tmp_path):
    with Journal(tmp_path, step=0, steps=6, batch_size=2, window=()) as journal:
        journal.add(steps_of([1.0, 3.0]))
        journal.add(steps_of([np.nan], skipped=1))
        journal.write(3)
        journal.add(steps_of([np.nan], skipped=1))
        journal.write(4)
    first, second = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(first) == {"step": 3, "loss": 2.0, "skipped": 1}
    assert json.loads(second) == {"step": 4, "skipped": 1}


def test_keep_until_drops_what_came_after(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in (5, 10, 15)))
    keep_until(path, 10)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [5, 10]


def test_keep_until_names_a_line_that_it_cannot_read(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5}\n{"st\xfcp": 10}\n{"step": 15}\n{"step": 2')
    keep_until(path, 20)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [5, 15]
    assert capsys.readouterr().err == f"{path} line 2 cannot be read and was dropped\n"


def state(scale=1.0, width=3, dtype=jnp.float32):
    return {"step": jnp.asarray(4, jnp.int32), "w": scale * jnp.ones(width, dtype)}


def test_checkpoint_round_trip_and_part(tmp_path):
    position = {"data": {"next_index": 4}, "window": [{"loss": 0.1}]}
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), position)
        checkpoints.wait()
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"], "the newest two stay"
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        got, where = checkpoints.restore(jax.eval_shape(state))
        chex.assert_trees_all_equal(got, state(3))
        assert where == position
        part, _ = checkpoints.restore({"w": jax.ShapeDtypeStruct((3,), jnp.float32)})
        chex.assert_trees_all_equal(part, {"w": 3 * jnp.ones(3)})


@pytest.mark.parametrize(
    "like", [state(width=4), state(dtype=jnp.bfloat16), {**state(), "extra": jnp.ones(2)}]
)
def test_checkpoint_of_another_shape_or_dtype(tmp_path, like):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state(), {})
        checkpoints.wait()
        with pytest.raises(UserError, match="use the options that made the run"):
            checkpoints.restore(like)


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="train the run first"):
        Checkpoints(tmp_path / "missing", read_only=True)
    with (
        Checkpoints(tmp_path / "empty") as checkpoints,
        pytest.raises(UserError, match="train the run first"),
    ):
        checkpoints.restore(state())


def saved(folder, steps=(1, 2)):
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), {"n": step})
        checkpoints.wait()
    return sorted(p for p in (folder / str(steps[-1])).rglob("*") if p.is_file())


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flipped" and data:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted"])
def test_whatever_file_is_damaged_the_checkpoint_before_is_used(tmp_path, how):
    model = tmp_path / "model"
    # One checkpoint, copied: how many files Orbax cuts it into is not the same every time.
    files = [path.relative_to(model) for path in saved(model)]
    assert len(files) > 5
    for i, file in enumerate(files):
        folder = tmp_path / f"{how}{i}" / "checkpoints"
        shutil.copytree(model, folder)
        path = folder / file
        before = path.read_bytes()
        damage(path, how)
        with Checkpoints(folder) as checkpoints:
            got, position = checkpoints.restore(state())
            if path.exists() and path.read_bytes() == before:
                continue  # an empty file cannot be truncated
            unread = path.name in ("_CHECKPOINT_METADATA", "commit_success.txt")
            if unread:  # whatever becomes of Orbax's stamps, the state is one that was saved
                chex.assert_trees_all_equal(got, state(position["n"]))
            else:
                chex.assert_trees_all_equal(got, state(1))
                assert "checkpoint 2 is damaged" in checkpoints.skipped[0]
                assert (folder.parent / "damaged" / "2-0").is_dir()
                checkpoints.save(2, state(5), {"n": 2})
                checkpoints.wait()
                chex.assert_trees_all_equal(checkpoints.restore(state())[0], state(5))


def test_reading_moves_nothing_and_an_empty_step_is_skipped(tmp_path):
    saved(tmp_path / "c")
    (tmp_path / "c" / "3").mkdir()
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        got, _ = checkpoints.restore(state())
        chex.assert_trees_all_equal(got, state(2))
        assert checkpoints.skipped == [
            "checkpoint 3 is damaged and was skipped: it has no manifest.json"
        ]
    assert (tmp_path / "c" / "3").is_dir()
    assert not (tmp_path / "damaged").exists()


def test_a_reader_goes_on_to_what_was_saved_while_it_read(tmp_path):
    """The steps that it knew of are gone: a run in training keeps the newest two."""
    saved(tmp_path / "c", steps=(1, 2))
    with Checkpoints(tmp_path / "c", read_only=True) as reader:
        saved(tmp_path / "c", steps=(3, 4))
        got, position = reader.restore(state())
    chex.assert_trees_all_equal(got, state(4))
    assert position == {"n": 4}


def test_where_none_is_sound_the_run_stops_every_time(tmp_path):
    path = saved(tmp_path / "c", steps=(1,))[-1]
    damage(path, "deleted")
    for _ in range(2):
        with (
            Checkpoints(tmp_path / "c") as checkpoints,
            pytest.raises(UserError, match="none is left: train in a new folder"),
        ):
            checkpoints.restore(state())
    assert (tmp_path / "c" / "1").is_dir()


def test_what_a_checkpoint_is_given_does_not_change_while_it_is_written():
    """It is written beside training: a window that grew meanwhile made another line on resuming."""
    log = Log([{"loss": 1.0, "skipped": 0.0}])
    given = log.window
    log.add({"loss": np.ones(1), "skipped": np.zeros(1)})
    log.write(2)
    assert given == [{"loss": 1.0, "skipped": 0.0}]
    assert log.window == []
