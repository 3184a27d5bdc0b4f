"""The benchmark's other side does the work that ours does."""

import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from programs import program

from diffjax.errors import UserError
from diffjax.models.unet import UNet
from experiments.benchmarks import peers
from experiments.measurements import measuring
from experiments.measurements.torch_peer import Peer, libraries

pytestmark = pytest.mark.parity
TINY = UNet(
    sample_size=8,
    block_out_channels=(32, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
)


@pytest.fixture(scope="module")
def given():
    pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
    shape = measuring.image_shape(TINY)
    params = measuring.random_params(TINY, shape)
    return params, measuring.images(3, shape)["image"]


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_peer_has_our_weights(given, channels_last):
    params, x = given
    theirs = Peer(TINY, params, channels_last=channels_last).forward(np.asarray(x))()
    ours = TINY.apply({"params": params}, x, jnp.full(3, 500.0))
    difference = np.abs(theirs.numpy().transpose(0, 2, 3, 1) - np.asarray(ours)).max()
    assert difference < 2e-5 * np.abs(ours).max()


def test_the_peer_learns_and_averages(given):
    params, x = given
    peer = Peer(TINY, params)
    step = peer.train_step(np.asarray(x))
    before = [weight.detach().clone() for weight in peer.net.parameters()]
    first = np.mean([float(step()) for _ in range(5)])
    for _ in range(40):
        step()
    assert np.mean([float(step()) for _ in range(5)]) < 0.9 * first
    after = [weight.detach() for weight in peer.net.parameters()]
    moved = sum(float((w - b).abs().sum()) for w, b in zip(after, before, strict=True))
    lag = sum(float((a - b).abs().sum()) for a, b in zip(peer.averaged, before, strict=True))
    assert 0 < lag < 0.1 * moved


def test_the_peer_draws(given):
    params, x = given
    drawn = Peer(TINY, params).ddim(np.asarray(x), 3)()
    assert drawn.shape == (3, 3, 8, 8)
    assert float((drawn - Peer(TINY, params).image(np.asarray(x))).abs().max()) > 0.1


def test_the_main_job_in_torch(given, tmp_path):
    done = program("measurements.torch_job", f"--out={tmp_path}", "--steps=2")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"2.png", "2.pt"}
    assert Image.open(tmp_path / "2.png").size[0] > 280


def test_without_torch_it_says_so(monkeypatch):
    libraries.cache_clear()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"diffjax\[parity\]"):
        libraries()
    libraries.cache_clear()


def test_on_another_machine_than_torch_it_says_so(given, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(peers.cpu_devices, "split_cpu", lambda count: None)
    monkeypatch.setattr(peers, "WORK", SimpleNamespace(value=None))
    with pytest.raises(UserError, match="JAX computes on a tpu and torch on a cpu"):
        peers.main()


def test_the_pipelines_benchmark_draws_the_same_images_on_both_sides(given, tmp_path):
    """A tiny folder, written once; seconds, bytes and the images' difference."""
    flags = ("--tiny", "--rounds=2", "--steps=2", "--images=2", f"--out={tmp_path}")
    done = program("benchmark", "pipelines", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "pipelines.json").read_text())
    assert found["difference"] < 0.1
    assert len(found["ratios"]) == 2
    assert found["seconds"].keys() == found["bytes"].keys() == {"diffjax", "torch"}
    assert min(found["bytes"].values()) > 1e8  # a library alone takes more
    assert min(*found["seconds"].values(), found["first_seconds"]) > 0
    assert "2 images of 2 steps: diffjax" in done.stdout
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(written) == 3
    assert program("benchmark", "pipelines", *flags, "--rounds=1").returncode == 0
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
