"""How the C library hands out memory on the CPU."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to keep memory that was freed, for this process; returns whether it does.

    By default glibc asks the kernel for each large block anew and gives it back when it is freed. A training
    step frees and asks for all its activations, gigabytes of them, and every page of them is then zeroed and
    mapped again: see `benchmarks/train_step.py --memory` for what that costs.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, 64 << 20))
    # A list: each setting is made, whatever becomes of the others.
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)
