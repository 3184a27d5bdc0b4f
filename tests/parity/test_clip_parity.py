"""Our towers, transformers' and open_clip's give the same outputs from the same weights."""

import functools
import importlib.util
import json
import sys
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import diffjax as dj

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # transformers imports it where it is there, matching or not
transformers = pytest.importorskip("transformers", reason="pip install -e '.[parity]'")

TOLERANCE = 2e-5  # of the output's largest value
TEXT = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": 98,
}  # fmt: skip
VISION = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 3,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
# text options, vision options, options of both
CLIPS = {
    "small": ({}, {}, {}),
    "pooled at the highest id": ({"eos_token_id": 2}, {"num_hidden_layers": 1}, {}),
    "other activations": (
        {"hidden_act": "gelu", "layer_norm_eps": 1e-3},
        {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6},
        {"projection_dim": 7},
    ),
    "patches that leave a border": ({}, {"image_size": 35, "patch_size": 8}, {}),
    "one patch, one layer, one head": (
        {"num_hidden_layers": 1, "num_attention_heads": 1},
        {"patch_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1},
        {},
    ),
    "one channel, odd widths": (
        {"hidden_size": 33, "num_attention_heads": 11, "intermediate_size": 5},
        {"num_channels": 1, "hidden_size": 35, "num_attention_heads": 5, "hidden_act": "relu"},
        {},
    ),
    "as wide as ViT-B/32, two layers": (
        {
            "vocab_size": 1000, "hidden_size": 512, "intermediate_size": 2048,
            "num_attention_heads": 8, "max_position_embeddings": 77, "eos_token_id": 999,
        },
        {
            "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
            "image_size": 224, "patch_size": 32,
        },
        {},
    ),
    "as wide as ViT-L/14, one layer": (
        {
            "vocab_size": 1000, "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 1, "num_attention_heads": 12, "max_position_embeddings": 77,
            "eos_token_id": 999,
        },
        {
            "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
            "num_hidden_layers": 1, "image_size": 224, "patch_size": 14,
        },
        {"projection_dim": 768},
    ),
}  # fmt: skip
SIGLIPS = {
    "small": ({}, {}, {}),
    "longer embeddings than the text is wide": ({"projection_size": 48}, {}, {}),
    "exact GELU, a border": (
        {"hidden_act": "gelu", "hidden_size": 48, "num_attention_heads": 4},
        {"hidden_act": "gelu", "image_size": 35, "layer_norm_eps": 1e-5},
        {},
    ),
}


def randomise(module):
    """Every weight random: none is left at the 0 or 1 where mistakes hide."""
    rng = np.random.default_rng(0)
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        if not weight.is_floating_point() or "mask" in name:
            continue
        shape = tuple(weight.shape)
        value = rng.normal(size=shape) * (np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3)
        if "embedding" in name:
            value = rng.normal(size=shape)
        if "running_var" in name:
            value = rng.uniform(0.5, 2, shape)
        norm = any(part in name for part in ("norm", "ln_", "bn", "downsample.1"))
        value += 1 if norm and name.endswith("weight") else 0
        weight.data = torch.tensor(np.asarray(value), dtype=torch.float32)
    return module.eval()


def given(model):
    """Two images, and three texts of which one has no end and one has two."""
    rng = np.random.default_rng(1)
    images = ids = None
    if model.vision_model is not None:
        tower = model.vision_model
        shape = (2, tower.image_size, tower.image_size, tower.num_channels)
        images = rng.normal(size=shape).astype(np.float32)
    if model.text_model is not None:
        tower = model.text_model
        length = tower.max_position_embeddings - 3
        ids = rng.integers(3, tower.vocab_size - 1, (3, length)).astype(np.int32)
        ids[0, [3, 5]] = ids[1, 2] = getattr(tower, "eos_token_id", 50)
    return images, ids


def nchw(images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


def close(ours, theirs):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * np.abs(theirs).max(), rtol=0)


def states_close(ours, theirs):
    """The hidden states of every depth, the last one and the pooled one."""
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for mine, hidden in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        close(mine, hidden)
    close(ours.last_hidden_state, theirs.last_hidden_state)
    if theirs.get("pooler_output") is not None:
        close(ours.pooled, theirs.pooler_output)


METHODS = {"encode_image", "image_states", "encode_text", "text_states", "__call__"}


@functools.partial(jax.jit, static_argnums=0)
def outputs(model, params, images, ids):
    """All that a model of two towers computes, by the method that returns it."""
    captured = model.apply(
        {"params": params}, images, ids, mutable="intermediates",
        capture_intermediates=lambda module, name: module.name is None and name in METHODS,
    )[1]["intermediates"]  # fmt: skip
    return {name: value for name, (value,) in captured.items()}


def same(model, params, module):
    images, ids = given(model)
    ours = outputs(model, params, images, ids)
    with torch.no_grad():
        theirs = module(torch.tensor(ids), nchw(images))
        of_images = module.get_image_features(nchw(images)).pooler_output
        of_texts = module.get_text_features(torch.tensor(ids)).pooler_output
        image_tower = module.vision_model(nchw(images), output_hidden_states=True)
        text_tower = module.text_model(torch.tensor(ids), output_hidden_states=True)
    close(ours["encode_image"], of_images)
    close(ours["encode_text"], of_texts)
    states_close(ours["image_states"], image_tower)
    states_close(ours["text_states"], text_tower)
    close(ours["__call__"], theirs.logits_per_image)


def clip(text, vision, both):
    config = transformers.CLIPConfig(
        text_config={**TEXT, **text}, vision_config={**VISION, **vision}, **both
    )
    return randomise(transformers.CLIPModel(config))


def siglip(text, vision, both):
    base = {name: value for name, value in TEXT.items() if name != "eos_token_id"}
    config = transformers.SiglipConfig(
        text_config={**base, "projection_size": 48, **text}, vision_config={**VISION, **vision},
        **both,
    )  # fmt: skip
    return randomise(transformers.SiglipModel(config))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *(pytest.param(clip, options, id=f"clip: {name}") for name, options in CLIPS.items()),
        *(pytest.param(siglip, options, id=f"siglip: {name}") for name, options in SIGLIPS.items()),
    ],
)
def test_a_folder_of_transformers(tmp_path, make, options):
    module = make(*options)
    module.save_pretrained(tmp_path)
    model, params = dj.load_clip(tmp_path)
    same(model, params, module)


