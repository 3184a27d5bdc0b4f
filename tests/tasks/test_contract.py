"""Every kind of run keeps the contract: a config in JSON, networks, a loss, a preview."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from towers import tiny_towers
from upscalers import doubling

import diffjax.tasks
from diffjax import runs, spec
from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.conditions.vector import Vector
from diffjax.data.base import ArrayRecords
from diffjax.errors import UserError
from diffjax.interop import save_unet2d
from diffjax.models.classifier import Classifier
from diffjax.models.clip_text import CLIPText
from diffjax.models.clip_vision import CLIPVision
from diffjax.models.course_unet import CourseUNet
from diffjax.models.gan.dcgan import DCGAN
from diffjax.models.unet import UNet
from diffjax.models.vae import VAE
from diffjax.models.vq import VQModel
from diffjax.runs import RunConfig, Training
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.monotone import Monotone
from diffjax.tasks import (
    classifier,
    denoisers,
    examined,
    gan,
    masked_codes,
    matching,
    upscaling,
)
from diffjax.tasks.autoencoder import Autoencoding
from diffjax.tasks.base import Asked, Component, Source, params_of, shapes
from diffjax.tasks.classifier import Classification
from diffjax.tasks.contrastive import Contrastive
from diffjax.tasks.diffusion import Diffusion
from diffjax.tasks.distillation import Distillation
from diffjax.tasks.gan import GAN
from diffjax.tasks.masked_codes import MaskedCodes
from diffjax.tasks.restoration import Restoration
from diffjax.tasks.segmentation import Segmentation
from diffjax.tasks.text_to_image import TextToImage
from diffjax.training.run import RunFolder
from diffjax.training.step import init_state, make_train_step

FORM = (8, 8, 1)
NET = UNet(
    in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
    mid_block_type=None, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    num_class_embeds=4,
)  # fmt: skip
LEARNED = NET.clone(time_embedding_type="learned", num_train_timesteps=9)
PLAIN = CourseUNet(channels=(4, 4, 4), groups=(4, 4), time_embedding="none")
DENOISER = {
    "model": NET, "image_shape": FORM, "schedule": Cosine(), "target": "v",
    "condition": Label(3, drop=0.1),
}  # fmt: skip
TEACHER = Source("somewhere", "denoiser", "0" * 64)
TOWER = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2
}  # fmt: skip
TASKS = {
    "diffusion": Diffusion(**DENOISER, huber=0.1),
    "distillation": Distillation(**DENOISER, teacher=TEACHER, student_steps=4),
    "classifier": Classification(
        model=Classifier(num_classes=3, stem=8, channels=(8,), num_features=4), image_shape=FORM
    ),
    "restoration": Restoration(model=PLAIN, image_shape=FORM),
    "segmentation": Segmentation(
        model=PLAIN.clone(out_channels=2), image_shape=FORM, class_names=("background", "thing")
    ),
    "gan": GAN(model=DCGAN(sample_size=8, channels=(8,), latent=4), image_shape=FORM),
    "contrastive": Contrastive(
        vision=CLIPVision(**TOWER, image_size=8, patch_size=4, num_channels=1),
        text=CLIPText(**TOWER, max_position_embeddings=5),
        image_shape=FORM, dim=4, contrast="sigmoid", shift=0.1, words=0.1,
    ),
    "autoencoder": Autoencoding(
        model=VAE(sample_size=8, channels=(8,)), image_shape=FORM, likelihood="levels"
    ),
    "text_to_image": TextToImage(**{
        **DENOISER, "model": NET.clone(num_class_embeds=None, cond_dim=4), "noise": 0.1,
        "condition": Vector(4, drop=0.1), "clip": dataclasses.replace(TEACHER, component="clip"),
        "image_mean": (0.1,) * 4, "text_mean": (0.2,) * 4, "spread": (0.3,) * 4,
    }),
    "upscaling": doubling(4),
    "masked_codes": MaskedCodes(
        model=NET.clone(in_channels=6, out_channels=5), image_shape=FORM, num_codes=5,
        code_shape=(4, 4), condition=Label(3, drop=0.1),
        autoencoder=dataclasses.replace(TEACHER, component="autoencoder"),
    ),
}  # fmt: skip
CODES = VQModel(
    in_channels=1, out_channels=1, block_out_channels=(8, 8), latent_channels=2,
    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    num_vq_embeddings=5, norm_num_groups=4, mid_block_add_attention=False,
)  # fmt: skip
RNG = np.random.RandomState(0)
BATCH = {
    "image": jnp.asarray(RNG.uniform(-1, 1, (4, *FORM)), jnp.float32),
    "label": jnp.asarray([0, 1, 2, 0]),
    "mask": jnp.asarray(RNG.randint(0, 2, (4, 8, 8))),
    "ids": jnp.asarray([[3, 5, 49407, 49407, 49407]] * 4),
    "caption": jnp.arange(4),
    "vector": jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32),
    "moments": jnp.asarray(RNG.normal(size=(4, 4, 4, 4)), jnp.float32),
}


class Masked(ArrayRecords):
    """Labelled images with a mask."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        mask = (record["image"][..., 0] > 0).astype(np.int32)
        return {**record, "mask": mask, "text": f"picture {index % 7}"}


