"""Swap two folders in one step, where the system can: no reader ever finds one of them missing, or both."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_AT_FDCWD = {"linux": -100, "darwin": -2}
_SWAP = 2
"""RENAME_EXCHANGE of Linux (renameat2) and RENAME_SWAP of macOS (renameatx_np) have the same value."""
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)
"""Among them: a folder of a container image's layer (EXDEV), a sandbox that forbids the call (EPERM)."""


def exchange(one: Path, other: Path) -> bool:
    """Swap what two paths of one filesystem name; whether the system and the filesystem can do that.

    Raises:
        OSError: a path does not exist, or may not be renamed.
    """
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    swap = getattr(ctypes.CDLL(None, use_errno=True), name, None) if name else None
    if swap is None:
        return False
    here = _AT_FDCWD[sys.platform]
    if swap(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_SWAP)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(one))