@pytest.mark.parametrize("make", [clip, siglip])
def test_what_is_saved_loads_there(tmp_path, make):
    make({}, {}, {}).save_pretrained(tmp_path / "theirs")
    model, params = dj.load_clip(tmp_path / "theirs")
    dj.save_clip(model, params, tmp_path / "ours")
    before, after = (load_file(tmp_path / d / "model.safetensors") for d in ("theirs", "ours"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    module, report = transformers.AutoModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values())
    assert type(module).__name__ == json.loads((tmp_path / "ours/config.json").read_text())[
        "architectures"
    ][0]  # fmt: skip
    same(model, params, module.eval())


TOWERS = {
    "CLIPTextModel": (TEXT, "text"),
    "CLIPTextModelWithProjection": ({**TEXT, "projection_dim": 20, "eos_token_id": 2}, "text"),
    "SiglipTextModel": ({**TEXT, "projection_size": 20}, "text"),
    "CLIPVisionModel": (VISION, "vision"),
    "CLIPVisionModelWithProjection": ({**VISION, "projection_dim": 20}, "vision"),
    "SiglipVisionModel": (VISION, "vision"),
}


def use_old_names(path, prefix):
    """Names as before release 5.6: all but the projection under the tower's."""
    tensors = {
        name if name.startswith(prefix) or "projection" in name else prefix + name: value
        for name, value in load_file(path).items()
    }
    tensors["text_model.embeddings.position_ids"] = np.arange(12)[None]
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("name", TOWERS)
def test_one_tower(tmp_path, name):
    """Under the names of two releases, read, saved, and loaded there again."""
    options, side = TOWERS[name]
    cls = getattr(transformers, name)
    module = randomise(cls(cls.config_class(**options)))
    module.save_pretrained(tmp_path / "theirs")
    model, params = dj.load_clip(tmp_path / "theirs")
    use_old_names(tmp_path / "theirs/model.safetensors", f"{side}_model.")
    chex.assert_trees_all_equal(dj.load_clip(tmp_path / "theirs")[1], params)
    dj.save_clip(model, params, tmp_path / "ours")
    again, report = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    images, ids = given(model)
    ours, theirs = (images, nchw(images)) if side == "vision" else (ids, torch.tensor(ids))
    kind = "image" if side == "vision" else "text"
    apply = jax.jit(model.apply, static_argnames="method")
    states = apply({"params": params}, ours, method=f"{kind}_states")
    embedding = apply({"params": params}, ours, method=f"encode_{kind}")
    for one in (module, again.eval()):
        with torch.no_grad():
            out = one(theirs, output_hidden_states=True)
        states_close(states, out)
        embedded = next(
            out[k] for k in ("image_embeds", "text_embeds", "pooler_output") if k in out
        )
        close(embedding, embedded)


def test_files_in_parts_and_half_precision(tmp_path):
    module = clip({}, {}, {}).half()
    module.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    same(*dj.load_clip(tmp_path), module.float())


def test_sections_given_twice(tmp_path):
    """Files of the first releases have `text_config_dict` too, whose options are the ones read."""
    module = clip({"hidden_act": "gelu"}, {"layer_norm_eps": 1e-3}, {})
    module.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name in ("text_config", "vision_config"):
        config[f"{name}_dict"] = dict(config[name])
        config[name] |= {"hidden_act": "relu", "layer_norm_eps": 0.1}
    path.write_text(json.dumps(config))
    again = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    assert again.config.text_config.hidden_act == "gelu"
    same(*dj.load_clip(tmp_path), again)


def test_numbers_of_parameters():
    """Of the published sizes, on torch's device without memory."""
    large = {
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "patch_size": 14,
        },
        "projection_dim": 768,
    }  # fmt: skip
    for options, count in (({}, 151_277_313), (large, 427_616_513)):
        with torch.device("meta"):
            module = transformers.CLIPModel(transformers.CLIPConfig(**options))
        assert sum(p.numel() for p in module.parameters()) == count


