"""What XLA is asked for when it compiles for a CPU."""

import functools
import os
from collections.abc import Mapping

import jax

from diffjax.processor import processor

Options = Mapping[str, str | int]
# What runs once: optimising it further takes up to three times as long as all else in compiling it.
RUNS_ONCE: Options = {"xla_backend_optimization_level": 1}
NO_YNNPACK: Options = {"xla_cpu_experimental_ynn_fusion_type": ""}
# A network whose layers fill both the cores and the memory: steps are ordered for the least memory,
# and not so that most run side by side. Nothing is handed to YNNPACK, whose layers are slower there
# and allocate memory anew each time.
LARGE: Options = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    **NO_YNNPACK,
}


def step_options() -> dict[str, str | int] | None:
    """The compiler options of a train step, for the processor and the number of devices.

    An Intel processor whose cores are one device is faster without YNNPACK. With a device a core it
    is no faster, and an AMD processor is slower (docs/speed.md).
    """
    alone = processor().startswith("intel") and jax.device_count() == 1
    return cpu_options(NO_YNNPACK if alone else {})


def cpu_options(options: Options) -> dict[str, str | int] | None:
    """Of these compiler options, those that hold here; None where there are none.

    They are for a CPU alone. An option that this jaxlib does not know is left out, and so is one
    that the user's XLA_FLAGS set.
    """
    if not options or jax.default_backend() != "cpu":
        return None
    own = os.environ.get("XLA_FLAGS", "")
    held = {name: value for name, value in options.items() if name not in own}
    return {name: value for name, value in held.items() if _known(name, value)} or None


@functools.cache
def _known(name: str, value: str | int) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
