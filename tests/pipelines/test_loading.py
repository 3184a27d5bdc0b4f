"""Folders of pipelines: what is read, warned of and refused, and before what."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_pipeline import LENGTH, text_model, unet, write_encoder, write_folder

import diffjax as dj
from diffjax.interop import safetensors
from diffjax.interop.diffusers_folder import WEIGHTS
from diffjax.pipelines import placement
from diffjax.pipelines.placement import cut_of, fits_whole, host_room

TEXTS = ["a cat", "red"]


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "sd")


def change(path, **options):
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def test_only_a_variant_of_16_bits(copy, pipe):
    for part, name in (("unet", WEIGHTS), ("vae", WEIGHTS), ("text_encoder", "model.safetensors")):
        tensors = load_file(copy / part / name)
        stem, suffix = name.rsplit(".", 1)
        half = {key: value.astype(np.float16) for key, value in tensors.items()}
        save_file(half, copy / part / f"{stem}.fp16.{suffix}")
        (copy / part / name).unlink()
    found = dj.load_pipeline(copy)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), pipe.unet_params)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    jax.tree.map(np.testing.assert_array_equal, found.unet_params, rounded)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found.stage.params)} == {"float32"}


def test_what_an_early_release_wrote_is_set_right(copy):
    config = {"_class_name": "DDIMScheduler", "timestep_spacing": "leading"}
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**config, "steps_offset": 0, "clip_sample": True}))
    found = dj.load_pipeline(copy).scheduler
    assert found == dj.scheduler_from_config(config, steps_offset=1, clip_sample=False)
    assert found != dj.scheduler_from_config(path)


def test_a_safety_checker_is_named_once(copy):
    change(copy / "model_index.json", safety_checker=["stable_diffusion", "SafetyChecker"])
    with pytest.warns(UserWarning, match="its safety checker is not run") as found:
        dj.load_pipeline(copy)
    assert len(found) == 1


@pytest.mark.filterwarnings("error")
def test_a_long_prompt_is_cut_and_what_is_cut_off_is_named(pipe):
    """Each byte is a token here, and two of LENGTH are the start and the end."""
    words = ["abcdef", *(f"{'x' * (i % 9)}y" for i in range(999))]
    with pytest.warns(UserWarning, match="longer than 8 tokens") as found:
        cut, _ = pipe.prompts([" ".join(words), "abcdef"], None)
    (text,) = {str(warning.message) for warning in found}
    left = len(" ".join(words[1:])) - 60
    shown = " ".join(words[1:])[:60]
    assert text == (
        f"a prompt is longer than {LENGTH} tokens: cut off {shown!r} and {left:,} more characters"
    )
    whole, _ = pipe.prompts(["abcdef", "abcdef"], None)
    np.testing.assert_array_equal(cut.tokens, whole.tokens)
    with pytest.warns(UserWarning, match="cut off 'g'$"):
        pipe.prompts(["abcdefg"], None)


BROKEN = {
    "no such folder": (lambda f: shutil.rmtree(f), "has no model_index.json"),
    "another pipeline": (
        lambda f: change(f / "model_index.json", _class_name="FluxPipeline"),
        "is of a FluxPipeline, not one of StableDiffusionPipeline,",
    ),
    "a part that is null": (
        lambda f: change(f / "model_index.json", text_encoder=[None, None]),
        "names no text_encoder: download",
    ),
    "a part without a folder": (lambda f: shutil.rmtree(f / "vae"), "has no folder vae: download"),
    "a part that is unknown": (
        lambda f: change(f / "model_index.json", controlnet=["diffusers", "ControlNetModel"]),
        "has controlnet, which is not supported",
    ),
    "a part of another class": (
        lambda f: change(f / "model_index.json", vae=["diffusers", "AutoencoderTiny"]),
        "vae is a AutoencoderTiny, not a AutoencoderKL",
    ),
    "a pickle": (
        lambda f: (f / "vae" / WEIGHTS).rename(f / "vae" / "diffusion_pytorch_model.bin"),
        "is a Python pickle, which can run code",
    ),
    "weights that are missing": (lambda f: (f / "unet" / WEIGHTS).unlink(), "cannot read .*unet"),
    "weights that are cut": (
        lambda f: (f / "unet" / WEIGHTS).write_bytes((f / "unet" / WEIGHTS).read_bytes()[:-4]),
        "is damaged",
    ),
    "another scheduler": (
        lambda f: change(f / "scheduler" / "scheduler_config.json", _class_name="LCMScheduler"),
        "LCMScheduler",
    ),
    "options of another version": (
        lambda f: change(f / "unet" / "config.json", shiny_option=3), "no option 'shiny_option'",
    ),
    "another text encoder": (
        lambda f: write_encoder(f / "text_encoder", text_model(8), 0),
        "states have 8 numbers, and the U-Net takes 6",
    ),
    "channels of something else": (
        lambda f: change(f / "vae" / "config.json", latents_mean=[0.0] * 4), "latents_mean is not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_refused(name, copy):
    spoil, message = BROKEN[name]
    spoil(copy)
    with pytest.raises(dj.UserError, match=message) as caught:
        dj.load_pipeline(copy)
    assert "\n" not in str(caught.value)


def test_what_is_no_pipeline(tmp_path, folder, monkeypatch):
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(dj.UserError, match="a single file: give a folder"):
        dj.load_pipeline(tmp_path / "model.ckpt")
    with pytest.raises(dj.UserError, match="dtype='float16': choose float32 or bfloat16"):
        dj.load_pipeline(folder, dtype="float16")
    seven = write_folder(tmp_path / "seven", in_channels=7)
    with pytest.raises(dj.UserError, match="in_channels=7"):
        dj.load_pipeline(seven)


def test_too_little_memory_is_said_before_weights_are_read(folder, monkeypatch):
    def never(self):
        raise AssertionError("weights were read")

    monkeypatch.setattr(safetensors.Entry, "read", never)
    monkeypatch.setattr(placement, "host_room", lambda: 50_000.0)
    with pytest.raises(dj.UserError, match="the weights take") as caught:
        dj.load_pipeline(folder)
    found = str(caught.value)
    assert "5e-05 GB of memory are free" in found
    assert "\n" not in found
    for part in ("unet", "vae", "text_encoder"):
        assert part in found


def test_room_is_what_the_machine_and_the_container_leave(tmp_path, monkeypatch):
    meminfo, container = tmp_path / "meminfo", tmp_path / "group"
    monkeypatch.setattr(placement, "MEMINFO", meminfo)
    monkeypatch.setattr(placement, "CONTAINER", container)
    assert host_room() == float("inf")
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:   4000 kB\nHugePages_Total: 0\n")
    assert host_room() == 4000 * 1024
    container.mkdir()
    (container / "memory.max").write_text("max\n")
    (container / "memory.current").write_text("900000\n")
    (container / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    assert host_room() == 4000 * 1024
    (container / "memory.max").write_text("1000000\n")
    assert host_room() == 200_000


@pytest.mark.parametrize(
    ("rooms", "whole"), [([100, 100], True), ([60, 60], False), ([54, 80], None)]
)
def test_weights_that_fit_no_device_are_cut(rooms, whole, monkeypatch):
    """80 of the U-Net, which are cut among two, and 15 that are not."""
    monkeypatch.setattr(placement, "_rooms", lambda: rooms)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    needed = {"unet": 80, "vae": 15}
    if whole is None:
        with pytest.raises(dj.UserError, match=r"take 9.5e-08 GB \(unet 8e-08, vae 1.5e-08\)"):
            fits_whole(needed, "unet")
    else:
        assert fits_whole(needed, "unet") is whole


def test_which_axis_is_cut():
    assert tuple(cut_of((3, 3, 320, 640), 4)) == (None, None, None, "weights")
    assert tuple(cut_of((4096, 77), 4)) == ("weights",)
    assert tuple(cut_of((4097, 77), 4)) == ()
    assert tuple(cut_of((64,), 4)) == ()


REFUSED = [
    ({"prompts": "a cat"}, "prompts='a cat': give a list"),
    ({"prompts": []}, "give a list of one or more texts"),
    ({"negative_prompts": ["a", "b", "c"]}, "negative_prompts are 3: give one, or 2"),
    ({"negative_prompts": ["a"], "guidance": 1.0}, "do nothing at guidance 1"),
    ({"guidance": [1.0, 2.0, 3.0]}, "one finite scale, or 2"),
    ({"guidance": float("nan")}, "one finite scale"),
    ({"height": 12, "width": 9}, "width=9: give a multiple of 2"),
    ({"height": 0}, "height=0: give a multiple of 2"),
    ({"steps": 0}, "steps=0"),
    ({"sampler": "dimm"}, "no 'dimm' in samplers.*did you mean 'ddim'"),
    ({"sampler": "consistency"}, "consistency"),
    ({"latents": jnp.zeros((2, 4, 5, 4))}, r"shape \(2, 4, 5, 4\): give \(2, 4, 4, 4\)"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"images": np.zeros((2, 8, 8, 3), np.float32)}, "images go with strength"),
    ({"strength": 0.5}, "images go with strength"),
    ({"images": np.zeros((2, 8, 8, 3), np.float32), "strength": 1.5}, "strength=1.5"),
    ({"images": np.zeros((2, 8, 8, 3), np.float32), "strength": 0.1, "steps": 5}, "less than one"),
    ({"images": np.zeros((3, 8, 8, 3), np.float32), "strength": 0.5}, r"\(1 or 2, height"),
    ({"images": np.zeros((2, 8, 8, 1), np.float32), "strength": 0.5}, "width, 3"),
    ({"images": np.full((2, 8, 8, 3), 255, np.float32), "strength": 0.5}, r"beyond \[-1, 1\]"),
    ({"images": np.zeros((2, 8, 9, 3), np.float32), "strength": 0.5}, "width=9"),
    ({"images": np.zeros((2, 8, 8, 3), np.float32), "strength": 0.5, "height": 4}, "8x8, not"),
    (
        {"images": np.zeros((2, 8, 8, 3), np.float32), "keep": np.ones((8, 4, 1), bool)},
        r"shape \(8, 4, 1\): give booleans of shape \(8, 8, 1\)",
    ),
    (
        {
            "images": np.zeros((2, 8, 8, 3), np.float32), "keep": np.ones((8, 8, 1), bool),
            "strength": 0.5,
        },
        "both say what is done",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refused_before_anything_is_computed(options, message, pipe, monkeypatch):
    monkeypatch.setattr("diffjax.pipelines.prompts.Encoder.__call__", None)
    with pytest.raises(dj.UserError, match=message) as caught:
        pipe.sample(**{"prompts": TEXTS, **options})
    assert "\n" not in str(caught.value)


def test_a_unet_that_paints_needs_images(painter):
    with pytest.raises(dj.UserError, match="trained to paint parts of images"):
        painter.sample(TEXTS)


def test_a_unet_without_a_size_needs_one(pipe):
    sizeless = dataclasses.replace(pipe, unet=unet().clone(sample_size=None))
    with pytest.raises(dj.UserError, match="no sample_size: give height"):
        sizeless.size()
    assert sizeless.size(6, 4) == (6, 4)