RECORDS = Masked(RNG.randint(0, 256, (20, *FORM), np.uint8), np.arange(20) % 3, FORM, 3)
SHOWN = {
    "diffusion": denoisers.Pictures(steps=2, num=3),
    "distillation": denoisers.Pictures(steps=2, num=3),
    "classifier": classifier.Exam(RECORDS),
    "restoration": examined.Exam(RECORDS),
    "segmentation": examined.Exam(RECORDS),
    "gan": gan.Pictures(num=3),
    "contrastive": matching.Exam(RECORDS, RECORDS),
    "autoencoder": examined.Exam(RECORDS),
    "masked_codes": masked_codes.Pictures(steps=2, num=3),
    "upscaling": upscaling.Shown(steps=2, num=3, records=RECORDS),
    "text_to_image": denoisers.Pictures(steps=2, num=3, labels=["a cat", "a dog"], guidance=2.0),
}


def fresh(task, seed=0, frozen=None):
    return jax.jit(task.init)(jax.random.key(seed), frozen or {})


def frozen_of(task):
    """Components from elsewhere, with fresh weights."""

    def component(name, source):
        match name:
            case "clip":
                return tiny_towers()
            case "autoencoder":
                params = jax.jit(CODES.init)(jax.random.key(7), jnp.zeros((1, *FORM)))
                return Component(CODES, params["params"], source)
        return Component(NET, fresh(Diffusion(**DENOISER), 7)["denoiser"], source)

    return {name: component(name, source) for name, source in task.sources.items()}


def test_each_task_is_tried_here():
    assert set(TASKS) == set(SHOWN) == set(spec.names(diffjax.tasks))


@pytest.mark.parametrize("name", TASKS)
def test_config_in_json_and_back(name):
    config = RunConfig(TASKS[name], Training(seed=3))
    text = json.dumps(config.to_dict())
    assert RunConfig.from_dict(json.loads(text)) == config
    assert config.name().startswith(f"{name}_embedded_")


@pytest.mark.parametrize("name", TASKS)
def test_a_train_step(name):
    """Two steps move every trained component, and leave nothing that is not finite."""
    task = TASKS[name]
    frozen = frozen_of(task)
    params, tx = params_of(frozen), optax.adam(1e-2)
    state = init_state(jax.jit(task.init)(jax.random.key(0), params), tx)
    assert jax.tree.map(jnp.shape, shapes(task, params)) == jax.tree.map(
        jnp.shape, state.eval_params
    )
    assert state.params.keys() == task.networks().keys()
    batch = {key: BATCH[key] for key in task.batch_keys}
    step = jax.jit(make_train_step(task.loss(frozen), tx, 0.9))
    after = state
    for _ in range(2):
        after, metrics = step(after, jax.random.key(1), batch, params)
    assert float(metrics["skipped"]) == 0
    for component in task.networks():
        before, moved = state.params[component], after.params[component]
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(moved), strict=True)
        assert any((a != b).any() for a, b in pairs), component


