"""Environment variables that must be set before torch and albumentations are imported, and a logger's level.

The tools import this first. Variables that are already set keep their values.
"""

import logging
import os
import sys
import tempfile

# By default, waiting OpenMP threads spin. If DataLoader workers or other jobs share the cores, this makes a
# training step several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# By default, OpenCV and FFmpeg print their own multi-line warnings about damaged files and cameras.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# By default, albumentations checks the package index for a newer version on import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# By default, PyTorch's compilers warn if there is a CUDA toolkit but no GPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


# If the user has no writable home folder, as in a container that runs under a foreign user id, keep the
# caches (street scenes, torch's weights, matplotlib) in a temporary folder.
_home = os.path.expanduser("~")  # "~" if there is no $HOME and no user entry
_cache = os.path.join(_home, ".cache")
if (
    "XDG_CACHE_HOME" not in os.environ
    and hasattr(os, "getuid")  # on Windows, there is always a home folder
    and not (os.path.isabs(_home) and os.access(_cache if os.path.isdir(_cache) else _home, os.W_OK))
):
    _cache = os.path.join(tempfile.gettempdir(), f"mobilenet-dense-{os.getuid()}")
    try:
        os.makedirs(_cache, mode=0o700, exist_ok=True)
        _own = os.stat(_cache).st_uid == os.getuid()
    except OSError:
        _own = False
    _cache = _cache if _own else tempfile.mkdtemp(prefix="mobilenet-dense-")
    os.environ["XDG_CACHE_HOME"] = _cache
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(_cache, "matplotlib"))
    os.environ.setdefault("LOGNAME", f"user{os.getuid()}")  # torch.compile asks for the user's name
    print(f"no home folder: caches are in {_cache}; set XDG_CACHE_HOME to keep them", file=sys.stderr)
