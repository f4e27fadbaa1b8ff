"""Environment variables that must be set before torch and albumentations are imported.

The tools import this first. Variables that are already set keep their values.
"""

import os
import sys
import tempfile

# By default, waiting OpenMP threads spin. If DataLoader workers or other jobs share the cores, this makes a
# training step several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# By default, albumentations checks the package index for a newer version on import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def _cache_if_there_is_no_home() -> None:
    """Keep the caches (street scenes, torch's weights, matplotlib) in a folder for temporary files if the
    user has no home folder that can be written, as in a container that runs under a foreign user id."""
    home = os.path.expanduser("~")  # "~" if there is neither $HOME nor an entry for the user
    cache = os.path.join(home, ".cache")
    if "XDG_CACHE_HOME" in os.environ or os.access(cache if os.path.isdir(cache) else home, os.W_OK):
        return
    folder = os.path.join(tempfile.gettempdir(), f"mobilenet-dense-{os.getuid()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        usable = os.stat(folder).st_uid == os.getuid()
    except OSError:
        usable = False
    folder = folder if usable else tempfile.mkdtemp(prefix="mobilenet-dense-")
    os.environ["XDG_CACHE_HOME"] = folder
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(folder, "matplotlib"))
    os.environ.setdefault("LOGNAME", f"user{os.getuid()}")  # torch.compile asks for the user's name
    print(f"no home folder: caches are in {folder}; set XDG_CACHE_HOME to keep them", file=sys.stderr)


if hasattr(os, "getuid"):  # on Windows, there is always a home folder
    _cache_if_there_is_no_home()
