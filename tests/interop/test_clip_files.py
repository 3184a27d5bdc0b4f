"""Folders and files of CLIP: what is written is read again, and what does not fit is named."""

import json
import struct
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import diffjax as dj
from diffjax.errors import UserError
from diffjax.interop.clip import CONFIG, WEIGHTS
from diffjax.models.clip import CLIP
from diffjax.models.clip_resnet import CLIPResNet
from diffjax.models.clip_text import CLIPText
from diffjax.models.clip_vision import CLIPVision
from diffjax.models.siglip_text import SigLIPText
from diffjax.models.siglip_vision import SigLIPVision

SIZES = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
WORDS = {"vocab_size": 20, "max_position_embeddings": 7}
PIXELS = {"image_size": 8, "patch_size": 4}
TEXT, VISION = CLIPText(**SIZES, **WORDS, eos_token_id=2), CLIPVision(**SIZES, **PIXELS)
SIGLIP_TEXT = SigLIPText(**SIZES, **WORDS, projection_size=8)
SIGLIP_VISION = SigLIPVision(**SIZES, **PIXELS)
MODELS = {
    "CLIPModel": CLIP(VISION, TEXT, 6),
    "CLIPTextModel": CLIP(None, TEXT, None),
    "CLIPTextModelWithProjection": CLIP(None, TEXT, 6),
    "CLIPVisionModel": CLIP(VISION, None, None),
    "CLIPVisionModelWithProjection": CLIP(VISION, None, 6),
    "SiglipModel": CLIP(SIGLIP_VISION, SIGLIP_TEXT, None, bias=True),
    "SiglipTextModel": CLIP(None, SIGLIP_TEXT, None),
    "SiglipVisionModel": CLIP(SIGLIP_VISION, None, None),
}
IMAGES, IDS = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 7), jnp.int32)


def random_params(model):
    given, method = (IMAGES, IDS), "__call__"
    if model.text_model is None:
        given, method = (IMAGES,), "encode_image"
    if model.vision_model is None:
        given, method = (IDS,), "encode_text"
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *given, method=method))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)


@pytest.fixture
def folder(tmp_path):
    model = MODELS["CLIPModel"]
    dj.save_clip(model, random_params(model), tmp_path / "model")
    return tmp_path / "model"


def change_config(folder, **options):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def change_section(folder, name, **options):
    section = json.loads((folder / CONFIG).read_text())[name]
    change_config(folder, **{name: {**section, **options}})


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        dj.load_clip(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(tmp_path, name):
    model = MODELS[name]
    params = random_params(model)
    dj.save_clip(model, params, tmp_path / "model")
    config = json.loads((tmp_path / "model" / CONFIG).read_text())
    assert config["architectures"] == [name]
    loaded, found = dj.load_clip(tmp_path / "model")
    assert loaded == model
    chex.assert_trees_all_equal(found, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, params)


def test_a_number_stays_one(folder):
    """transformers takes no vector for CLIP's scale."""
    assert load_file(folder / WEIGHTS)["logit_scale"].shape == ()


def test_the_weights_alone_beside_their_configuration(folder):
    _, params = dj.load_clip(folder / WEIGHTS)
    chex.assert_trees_all_equal(params, random_params(MODELS["CLIPModel"]))
    assert dj.load_clip(folder, dtype="bfloat16")[0].text_model.dtype == "bfloat16"


def test_defaults_are_transformers(folder):
    """A configuration without sections is ViT-B/32's, whose weights these are not."""
    change_config(folder, text_config=None, vision_config=None)
    message = refused(folder, "which does not fit|lacks .*layers.10")
    assert str(folder) in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architectures": ["BertModel"]}, "is of a BertModel, not one of CLIPModel"),
        ({"architectures": None, "model_type": "vit"}, "is of a vit, not one of"),
        ({"projection_dim": "six"}, "projection_dim='six' is not a whole number"),
        ({"projection_dim": 0}, "projection_dim must be above 0"),
        ({"text_config": 3}, "text_config is 3, not an object"),
    ],
)
def test_configuration_that_does_not_fit(folder, options, message):
    change_config(folder, **options)
    assert str(folder / CONFIG) in refused(folder, message)


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("text_config", {"hidden_act": "tanh"}, "clip_text has no hidden_act 'tanh'"),
        ("text_config", {"num_attention_heads": 3}, "does not divide"),
        ("text_config", {"eos_token_id": [1, 2]}, "eos_token_id is a int"),
        ("text_config", {"layer_norm_eps": float("nan")}, "layer_norm_eps=nan"),
        ("vision_config", {"image_size": [8, 4]}, "image_size is a int"),
        ("vision_config", {"vision_use_head": False}, "vision_use_head=false"),
    ],
)
def test_options_that_do_not_fit(folder, section, options, message):
    change_section(folder, section, **options)
    assert str(folder / CONFIG) in refused(folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("logit_scale"), "lacks logit_scale"),
        (lambda t: t.update(extra=np.ones(2, np.float32)), "unknown extra"),
        (
            lambda t: t.update({"text_projection.weight": np.ones((6, 9), np.float32)}),
            r"text_projection.weight has shape \(6, 9\)",
        ),
        (lambda t: t.update(logit_scale=np.ones(2, np.float32)), r"logit_scale has shape \(2,\)"),
    ],
)
def test_weights_that_do_not_fit(folder, change, message):
    change_weights(folder, change)
    refused(folder, message)


