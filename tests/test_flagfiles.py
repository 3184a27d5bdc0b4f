"""Every flagfile parses, and what it describes can be built."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from programs import python

import diffjax.data
import diffjax.models
import diffjax.samplers
import diffjax.schedules
from diffjax import spec
from diffjax.process import Process
from experiments import ddpm

FILES = sorted((pathlib.Path(ddpm.__file__).parent / "flagfiles").glob("*.flags"))


def of_program(*names):
    return [path for path in FILES if path.stem.startswith(names)]


# Of experiments.text_to_image, whose network's condition has the size of a CLIP's embedding.
TOLD = of_program("text_to_image", "course_05")
OF_DDPM = of_program("ddpm", "course", "assessment", "jit", "latent")
DDPM = [path for path in OF_DDPM if path not in TOLD]


@pytest.fixture(params=DDPM, ids=lambda p: p.stem)
def values(request):
    """The program's flags with one flagfile's values; put back afterwards."""
    saved = flags.FLAGS.unparse_flags, {n: flags.FLAGS[n].value for n in flags.FLAGS}
    flags.FLAGS(["ddpm", f"--flagfile={request.param}"])
    yield flags.FLAGS.flag_values_dict()
    for name, value in saved[1].items():
        flags.FLAGS[name].value = value
    flags.FLAGS.unparse_flags()


def test_builds_and_evaluates(values):
    spec.build(values["dataset"], diffjax.data)
    spec.build(values["sampler"], diffjax.samplers)
    Process(spec.build(values["schedule"], diffjax.schedules), values["target"])
    size, channels = (32, 3) if "cifar10" in values["dataset"] else (values["image_size"] or 28, 1)
    fits = {"in_channels": channels, "out_channels": channels, "sample_size": size}
    model = spec.build(values["model"], diffjax.models, fits)
    x, t, cond = jnp.zeros((2, size, size, channels)), jnp.zeros((2,)), model.takes().example(2)
    out, _ = jax.eval_shape(lambda key: model.init_with_output(key, x, t, cond), jax.random.key(0))
    assert out.shape == x.shape


@pytest.mark.parametrize("path", of_program("classifier"), ids=lambda p: p.stem)
def test_judge_builds_and_evaluates(path):
    """Its program defines some of ddpm's flags again, so it parses the file in its own process."""
    code = (
        "from absl import flags; from experiments import classifier;"
        f"flags.FLAGS(['classifier', '--flagfile={path}']); print(classifier.MODEL.value)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    model = spec.build(done.stdout.strip(), diffjax.models)
    (logits, features), _ = jax.eval_shape(
        lambda key: model.init_with_output(key, jnp.zeros((2, 28, 28, 1))), jax.random.key(0)
    )
    assert logits.shape == (2, 10)
    assert features.shape == (2, 64)


@pytest.mark.parametrize("path", of_program("gan"), ids=lambda p: p.stem)
def test_gan_is_understood(path):
    """In a process of its own, as a judge's."""
    code = "import sys; from absl import flags; from experiments import gan; flags.FLAGS(sys.argv)"
    done = python(code, f"--flagfile={path}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", TOLD, ids=lambda p: p.stem)
def test_text_to_image_builds_and_evaluates(path):
    """In a process of its own, as a judge's."""
    code = (
        "import sys; from absl import flags; from experiments import ddpm, text_to_image;"
        "flags.FLAGS(sys.argv); text_to_image.set_defaults(); ddpm.repeat_course();"
        "print(ddpm.MODEL.value)"
    )
    done = python(code, f"--flagfile={path}", "--clip=x")
    assert done.returncode == 0, done.stderr
    told = {"cond_dim": 512, "in_channels": 3, "out_channels": 3, "sample_size": 32}
    model = spec.build(done.stdout.strip(), diffjax.models, told)
    x, t, cond = jnp.zeros((2, 32, 32, 3)), jnp.zeros((2,)), jnp.zeros((2, 512))
    out, _ = jax.eval_shape(lambda key: model.init_with_output(key, x, t, cond), jax.random.key(0))
    assert out.shape == x.shape


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_says_what_to_expect(path):
    """A comment gives machine, time and figure, each on a line of its own."""
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert all(
        any(c.startswith(f"# {w}:") for c in comments) for w in ("machine", "time", "figure")
    )
