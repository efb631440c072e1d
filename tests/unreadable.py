"""A process whose memory no other one may read."""

from __future__ import annotations

import ctypes

#: Of <linux/prctl.h> and <linux/capability.h>.
PR_SET_DUMPABLE = 4
CAP_SYS_PTRACE = 19
LINUX_CAPABILITY_VERSION_3 = 0x20080522


class Unreadable:
    """Within, the system lets no other process read this one's memory, as containers do."""

    def __enter__(self):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)  # of this process
        self._former = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable; twice
        self._call("capget", self._header, self._former)
        fewer = (ctypes.c_uint32 * 6)(*self._former)
        fewer[0] &= ~(1 << CAP_SYS_PTRACE)
        self._call("capset", self._header, fewer)
        self._call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)

    def __exit__(self, *error):
        self._call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)
        self._call("capset", self._header, self._former)

    def _call(self, name, *arguments):
        if getattr(self._libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), name)
