"""The C library's allocator, told to keep what is freed.

By default it gives large blocks back to the system, and the next tensor of that size is mapped and zeroed page by page
again: half of the time of an update on CPU. With glibc two settings end that; elsewhere nothing is changed.
"""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of the settings (malloc.h)
NEVER = -1


def keep_freed() -> bool:
    """For this process from now on; True where it could be done."""
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    return bool(set_option(MMAP_THRESHOLD, 1 << 30)) and bool(set_option(TRIM_THRESHOLD, NEVER))