def test_files_that_are_not_there(tmp_path, folder):
    refused(tmp_path / "none", "there is no")
    refused(tmp_path / "none.pt", "there is no")
    refused(tmp_path, r"cannot read .*config\.json")
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / CONFIG).write_text("{}")
    refused(tmp_path, "a whole pipeline: load")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    refused(folder, r"pytorch_model\.bin is a Python pickle, which can run code")
    refused(folder / "pytorch_model.bin", "pickles, which can run code")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (CLIP(CLIPResNet((1, 1, 1, 1), 4, 2, 6, 32), TEXT, 6), "no class for CLIPResNet and"),
        (CLIP(VISION, TEXT, 6, bias=True), r"bias=True.*SigLIP alone"),
        (CLIP(SIGLIP_VISION, SIGLIP_TEXT, None), r"bias=False.*SigLIP alone"),
        (CLIP(VISION, TEXT, None), "no class for .* projection_dim=None"),
    ],
)
def test_what_transformers_has_not(tmp_path, model, message):
    with pytest.raises(UserError, match=message):
        dj.save_clip(model, {}, tmp_path)


def test_parameters_of_another_model(tmp_path):
    params = random_params(MODELS["CLIPTextModel"])
    with pytest.raises(UserError, match="params lacks"):
        dj.save_clip(MODELS["CLIPModel"], params, tmp_path)
    with pytest.raises(UserError, match="unknown text_model"):
        dj.save_clip(CLIP(None, TEXT.clone(num_hidden_layers=1), None), params, tmp_path)


# OpenAI's layout: names, fused attention, projections used as x @ W.

OPENAI = CLIP(
    CLIPVision(64, 256, 1, 1, image_size=8, patch_size=4),
    CLIPText(64, 256, 1, 1, vocab_size=20, max_position_embeddings=7, eos_token_id=2),
    6,
)
OPTIONS = {
    "embed_dim": 6,
    "vision_cfg": {"layers": 1, "width": 64, "patch_size": 4, "image_size": 8},
    "text_cfg": {"context_length": 7, "vocab_size": 20, "width": 64, "heads": 1, "layers": 1},
    "quick_gelu": True,
}


def layer(rng, prefix):
    shapes = {
        "ln_1.weight": (64,), "ln_1.bias": (64,), "attn.in_proj_weight": (192, 64),
        "attn.in_proj_bias": (192,), "attn.out_proj.weight": (64, 64), "attn.out_proj.bias": (64,),
        "ln_2.weight": (64,), "ln_2.bias": (64,), "mlp.c_fc.weight": (256, 64),
        "mlp.c_fc.bias": (256,), "mlp.c_proj.weight": (64, 256), "mlp.c_proj.bias": (64,),
    }  # fmt: skip
    return {f"{prefix}transformer.resblocks.0.{n}": rng.normal(size=s) for n, s in shapes.items()}