@pytest.mark.parametrize("name", TASKS)
def test_a_preview_is_written(name, tmp_path):
    task = TASKS[name]
    (tmp_path / "samples").mkdir()
    folder, frozen = RunFolder(tmp_path), frozen_of(task)
    preview = task.preview(folder, frozen, SHOWN[name])
    preview(5, fresh(task, 0, params_of(frozen)))
    found = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert found & {"step_00000005.png", "accuracy.json"}
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Diffusion(**{**DENOISER, "model": TASKS["classifier"].model}), "no noise"),
        (lambda: Diffusion(**{**DENOISER, "target": "velocity"}), "velocity needs schedule flow"),
        (
            lambda: Diffusion(**{**DENOISER, "model": LEARNED}),
            "has 9 rows and the schedule 1000 steps",
        ),
        (lambda: Diffusion(**DENOISER, autoencoder=TEACHER), "needs none"),
        (lambda: Diffusion(**DENOISER, objective="vlb", huber=0.1).loss({}), "vlb knows no huber"),
        (
            lambda: TASKS["restoration"].sample({}, jax.random.key(0), Asked(num=1)),
            "draws no images",
        ),
        (lambda: Classification(model=NET, image_shape=FORM), "is no classifier"),
        (
            lambda: dataclasses.replace(TASKS["distillation"], intervals=3),
            "progressive knows no intervals",
        ),
        (
            lambda: Distillation(
                **DENOISER, teacher=TEACHER, method="consistency_training", solver=DDIM(eta=0.5)
            ),
            "consistency_training knows no solver",
        ),
        (lambda: Diffusion.from_dict({"mode": "x"}), "has no mode"),
        (lambda: Diffusion.from_dict({"target": "v"}), "cannot be made of these fields"),
        (lambda: RunConfig.from_dict({"experiment": "ddpm"}), "another version of diffjax"),
        (lambda: RunConfig.from_dict({"task": "gam", "config": {}, "training": {}}), "'gan'"),
    ],
)
def test_refused(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_defaults_are_left_out_of_the_config():
    """So a new option changes neither the name nor the identity of runs made before it."""
    assert TASKS["diffusion"].to_dict().keys() == {*DENOISER, "huber"}
    assert Diffusion(**{**DENOISER, "schedule": Monotone()}).to_dict()["schedule"] == "monotone()"


def test_a_run_s_name_does_not_depend_on_where_its_teacher_lies():
    def name(source):
        return RunConfig(Distillation(**DENOISER, teacher=source), Training()).name()

    moved, trained_on = (
        dataclasses.replace(TEACHER, **c) for c in ({"path": "b"}, {"digest": "1"})
    )
    assert name(moved) == name(TEACHER) != name(trained_on)


def test_a_distilled_student_follows_the_teacher_it_is_given():
    """The teacher is data: other weights change the loss, and nothing is compiled again."""
    task, traced = TASKS["distillation"], []
    frozen = frozen_of(task)
    loss = task.loss(frozen)

    @jax.jit
    def value(params, given, keys, batch):
        traced.append(1)
        return loss.function(params, given, keys, batch, lambda x: x)[0]

    keys = jax.random.split(jax.random.key(0), 4)
    student = fresh(Diffusion(**DENOISER), 3)
    given = params_of(frozen)
    other = jax.tree.map(lambda leaf: leaf + 0.1, given)
    batch = {key: BATCH[key] for key in task.batch_keys}
    values = [float(value(student, teacher, keys, batch)) for teacher in (given, other)]
    assert values[0] != values[1]
    assert len(traced) == 1


def test_sources_are_named_by_their_weights(tmp_path):
    """A component is found again by its digest, and refused once its weights are others."""
    model = NET.clone(num_class_embeds=None)
    task = Diffusion(**{**DENOISER, "model": model, "condition": Unconditional()})
    params = fresh(task)["denoiser"]
    save_unet2d(model, params, tmp_path)
    source = runs.source_of(tmp_path, "denoiser")
    found = runs.load_source(source)
    assert (found.source, found.trained) == (source, False)
    with pytest.raises(UserError, match="holds a denoiser alone, and no autoencoder"):
        runs.source_of(tmp_path, "autoencoder")
    save_unet2d(model, jax.tree.map(lambda leaf: leaf + 1, params), tmp_path)
    with pytest.raises(UserError, match="has other weights"):
        runs.load_source(source)


def test_codes_are_drawn_whatever_the_batch():
    task = TASKS["masked_codes"]
    components = {**frozen_of(task), **runs.trained_components(task, fresh(task))}
    drawn = task.sample(components, jax.random.key(1), Asked(num=5, steps=3))
    assert drawn.images.shape == (5, *FORM)
    assert drawn.film.shape == (3, 5, *FORM)
    np.testing.assert_allclose(drawn.film[-1], drawn.images, atol=1e-6)
    cut = task.sample(components, jax.random.key(1), Asked(num=5, steps=3, batch_size=2))
    np.testing.assert_allclose(cut.images, drawn.images, atol=1e-6)
    with pytest.raises(UserError, match="without sampler"):
        task.sample(components, jax.random.key(1), Asked(num=5, sampler=DDIM()))
    with pytest.raises(UserError, match="in_channels=6 and out_channels=5, not 1 and 1"):
        dataclasses.replace(task, model=NET)
    with pytest.raises(UserError, match="codes have no spans"):
        dataclasses.replace(task, model=task.model.clone(spans=True))


def test_a_gan_draws_in_one_step():
    task = TASKS["gan"]
    components = runs.trained_components(task, fresh(task))
    images = task.sample(components, jax.random.key(1), Asked(num=5)).images
    assert images.shape == (5, *FORM)
    cut = task.sample(components, jax.random.key(1), Asked(num=5, batch_size=2)).images
    np.testing.assert_allclose(cut, images, atol=1e-6)
    with pytest.raises(UserError, match="knows no sampler"):
        task.sample(components, jax.random.key(1), Asked(num=5, sampler=DDIM()))
    with pytest.raises(UserError, match="knows no labels"):
        task.sample(components, jax.random.key(1), Asked(labels=np.arange(3)))
