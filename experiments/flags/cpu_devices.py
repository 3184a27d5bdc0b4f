"""How many devices a CPU counts as: a flag of the programs that train or draw."""

import os

import jax

from diffjax.display.environment import cores
from experiments.flags import kinds

__all__ = ["cores", "split_cpu"]

CPU_DEVICES = kinds.define_integer(
    "cpu_devices", None,
    "devices that a CPU counts as, where the environment names no number: one a core is fastest "
    "for small networks and for drawing, which has as many unless told otherwise",
    lower_bound=1,
)  # fmt: skip
VIRTUAL = "xla_force_host_platform_device_count"


def split_cpu(default: int | None = None) -> None:
    """Makes --cpu_devices of one CPU, unless JAX's own variables have said how many.

    What comes before this must not compute.
    """
    said = "JAX_NUM_CPU_DEVICES" in os.environ or VIRTUAL in os.environ.get("XLA_FLAGS", "")
    count = CPU_DEVICES.value or default
    if count is not None and not said:
        jax.config.update("jax_num_cpu_devices", count)
