"""The order of devices: processes first, then ids within a process.

Data are cut by process. `jax.devices()` may list devices in another order, such as an order by
place in a TPU's torus.
"""

from collections.abc import Iterable

import jax


def ordered(devices: Iterable[jax.Device] | None = None) -> list[jax.Device]:
    """The devices, by default all devices of all processes, sorted by process and then by id."""
    devices = jax.devices() if devices is None else devices
    return sorted(devices, key=lambda device: (device.process_index, device.id))
