"""Peak resident memory of a process that another one started; kept apart because it loads nothing."""

import re
from pathlib import Path


def peak_resident_kib() -> int:
    """Return the peak resident memory of this process since its program began, in KiB; Linux only.

    `getrusage` will not do: what it gives a new program begins at the peak of the process that started it, so that two
    programs started from a larger one seem to need the same.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError("the peak is read from VmHWM in /proc/self/status, but it is not there; run this on Linux")
    return int(found[1])
