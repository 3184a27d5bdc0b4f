"""The CLIP score of a run that draws from captions, which here are the real images of them."""

import json

import numpy as np
import pytest
from programs import check_refused, python
from sampling import untrained, untrained_clip

from diffjax.checksum import checksum
from diffjax.data.captions import Captions
from diffjax.metrics.clip_score import clip_scores
from diffjax.runs import Training, load_towers

# A run of captions: `sample` gives the held-out image of each text, mixed with noise.
EVALUATE = """
import json, sys
import numpy as np
from diffjax import runs
from diffjax.data.captions import Captions
from diffjax.tasks.base import Source
from diffjax.tasks.diffusion import Diffusion
from experiments import evaluate
from experiments.start import command
noise, clip, digest, out = json.loads(sys.argv.pop(1))
held_out = Captions().open("test", 8)
first = {}
for i in np.random.default_rng(0).permutation(len(held_out)):
    first.setdefault(held_out[int(i)]["text"], held_out[int(i)]["image"])

def sample(self, key, *, labels, **options):
    seen = {"labels": labels, **{name: repr(value) for name, value in options.items()}}
    open(out, "w").write(json.dumps(seen))
    images = np.stack([first[text] for text in labels])
    noises = np.random.default_rng(0).uniform(-1, 1, images.shape)
    return ((1 - noise) * images + noise * noises).astype(np.float32)

runs.Run.sample = sample
Diffusion.asks_captions = True
if clip:
    Diffusion.sources = property(lambda self: {"clip": Source(clip, "clip", digest)})
command.run(evaluate.main)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run of captions, and a CLIP."""
    folder = tmp_path_factory.mktemp("captioned")
    training = Training(dataset="captions", image_size=8)
    run = untrained(folder / "run", channels=3, training=training)
    return run, untrained_clip(folder / "clip", seed=2)


def evaluate(folders, tmp_path, *flags, noise=0.0, conditioned=False):
    run, clip = folders
    given = noise, "", "", str(tmp_path / "asked.json")
    if conditioned:
        given = noise, str(clip), checksum(load_towers(clip).params), given[3]
    flags = (f"--run={run}", f"--clip={clip}", "--metrics=clip_score", *flags)
    done = python(EVALUATE, json.dumps(given), *flags)
    assert done.returncode == 0, done.stderr
    asked = json.loads((tmp_path / "asked.json").read_text())
    return json.loads((run / "evaluation.json").read_text())["clip_score"], asked, done


def test_samples_that_are_the_real_images_score_as_they_do(folders, tmp_path):
    """One image for each distinct caption, whose scores are computed here once more."""
    found, asked, done = evaluate(
        folders, tmp_path, "--num=30", "--steps=3", "--guidance=2.5", "--sampler=ddpm"
    )
    texts = asked["labels"]
    assert len({*texts}) == len(texts) == 30 == found["num"]
    assert (asked["steps"], asked["guidance"], asked["sampler"]) == (
        "3",
        "2.5",
        "DDPM(variance='small')",
    )
    assert found["samples"] == found["real"]
    towers, held_out = load_towers(folders[1]), Captions().open("test", 8)
    rows = [held_out[int(i)] for i in np.random.default_rng(0).permutation(len(held_out))]
    images = np.stack([next(r["image"] for r in rows if r["text"] == text) for text in texts])
    scores = clip_scores(towers.images(images), towers.texts(texts))
    assert found["real"]["clip_score"] == pytest.approx(scores.mean(), abs=1e-3)
    low, high = found["real"]["interval"]
    assert low <= found["real"]["clip_score"] <= high
    assert (found["candidates"], found["chance"]) == (20, 0.05)
    low, high = found["real"]["matched_interval"]
    assert low <= found["real"]["matched"] <= high
    assert found["clip_digest"] == checksum(towers.params)
    assert found["clip"] == str(folders[1])
    assert (found["guidance_scale"], found["steps"], found["sampler"]) == (2.5, 3, "ddpm")
    assert found["independent"]
    assert "not independent" not in done.stderr
    assert "own caption first of 20" in done.stdout


def test_a_clip_that_the_run_was_conditioned_on_is_named(folders, tmp_path):
    """And there are no more images than captions."""
    found, asked, done = evaluate(folders, tmp_path, noise=0.9, conditioned=True)
    assert not found["independent"]
    assert "not independent: the run was conditioned on this CLIP" in done.stderr
    assert found["num"] == len(asked["labels"]) < 408
    assert f"--num=1000 is cut to {found['num']}" in done.stdout
    assert found["samples"] != found["real"]


def test_what_has_no_clip_score(folders):
    run, clip = folders
    for message, flags in (
        ("conditioned on no captions", (f"--run={run}", "--metrics=clip_score", f"--clip={clip}")),
        ("--clip does nothing without --metrics=clip_score", (f"--run={run}", f"--clip={clip}")),
        (
            "--judge does nothing without",
            (f"--run={run}", "--metrics=clip_score", f"--judge={clip}"),
        ),
    ):
        check_refused(message, "evaluate", *flags)
