"""Options of the compiler: which are known, whose setting wins, and what they do."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from diffjax import compiling
from diffjax.compiling import LARGE, NO_YNNPACK, cpu_options, step_options

YNN = "xla_cpu_experimental_ynn_fusion_type"


def compiled(options):
    def layers(x, w):
        y = lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.exp(jnp.tanh(y.reshape(-1, 128) @ w[0, 0]) * 2).sum(0)

    x, w = jnp.zeros((4, 32, 32, 128)), jnp.zeros((3, 3, 128, 128))
    return jax.jit(layers, compiler_options=options).lower(x, w).compile().as_text()


def test_ynnpack_has_no_layer_of_a_large_network(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    options = cpu_options(LARGE)
    if YNN not in (options or {}):
        pytest.skip("this jaxlib has no YNNPACK to turn off")
    assert "__ynn_fusion" in compiled(None)
    assert "__ynn_fusion" not in compiled(options)


@pytest.mark.parametrize(
    ("processor", "devices", "off"),
    [("intel_avx512", 1, True), ("intel_avx512", 2, False), ("amd_avx2", 1, False)],
)
def test_train_steps_on_one_intel_device_keep_layers_from_ynnpack(
    processor, devices, off, monkeypatch
):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(compiling, "processor", lambda: processor)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert step_options() == (cpu_options(NO_YNNPACK) if off else None)


def test_an_option_that_jaxlib_does_not_know_is_left_out():
    assert cpu_options({"xla_cpu_no_such_option": 1}) is None
    assert cpu_options({"xla_cpu_scheduler_type": "NO_SUCH_TYPE"}) is None


def test_the_users_own_setting_wins(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--{YNN}=-individual_dot --xla_backend_optimization_level=1")
    assert cpu_options(LARGE) == {"xla_cpu_scheduler_type": LARGE["xla_cpu_scheduler_type"]}


def test_nothing_is_asked_of_another_backend(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert cpu_options(LARGE) is None
