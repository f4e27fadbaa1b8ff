"""Publish a run: a folder with what inference needs and a model card, on disk or on the Hugging Face Hub.

Usage: python tools/publish.py run=<run folder> out=<folder> | repo=<user/name> [key=value ...]

Examples:
  python tools/publish.py run=<run folder> out=published license=apache-2.0
  python tools/publish.py run=<run folder> repo=me/streets private=true license=cc-by-nc-4.0
  python tools/publish.py run=<run folder> out=published 'description="Drawn street scenes, 400 of them."'
  python tools/eval.py run=published                                  a published folder is a run folder
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from omegaconf import DictConfig

from engine.config.compose import launch, validate
from engine.errors import UserError
from engine.hub import Pretrained


def publish(config: DictConfig) -> None:
    validate(config)
    if config.out is None and config.repo is None:
        raise UserError("nothing to publish to; give out=<folder>, repo=<user/name> or both")
    model = Pretrained.from_pretrained(
        config.run, checkpoint_name=config.checkpoint, overrides=list(config.overrides)
    )
    card = {"license": config.license, "description": config.description}
    if config.out is not None:
        print(f"out: {model.save_pretrained(config.out, repo_id=config.repo, **card)}")
    if config.repo is not None:
        url = model.push_to_hub(config.repo, private=config.private, revision=config.revision, **card)
        print(f"repo: {url}")
    if model.withheld:
        print(f"left out of config.yaml, as paths of this machine: {', '.join(model.withheld)}")
    if config.license is None:
        print("the model card states no license; license=<identifier> does")


if __name__ == "__main__":
    launch(publish, "publish", __doc__)
