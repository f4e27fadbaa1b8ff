"""The npm package of onnxruntime-web, downloaded once for all runs of the tests."""

import pytest

from deploy.web import assets
from engine.errors import UserError


def npm_registry(cache):
    """The address of a registry on this machine with the package; skips the test if npm is out of reach.

    cache: `pytestconfig.cache`.
    """
    folder = cache.mkdir("npm")
    package = folder / assets.TARBALL
    if not package.exists():
        patch = pytest.MonkeyPatch()
        patch.setenv("XDG_CACHE_HOME", str(folder / "downloads"))
        try:
            downloaded = assets.download()
        except UserError as error:
            pytest.skip(f"npm cannot be reached: {error}")
        finally:
            patch.undo()
        package.parent.mkdir(parents=True, exist_ok=True)
        downloaded.replace(package)
    return folder.as_uri()
