"""Large arrays on huge pages, where Linux gives them to those who ask.

A program of XLA's takes its memory anew each time it runs, and each page of it must be faulted in
and cleared: in pages of 4 KiB a seventh of a large network's train step on a CPU. The C library
asks for pages of 2 MiB if a variable says so when it starts.
"""

import itertools
import os
import pathlib
import sys

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
ENABLED = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def start_with_huge_pages() -> None:
    """Starts this `python -m experiments.NAME` again, as the same process, with the variable set.

    Does nothing in any other program, where the variable is set, and where it would change nothing.
    """
    tunables = os.environ.get(VARIABLE, "")
    if not _is_experiment() or SETTING in tunables or not _on_request() or not sys.executable:
        return
    os.environ[VARIABLE] = ":".join(filter(None, (tunables, f"{SETTING}=1")))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_experiment() -> bool:
    """Whether `-m experiments.NAME` is what the interpreter was started for."""
    # Until the module is found, its place in sys.argv is held by "-m".
    arguments = sys.orig_argv
    return sys.argv[:1] == ["-m"] and any(
        a == "-m" and b.startswith("experiments.") for a, b in itertools.pairwise(arguments)
    )


def _on_request() -> bool:
    """Whether Linux gives huge pages to those that ask, and the C library can ask."""
    try:
        enabled, library = ENABLED.read_text(), os.confstr("CS_GNU_LIBC_VERSION") or ""
        return "[madvise]" in enabled and tuple(map(int, library.split()[1].split("."))) >= (2, 35)
    except (OSError, ValueError, IndexError, AttributeError):
        return False
