"""What kind of processor this is, as far as the speed of networks depends on it."""

import pathlib
from collections.abc import Collection

INFO = pathlib.Path("/proc/cpuinfo")
VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
VECTORS = {"avx512f": "avx512", "avx2": "avx2"}  # the widest first
OTHER = "other"


def processor() -> str:
    """Maker and vector instructions, such as "amd_avx512"; "other" for what cannot be told."""
    try:
        lines = INFO.read_text().splitlines()
    except OSError:  # not on Linux
        return f"{OTHER}_{OTHER}"
    told = {name.strip(): value for name, _, value in (line.partition(":") for line in lines)}
    maker = VENDORS.get(told.get("vendor_id", "").strip(), OTHER)
    known = told.get("flags", "").split()
    vectors = next((name for flag, name in VECTORS.items() if flag in known), OTHER)
    return f"{maker}_{vectors}"


def nearest(wanted: str, names: Collection[str], default: str) -> str:
    """Of processors' names the same, else one of the same instructions, else the default."""
    if wanted in names:
        return wanted
    vectors = wanted.partition("_")[2]
    alike = sorted(name for name in names if name.partition("_")[2] == vectors)
    return alike[0] if alike else default
