"""The C library's allocator, told to keep what is freed.

By default it gives large blocks back to the system, and the next tensor of that size is mapped and zeroed page by page
again: half of the time of an update on CPU. With glibc two settings end that; elsewhere nothing is changed.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of the settings (malloc.h)
NEVER = -1
HUGE = 1 << 30  # bytes; a smaller block is the heap's, and kept


_kept = False


def keep_freed() -> bool:
    """For this process from now on; True where it could be done."""
    global _kept
    glibc = platform.libc_ver()[0] == "glibc"
    _kept = glibc and _set(MMAP_THRESHOLD, HUGE) and _set(TRIM_THRESHOLD, NEVER)
    return _kept


@contextmanager
def given_back() -> Iterator[None]:
    """Blocks of a megabyte or more that are allocated within go back to the system when they are freed, and take only
    what is written to of them."""
    if not _kept:
        yield
        return
    _set(MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        _set(MMAP_THRESHOLD, HUGE)


def _set(option: int, value: int) -> bool:
    return bool(ctypes.CDLL(None).mallopt(option, value))
