"""Publish a run: save the files needed for inference and a model card to disk or the Hugging Face Hub.

Usage: python tools/publish.py run=<run folder> out=<folder> | repo=<user>/<name> [key=value ...]

Examples:
  python tools/publish.py run=<run folder> out=published license=apache-2.0
  python tools/publish.py run=<run folder> repo=me/streets private=true license=cc-by-nc-4.0
  python tools/publish.py run=<run folder> out=published 'description="Synthetic street scenes, 400 of them."'
  python tools/eval.py run=published                                  a published folder is a run folder
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

from functools import partial

from backbones.weights import catalog
from engine.config.launch import launch
from engine.config.options import PublishOptions
from engine.hub import Pretrained
from engine.published import run_by_name


def publish(options: PublishOptions) -> None:
    model = Pretrained.from_pretrained(
        options.run, checkpoint_name=options.checkpoint, overrides=options.overrides
    )
    license, description = options.license, options.description
    if options.out is not None:
        folder = model.save_pretrained(
            options.out, repo_id=options.repo, license=license, description=description
        )
        print(f"out: {folder}")
    if options.repo is not None:
        url = model.push_to_hub(
            options.repo,
            private=options.private,
            revision=options.revision,
            license=license,
            description=description,
        )
        print(f"repo: {url}")
    if model.withheld:
        print(f"removed from config.yaml because they are local paths: {', '.join(model.withheld)}")
    if license is None:
        print("the model card has no license; add one with license=<identifier>")


if __name__ == "__main__":
    launch(publish, "publish", __doc__, complete=partial(run_by_name, published=catalog.find))