def openai_tensors():
    rng = np.random.default_rng(0)
    shapes = {
        "positional_embedding": (7, 64), "text_projection": (64, 6), "logit_scale": (),
        "token_embedding.weight": (20, 64), "ln_final.weight": (64,), "ln_final.bias": (64,),
        "visual.class_embedding": (64,), "visual.positional_embedding": (5, 64),
        "visual.proj": (64, 6), "visual.conv1.weight": (64, 3, 4, 4), "visual.ln_pre.weight": (64,),
        "visual.ln_pre.bias": (64,), "visual.ln_post.weight": (64,), "visual.ln_post.bias": (64,),
    }  # fmt: skip
    tensors = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    tensors |= {**layer(rng, ""), **layer(rng, "visual.")}
    return {name: np.asarray(value, np.float32) for name, value in tensors.items()}


def check_openai(params, tensors):
    projection = params["visual_projection"]["kernel"]
    np.testing.assert_array_equal(projection, tensors["visual.proj"])
    found = params["text_model"]["encoder"]["layers_0"]
    fused = tensors["transformer.resblocks.0.attn.in_proj_weight"]
    for i, part in enumerate("qkv"):
        kernel = found["self_attn"][f"{part}_proj"]["kernel"]
        np.testing.assert_array_equal(kernel, fused[64 * i : 64 * (i + 1)].T)
    np.testing.assert_array_equal(
        found["mlp"]["fc2"]["kernel"], tensors["transformer.resblocks.0.mlp.c_proj.weight"].T
    )
    embeddings = params["vision_model"]["embeddings"]
    np.testing.assert_array_equal(
        embeddings["patch_embedding"]["kernel"],
        tensors["visual.conv1.weight"].transpose(2, 3, 1, 0),
    )


def write_open_clip(folder, tensors, **options):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "open_clip_model.safetensors")
    config = {"model_cfg": {**OPTIONS, **options}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_open_clip(tmp_path):
    tensors = openai_tensors()
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    model, params = dj.load_clip(write_open_clip(tmp_path, tensors))
    assert model == OPENAI
    check_openai(params, tensors)
    own = {
        name if name.startswith(("visual", "logit")) else f"text.{name}": value
        for name, value in tensors.items()
    }
    write_open_clip(tmp_path / "custom", own)
    chex.assert_trees_all_equal(dj.load_clip(tmp_path / "custom")[1], params)
    dj.save_clip(model, params, tmp_path)  # both forms in a folder: of one model
    chex.assert_trees_all_equal(dj.load_clip(tmp_path)[1], params)
    one = dj.load_clip(tmp_path / "open_clip_model.safetensors")[1]
    chex.assert_trees_all_equal(one, params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision_cfg": {"timm_model_name": "vit"}}, "timm_model_name='vit', which is not"),
        ({"text_cfg": {"hf_model_name": "t5"}}, "hf_model_name='t5', which is not"),
        ({"text_cfg": {"pool_type": "last"}}, "pool_type='last'"),
        ({"vision_cfg": {"pool_type": "avg"}}, "pool_type='avg'"),
        ({"vision_cfg": None}, "has no vision_cfg"),
        ({"vision_cfg": {"width": "wide"}}, "'wide', not a number"),
        ({"text_cfg": {"norm_kwargs": {"affine": False}}}, "has more than eps"),
        ({"text_cfg": {"act_kwargs": {"approximate": "tanh"}}}, "act_kwargs"),
        ({"embed_dim": None}, "embed_dim=None is not a whole number"),
    ],
)
def test_open_clip_that_does_not_fit(tmp_path, options, message):
    write_open_clip(tmp_path, openai_tensors(), **options)
    assert "open_clip_config.json" in refused(tmp_path, message)
    (tmp_path / "open_clip_config.json").write_text("{}")
    refused(tmp_path, "has no model_cfg")


# TorchScript archives, written here opcode by opcode.


