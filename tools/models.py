"""List the published networks that can be used by name, or describe one.

Usage: python tools/models.py [only=<task>] [name=<name>]

Examples:
  python tools/models.py
  python tools/models.py only=seg
  python tools/models.py name=lraspp_v3_large_cityscapes        source, license, preprocessing, file
  python tools/predict.py run=lraspp_v3_large_cityscapes input=street.jpg
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from backbones.weights import catalog
from backbones.weights.published import Published
from engine.config.launch import launch
from engine.config.options import ModelsOptions
from engine.errors import UserError, some
from engine.run.initial_weights import weights_folder

PIXELS = {"inception": "(x - 127.5) / 127.5", "imagenet": "ImageNet's mean and std", "unit": "x / 255"}


def models(options: ModelsOptions) -> None:
    if options.name is None:
        print(listed([catalog.find(name) for name in catalog.names()], only=options.only))
        return
    try:
        print(described(catalog.find(options.name)))
    except ValueError as error:
        raise UserError(f"name={options.name}: {error}") from None


def listed(networks: list[Published], *, only: str | None) -> str:
    """A table of the networks for a task, or for all."""
    rows = [
        (
            network.task,
            network.name,
            f"{network.num_params / 1e6:.2f}M",
            f"{network.size_mb:.0f} MB" if network.size_mb else "",
            "on disk" if (weights_folder() / network.file_name).exists() else "",
            network.license.split()[0],
            f"{network.data}: {network.results}",
        )
        for network in networks
        if only in (None, network.task)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def described(network: Published) -> str:
    """What is known about a network, one fact per line."""
    file = weights_folder() / network.file_name
    facts = {
        "source": network.source,
        "license": network.license,
        "results": f"{network.results} on {network.data}, as published",
        "parameters": f"{network.num_params:,}",
        "classes": f"{network.num_classes}: {some(network.categories, most=90)}",
        "pixels": f"task.pixels={network.pixels}: {PIXELS[network.pixels]}",
        "network": " ".join(network.network),
        "download": network.url,
        "sha256": network.sha256 or "none is published; the first download's is recorded",
        "file": f"{file}{'' if file.exists() else ' (not downloaded yet)'}",
    }
    return "\n".join(f"{name:11} {fact}" for name, fact in {"name": network.name, **facts}.items())


if __name__ == "__main__":
    launch(models, "models", __doc__)
