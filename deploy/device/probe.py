"""Prints, as JSON, the version of this Python and which of the libraries named as arguments it can import.

Runs on devices with any Python 3, even those that are too old for the rest.
"""

import json
import os
import sys

packages = os.path.join(
    os.path.expanduser("~"),
    ".local",
    "share",
    "mobilenet-dense",
    "python" + ".".join(map(str, sys.version_info[:2])),
)
"""Where `remote.install=true` installs, apart from the owner's packages."""

sys.path.insert(0, packages)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
versions, missing = {}, {}
if sys.version_info >= (3, 8):  # noqa: UP036
    for name in sys.argv[1:]:
        try:
            versions[name] = str(__import__(name).__version__).split("-")[0]
        except Exception as error:  # a library that does not fit the device can raise anything
            missing[name] = type(error).__name__ + ": " + str(error)
print(json.dumps({
    "python": list(sys.version_info[:3]), "packages": packages, "versions": versions, "missing": missing,
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
}))  # fmt: skip