def word(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def numbers(*values):
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def opcodes(key, value, kind):
    """Those that rebuild a tensor whose numbers are in the file data/`key`."""
    storage = b"(" + word("storage") + f"ctorch\n{kind}Storage\n".encode() + word(key)
    storage += word("cpu") + b"J" + struct.pack("<i", value.size) + b"tQ"
    strides = [step // value.itemsize for step in value.strides]
    rest = numbers(*value.shape) + numbers(*strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"J\0\0\0\0" + rest + b"tR"


def module(parts):
    made = b"c__torch__\nCLIP\n)\x81}("
    for name, content in parts.items():
        made += word(name) + (module(content) if isinstance(content, dict) else content)
    return made + b"ub"


def nested(flat):
    tree = {}
    for name, value in flat.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def write_archive(path, pickled, tensors=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("CLIP/data.pkl", b"\x80\x02" + pickled + b".")
        for i, value in enumerate(tensors):
            archive.writestr(f"CLIP/data/{i}", value.tobytes())
    return path


@pytest.mark.parametrize(("kind", "dtype"), [("Float", "f4"), ("Half", "f2"), ("Double", "f8")])
def test_torch_script(tmp_path, kind, dtype):
    tensors = {name: value.astype(dtype) for name, value in openai_tensors().items()}
    flat = {n: opcodes(str(i), v, kind) for i, (n, v) in enumerate(tensors.items())}
    flat |= {"training": b"\x89", "names": b"](X\1\0\0\0ae", "nothing": b"N"}
    flat["input_resolution"] = opcodes("0", np.zeros((), "i8"), "Long")
    path = write_archive(tmp_path / "CLIP.pt", module(nested(flat)), tensors.values())
    model, params = dj.load_clip(path)
    assert model == OPENAI
    check_openai(params, {name: value.astype("f4") for name, value in tensors.items()})


def call(name, argument):
    head, _, tail = name.rpartition(".")
    return f"c{head}\n{tail}\n".encode() + b"(" + word(argument) + b"tR"


ONE = np.zeros(1, "f4")
EVIL = {
    "a function": (call("os.system", "touch {}"), "names os.system, which could run code"),
    "within a module": (module({"a": call("builtins.exec", "{}")}), "names builtins.exec"),
    "a part of torch": (call("torch.load", "{}"), "names torch.load"),
    "a class made": (b"cbuiltins\nobject\n)\x81", "names builtins.object"),
    "a class by its words": (word("os") + word("system") + b"\x93", "opcode STACK_GLOBAL"),
    "an old instance": (b"(ios\nsystem\n", "opcode INST"),
    "a module called": (b"c__torch__\nA\n)R", "which is no function"),
    "a function made": (b"ccollections\nOrderedDict\n)\x81", "which is no module"),
    "a dictionary": (b"}(" + word("a") + opcodes("0", ONE, "Float") + b"u", "another pickle"),
    "another CLIP's": (module({"a": opcodes("0", ONE, "Float")}), "no weights of OpenAI's CLIP"),
    "integers": (module({"a": opcodes("0", ONE, "Long")}), "a is a LongStorage"),
    "too little": (module({"a": opcodes("0", np.zeros(9, "f4"), "Float")}), "asks for more than"),
    "no storage": (module({"a": opcodes("../x", ONE, "Float")}), "CLIP/data/../x"),
    "a module in itself": (b"c__torch__\nA\n)\x81q\0}" + word("a") + b"h\0sb", "nested deeper"),
    "no end": (b"", "."),
    "an empty stack": (b"0", "."),
}


@pytest.mark.parametrize("case", EVIL)
def test_nothing_in_an_archive_is_run(tmp_path, case):
    pickled, message = EVIL[case]
    pickled = pickled.replace(b"{}", b"/tm")  # as long as it was
    path = write_archive(tmp_path / "CLIP.pt", pickled, [ONE])
    before = sorted(tmp_path.iterdir())
    assert str(path) in refused(path, message)
    assert sorted(tmp_path.iterdir()) == before


def test_a_pickle_that_would_write_a_file_writes_none(tmp_path):
    """The same pickle run by Python's reader does."""
    import pickle

    target = tmp_path / "written"
    pickled = call("os.mkdir", str(target))
    refused(write_archive(tmp_path / "CLIP.pt", pickled), "names os.mkdir, which could run code")
    assert not target.exists()
    pickle.loads(b"\x80\x02" + pickled + b".")
    assert target.exists()


def test_files_that_are_no_archives(tmp_path):
    path = tmp_path / "CLIP.pt"
    path.write_bytes(b"\x80\x02no zip")
    refused(path, "no TorchScript archive .* Python pickles, which can run code")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b/data.pkl", b"")
    refused(path, "it has no data.pkl")
    write_archive(path, module({}), compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed or larger")
    write_archive(path, bytes(10))
    refused(path, "cannot read")
