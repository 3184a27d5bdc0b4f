"""Where weights lie: whole on each device, or cut among all where they do not fit one."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from diffjax.devices import ordered
from diffjax.errors import UserError

AXIS = "weights"
SMALL = 2**12  # numbers: what has fewer is on every device
MEMINFO, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a network's parameters are put on devices, as `dtype`.

    cut: each large parameter is cut along its longest axis that the devices divide.
    """

    dtype: str
    cut: bool = False

    def put(self, value: np.ndarray) -> Array:
        """The parameter on its devices; with `cut` no device ever holds it whole."""
        value = value.astype(self.dtype)
        if not self.cut:
            return jnp.asarray(value)
        mesh = Mesh(np.asarray(ordered(jax.local_devices())), (AXIS,))
        return jax.device_put(value, NamedSharding(mesh, cut_of(value.shape, mesh.size)))


def cut_of(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """Which axis of a parameter is cut; none of a small one, nor where no axis can be."""
    axes = [axis for axis, length in enumerate(shape) if length % devices == 0]
    if math.prod(shape) < SMALL or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, AXIS)


def fits_whole(needed: Mapping[str, int], shared: str) -> bool:
    """Whether each device has room for all of the named bytes; else `shared` must be cut.

    Raises UserError where there is no room either way, with what is needed and what there is.
    """
    rooms = _rooms()
    total, least = sum(needed.values()), min(rooms)
    if total <= least:
        return True
    if jax.default_backend() != "cpu" and total - needed[shared] * (1 - 1 / len(rooms)) <= least:
        return False
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in needed.items())
    raise UserError(
        f"the weights take {gigabytes(total)} GB ({parts}), and {gigabytes(least)} GB of memory "
        "are free: close other programs, or choose dtype bfloat16, which takes half of float32",
        option="dtype",
    )


def _rooms() -> list[float]:
    return [room(device) for device in ordered(jax.local_devices())]


def gigabytes(size: float | int) -> str:
    """Bytes in words, of 10^9 each."""
    return f"{size / 1e9:.3g}"


def room(device: jax.Device) -> float:
    """Bytes that a device can still give; of a CPU those of the machine."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats is None or "bytes_limit" not in stats:
        return host_room()
    return float(stats["bytes_limit"] - stats["bytes_in_use"])


def host_room() -> float:
    """Bytes that Linux can still give to this machine's or container's programs.

    Infinite where nothing says.
    """
    return min(_machine_room(), _container_room())


def _machine_room() -> float:
    if not MEMINFO.is_file():
        return math.inf
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    return 1024.0 * int(lines["MemAvailable"].split()[0])


def _container_room() -> float:
    """Of a control group of the second version; what its files keep in memory can be given up."""
    limit = CONTAINER / "memory.max"
    if not limit.is_file() or limit.read_text().strip() == "max":
        return math.inf
    stats = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
    used = int((CONTAINER / "memory.current").read_text()) - int(stats["inactive_file"])
    return float(int(limit.read_text()) - used)
