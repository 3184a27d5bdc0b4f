"""What a run ran on: versions and hardware, and nothing that names a person or a place."""

import collections
import datetime
import importlib.metadata
import os
import pathlib
import platform

import jax

PACKAGES = ("diffjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, str]:
    """Versions, system, processor, memory and devices of this process, and the date (UTC)."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": _system(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": str(cores()),
        "memory": _memory(),
        "devices": _devices(),
        "processes": str(jax.process_count()),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # diffjax itself, where it runs from its sources


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _cpu_model() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return "unknown"
    return f"{size / 2**30:.1f} GiB"


def _devices() -> str:
    kinds = collections.Counter(device.device_kind for device in jax.devices())
    return ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
