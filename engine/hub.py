"""Saves and loads trained models, locally and on the Hugging Face Hub: `from_pretrained`, `save_pretrained`,
`push_to_hub`.

A published folder is a run folder with only the files needed for inference, so it works with every tool that
takes `run=`. Its configuration is checked like any untrusted one before anything is built from it
(`engine.config.untrusted`, `engine.config.instantiate`). The Hub requires an extra: pip install -e '.[hub]'.
"""

import importlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from engine import model_card
from engine.config.compose import to_yaml
from engine.config.runs import TrainedRun
from engine.config.saved import load_config
from engine.config.training import validate
from engine.errors import UserError
from engine.io.files import write_json, write_text
from engine.run import checkpoint, run_folder
from engine.run.initial_weights import is_name
from engine.run.run_folder import RunFolder

FILES = ("config.yaml", "classes.json", "metrics.json", "checkpoints/best.safetensors", "README.md")
"""The files of a published folder; no others are downloaded."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PATH_KEY = re.compile(
    r"run|resume|replay|init_from|weights|labels|out|data\.(root|cache)|data\.\w+\.(images|annotations)"
)
_ABSOLUTE = re.compile(r"(^|=)([/~\\]|[A-Za-z]:[\\/]|file:|\$\{oc\.env:)")


class Pretrained:
    """A trained model, for prediction and publishing.

    Attributes: task (in evaluation mode), classes, config, info (the `TaskInfo` of its task), run (its
    `RunFolder`), step (training step; 0 if unknown), metrics (at that step), withheld (keys of the
    configuration that are not published, because their values are local paths).
    """

    def __init__(self, trained: TrainedRun, *, overrides: Sequence[str] = (), device: str = "cpu") -> None:
        self.run, self.config, self.info = trained.folder, trained.config, trained.info
        self.classes, self._overrides = trained.classes, list(overrides)
        self.task, self.read_image = trained.task(), trained.read_image
        try:
            self.task.to(device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise UserError(f"device={device!r}: {str(error).splitlines()[0]}") from None
        _, metadata = checkpoint.inference_weights(self.run.checkpoint(trained.checkpoint_name))
        self.step, self.metrics = _evaluation(metadata.get("state"))
        self.withheld = tuple(_local_keys(yaml.safe_load(to_yaml(self.config))))

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        checkpoint_name: str = "best",
        overrides: Sequence[str] = (),
        device: str = "cpu",
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> "Pretrained":
        """Load a model from a run folder, a published folder, or a Hub repository, `user/name`.

        Args:
            revision: branch, tag or commit of the repository.
            checkpoint_name: `best` or `last`; only `best` is published.
            overrides: `key=value` for the run's configuration, such as `inference.flip=true`.
            token, cache_dir, local_files_only: as in huggingface_hub.

        Raises:
            UserError: if there is no such folder or repository, the Hub cannot be reached, huggingface_hub is
                not installed, or the folder is not a valid run.
        """
        folder = Path(source)
        if not folder.is_dir():
            folder = _download(
                os.fspath(source),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        elif revision is not None:
            raise UserError(
                f"{source}: revision= is only for Hub repositories, and this is a local folder; leave it out"
            )
        trained = TrainedRun.open(folder, overrides=overrides, checkpoint=checkpoint_name, reads="images")
        return cls(trained, overrides=overrides, device=device)

    def predict_image(self, image: str | os.PathLike[str] | NDArray[np.uint8]) -> Any:
        """Predict for an image (RGB uint8 [H, W, 3], or its path), at the image's own size.

        Raises:
            UserError: if the image cannot be read, or has another type or shape.
        """
        pixels = self.read_image(image) if isinstance(image, str | os.PathLike) else np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UserError(f"an image must be RGB uint8 [H, W, 3], got {pixels.dtype} {list(pixels.shape)}")
        return self.task.predict_image(pixels)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        license: str | None = None,
        description: str | None = None,
        repo_id: str | None = None,
    ) -> Path:
        """Save the weights, classes, metrics, a model card, and the configuration without local paths.

        Args:
            license: license of the weights, as a Hub identifier such as `apache-2.0` or `cc-by-nc-4.0`.
            description: description of the training data, for the card.
            repo_id: the repository in the card's example.

        Raises:
            UserError: if the folder contains other files, or cannot be written.
        """
        with run_folder.claim(Path(folder), key="out") as out:
            self._save_into(out, license=license, description=description, repo_id=repo_id)
        return out

    def _save_into(
        self, out: Path, *, license: str | None, description: str | None, repo_id: str | None
    ) -> None:
        files = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
        other_files = sorted(
            str(path) for path in files if path.as_posix() not in FILES and path.parts[0][0] != "."
        )
        if other_files or out.resolve() == self.run.path.resolve():
            raise UserError(
                f"{out}: contains {', '.join(other_files[:3]) or 'this run'}; choose another folder"
            )
        published, config = RunFolder(out), self._shareable()
        card = model_card.write(
            self, config=config, license=license, description=description, source=repo_id or "user/name"
        )
        write_json(published.classes, self.classes.to_dict())
        write_json(published.metrics, {**self.metrics, "step": self.step})
        published.best.unlink(missing_ok=True)  # otherwise it would be kept as best.previous
        tensors = checkpoint.prefixed("model", self.task.model.state_dict())
        state = {"step": self.step, "evaluated_step": self.step, "metrics": self.metrics}
        checkpoint.write(published.best, tensors, {"format": 1, "state": state})
        try:
            write_text(published.config, to_yaml(config))
            write_text(out / "README.md", card)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror})") from None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        description: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        commit_message: str = "Publish a trained model",
    ) -> str:
        """Upload the files of `save_pretrained`, creating the repository if needed; returns its URL.

        Raises:
            UserError: if huggingface_hub is not installed, or the Hub cannot be reached or rejects it.
        """
        hub = _huggingface_hub(repo_id)
        with tempfile.TemporaryDirectory() as temporary:
            folder = self.save_pretrained(
                Path(temporary) / "model", license=license, description=description, repo_id=repo_id
            )
            try:
                api = hub.HfApi(token=token)
                url = api.create_repo(repo_id, private=private, exist_ok=True)
                api.upload_folder(
                    repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
                )
            except Exception as error:
                raise _one_line(repo_id, error) from None
        return str(url)

    def _shareable(self) -> Any:
        """The configuration with local paths replaced by null or, where null is invalid, by `<key>` or []."""
        path, overrides = self.run.config, list(self._overrides)
        for key in self.withheld:
            for value in ("null", f"'<{key}>'", "[]"):
                try:
                    validate(load_config(path, [*overrides, f"{key}={value}"]))
                except UserError:
                    continue
                overrides.append(f"{key}={value}")
                break
        config = load_config(path, overrides)
        validate(config)
        return config


def _local_keys(plain: Any, key: str = "") -> Iterator[str]:
    """The keys whose values are local paths."""
    if isinstance(plain, dict):
        for name, item in plain.items():
            yield from _local_keys(item, f"{key}.{name}" if key else str(name))
    elif isinstance(plain, list):
        if any(True for item in plain for _ in _local_keys(item)):
            yield key
    elif isinstance(plain, str):
        home = os.path.expanduser("~")
        absolute = _ABSOLUTE.search(plain) or (len(home) > 1 and home in plain)
        named = key in ("init_from", "weights") and is_name(plain)
        withheld = plain == f"<{key}>"
        local = _PATH_KEY.fullmatch(key) and not plain.startswith("${") and not named and not withheld
        if absolute or local:
            yield key


def _evaluation(state: Any) -> tuple[int, dict[str, Any]]:
    """A checkpoint's step, and its numeric metrics if it was evaluated at that step."""
    state = state if isinstance(state, Mapping) else {}
    step, metrics = state.get("step"), state.get("metrics")
    known = isinstance(metrics, Mapping) and state.get("evaluated_step") == step
    numbers = metrics.items() if known else ()
    plain = {str(name): value for name, value in numbers if isinstance(value, int | float | None)}
    return (step if isinstance(step, int) else 0), plain


def _download(repo_id: str, **options: Any) -> Path:
    if not _REPOSITORY.fullmatch(repo_id):
        raise UserError(f"{repo_id}: neither a run folder nor a Hub repository (user/name); check the name")
    hub = _huggingface_hub(repo_id)
    try:
        return Path(hub.snapshot_download(repo_id, allow_patterns=list(FILES), **options))
    except Exception as error:
        raise _one_line(repo_id, error) from None


def _huggingface_hub(repo_id: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(
            f"{repo_id}: the Hugging Face Hub requires huggingface_hub: pip install -e '.[hub]'"
        ) from None


def _one_line(repo_id: str, error: Exception) -> UserError:
    # huggingface_hub raises its own exceptions, its HTTP client's, and built-in ones.
    text = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    return UserError(
        f"{repo_id}: Hugging Face Hub: {text}; check the name, the login (`hf auth login`) and the network"
    )