@pytest.fixture(scope="module")
def open_clip():
    """open_clip.model, without the rest of the package, which needs torchvision."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        pytest.skip("open_clip is not installed: pip install --no-deps open_clip_torch")
    package = types.ModuleType("open_clip")
    package.__path__ = list(spec.submodule_search_locations)
    names = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    towers = ("open_clip.hf_model", "open_clip.timm_model")
    fakes = {name: types.ModuleType(name) for name in (*names, *towers)}
    fakes["torchvision.ops.misc"].FrozenBatchNorm2d = torch.nn.Module
    for name, tower in zip(towers, ("HFTextEncoder", "TimmModel"), strict=True):
        setattr(fakes[name], tower, torch.nn.Module)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in {"open_clip": package, **fakes}.items():
            patch.setitem(sys.modules, name, module)
        yield importlib.import_module("open_clip.model")
    for name in [name for name in sys.modules if name.startswith("open_clip.")]:
        del sys.modules[name]


OPEN_CLIPS = {
    "vit, quick_gelu": {"quick_gelu": True},
    "heads and MLPs of other widths": {
        "vision_cfg": {
            "layers": 2, "width": 48, "head_width": 16, "mlp_ratio": 3.37, "patch_size": 16,
            "image_size": 40, "norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"},
        },
    },
    "a bias, eos": {
        "init_logit_bias": -10.0, "nonscalar_logit_scale": True,
        "text_cfg": {
            "context_length": 9, "vocab_size": 99, "width": 32, "heads": 4, "layers": 2,
            "pool_type": "eos", "eos_id": 50,
        },
    },
    "resnet": {
        "vision_cfg": {"layers": [1, 2, 1, 1], "width": 16, "image_size": 96, "patch_size": None},
        "quick_gelu": True,
    },
    "resnet, heads of 16": {
        "vision_cfg": {"layers": [2, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 16},
    },
}  # fmt: skip
OPEN_BASE = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 9, "vocab_size": 99, "width": 64, "heads": 1, "layers": 2},
}


def open_same(model, params, module):
    images, ids = given(model)
    if model.text_model.max_position_embeddings > ids.shape[1]:  # open_clip takes no shorter texts
        ids = np.pad(ids, ((0, 0), (0, 3)), constant_values=1)
    with torch.no_grad():
        logits, _ = module.get_logits(nchw(images), torch.tensor(ids))
        of_images = module.encode_image(nchw(images))
        of_texts = module.encode_text(torch.tensor(ids))
    ours = outputs(model, params, images, ids)
    close(ours["encode_image"], of_images)
    close(ours["encode_text"], of_texts)
    close(ours["__call__"], logits)


@pytest.mark.parametrize("name", OPEN_CLIPS)
def test_open_clip(tmp_path, open_clip, name):
    """In the form of each of the two classes, whose tensors' names differ."""
    config = {**OPEN_BASE, **OPEN_CLIPS[name]}
    cls = open_clip.CustomTextCLIP if "bias" in name else open_clip.CLIP
    module = randomise(cls(**config))
    tensors = {name: t.numpy().copy() for name, t in module.state_dict().items()}
    tensors = {n: t for n, t in tensors.items() if "num_batches" not in n}
    save_file(tensors, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model, params = dj.load_clip(tmp_path)
    open_same(model, params, module)
    if isinstance(config["vision_cfg"]["layers"], int) and not model.bias:
        dj.save_clip(model, params, tmp_path / "saved")
        same(model, params, transformers.AutoModel.from_pretrained(tmp_path / "saved").eval())


@pytest.mark.parametrize("name", ["vit, quick_gelu", "resnet"])
def test_torch_script(tmp_path, open_clip, name):
    """An archive as OpenAI's: traced, in half precision, whose file has no options."""
    config = {**OPEN_BASE, **OPEN_CLIPS[name]}
    module = randomise(open_clip.CLIP(**config))
    module.half().float()  # numbers that half precision has
    size = config["vision_cfg"]["image_size"]
    inputs = {
        "encode_image": torch.zeros(1, 3, size, size),
        "encode_text": torch.zeros(1, 9, dtype=torch.int32),
    }
    traced = torch.jit.trace_module(module, inputs)
    traced.half()
    traced.save(str(tmp_path / "CLIP.pt"))
    module.float()  # whose tensors the traced one shares
    model, params = dj.load_clip(tmp_path / "CLIP.pt")
    open_same(model, params, module)


def test_gradients_pass_through_the_towers(tmp_path):
    """Of the logits' sum to a bias of each tower, as torch has them."""
    module = clip({}, {}, {})
    module.save_pretrained(tmp_path)
    model, params = dj.load_clip(tmp_path)
    images, ids = given(model)
    images, ids = jnp.asarray(images), jnp.asarray(ids)
    ours = jax.jit(jax.grad(lambda p: model.apply({"params": p}, images, ids).sum()))(params)
    module(torch.tensor(np.array(ids)), nchw(np.array(images))).logits_per_image.sum().backward()
    for side in ("vision", "text"):
        layer = getattr(module, f"{side}_model").encoder.layers[0].mlp.fc1
        mine = ours[f"{side}_model"]["encoder"]["layers_0"]["mlp"]["fc1"]
        close(mine["kernel"].T, layer.weight.grad)
        close(jnp.asarray(mine["bias"]), layer.bias.grad)
