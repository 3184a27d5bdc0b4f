"""A network that is trained on a few pictures many times over, and what an audit finds of them."""

import json

import numpy as np
import pytest
from PIL import Image
from programs import program

from diffjax.data.embedded import Embedded
from diffjax.data.images import to_uint8

CANARIES, TIMES, OTHERS, HELD_OUT = 10, 6, 40, 400
NETWORK = (
    "unet(block_out_channels=(32,32),layers_per_block=1,norm_num_groups=8,mid_block_type=None,"
    "down_block_types=('DownBlock2D','DownBlock2D'),up_block_types=('UpBlock2D','UpBlock2D'))"
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A run on fifty garments, ten of which lie six times in its folder of pictures."""
    root = tmp_path_factory.mktemp("planted")
    for split, count in (("train", CANARIES + OTHERS), ("test", HELD_OUT)):
        garments, folder = Embedded().open(split, None), root / "pictures" / split
        folder.mkdir(parents=True)
        # They lie class by class: canaries and others are of all classes.
        for i, place in enumerate(np.linspace(0, len(garments) - 1, count).astype(int).tolist()):
            picture = Image.fromarray(to_uint8(garments[place]["image"])[..., 0])
            canary = split == "train" and i % (count // CANARIES) == 0
            for copy in range(TIMES if canary else 1):
                picture.save(folder / f"{i}_{copy}.png")
    done = program(
        "ddpm", f"--dataset=folder(path={str(root / 'pictures')!r})", f"--workdir={root / 'run'}",
        "--image_size=8", f"--model={NETWORK}", "--schedule=cosine", "--target=v",
        "--optimizer=muon", "--learning_rate=0.003", "--batch_size=32", "--steps=800",
        "--log_every=400", "--checkpoint_every=800", "--sample_every=800", "--sample_steps=5",
        "--num_samples=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root / "run"


@pytest.mark.slow
def test_canaries_are_drawn_and_found(planted):
    done = program("audit", "--task=copies", f"--run={planted}", "--num=300", "--steps=25")
    assert done.returncode == 3, done.stderr
    found = json.loads((planted / "audit.json").read_text())["copies"]
    assert found["repeated"] == CANARIES
    assert found["repeated_copied"] >= 0.9 * CANARIES
    assert found["held_out"] == HELD_OUT // 2
    assert found["held_out_taken"] <= 2
    assert f"of 10 images that occur more than once, {found['repeated_copied']} are" in done.stdout


@pytest.mark.slow
def test_its_members_are_known(planted):
    done = program("audit", "--task=members", f"--run={planted}", "--draws=8")
    assert done.returncode == 3, done.stderr
    found = json.loads((planted / "audit.json").read_text())["members"]
    assert (found["num"], found["others"]) == (CANARIES + OTHERS, HELD_OUT), "each picture once"
    assert found["loss"]["auc"][1] > 0.5
