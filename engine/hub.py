"""Trained models as folders and on the Hugging Face Hub: `from_pretrained`, `save_pretrained`, `push_to_hub`.

What is published is a run folder reduced to what inference needs, so that every tool that takes `run=` takes
it too. Its configuration is judged like any stranger's before something is made of it (`engine.config.untrusted`,
`engine.config.instantiate`). The Hub itself is an extra: pip install -e '.[hub]'.
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
from engine.config.runs import load_trained
from engine.config.saved import load_config
from engine.config.training import validate
from engine.data.class_map import ClassMap
from engine.data.images import read_image
from engine.errors import UserError
from engine.io.files import write_json, write_text
from engine.run import checkpoint, run_folder
from engine.run.initial_weights import is_name
from engine.run.run_folder import RunFolder

FILES = ("config.yaml", "classes.json", "metrics.json", "checkpoints/best.safetensors", "README.md")
"""What a published folder holds, and all that is fetched of one."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PATH_KEY = re.compile(
    r"run|resume|replay|init_from|weights|labels|out|data\.(root|cache)|data\.\w+\.(images|annotations)"
)
_ABSOLUTE = re.compile(r"(^|=)([/~\\]|[A-Za-z]:[\\/]|file:|\$\{oc\.env:)")


class Pretrained:
    """A trained model to predict with, and to publish.

    Attributes: task (in evaluation mode), classes, config, run (its folder), step (of training; 0 where it
    is not known), metrics (of that step), withheld (keys of the configuration that a published one lacks).
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        checkpoint_name: str = "best",
        overrides: Sequence[str] = (),
        device: str = "cpu",
    ) -> None:
        self.run, self._overrides = run, list(overrides)
        self.config = load_config(run.config, self._overrides)
        validate(self.config)
        self.classes = ClassMap.read(run.classes)
        self.task = load_trained(run, self.config, self.classes, checkpoint_name)
        try:
            self.task.to(device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise UserError(f"device={device!r}: {str(error).splitlines()[0]}") from None
        _, metadata = checkpoint.inference_weights(run.checkpoint(checkpoint_name))
        self.step, self.metrics = _evaluation(metadata.get("state"))
        self.withheld = tuple(_personal(yaml.safe_load(to_yaml(self.config))))

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
        """A model from a run folder, a published folder, or a repository of the Hub, `user/name`.

        Args:
            revision: branch, tag or commit of the repository.
            checkpoint_name: `best` or `last`; only best is ever published.
            overrides: `key=value` for the run's configuration, such as `inference.flip=true`.
            token, cache_dir, local_files_only: huggingface_hub's own.

        Raises:
            UserError: there is neither such a folder nor such a repository, the Hub cannot be reached or
                needs its package, or what was found is no run that may be loaded.
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
            raise UserError(f"{source}: is a folder here, and revision= is for repositories")
        run = run_folder.find(folder)
        return cls(run, checkpoint_name=checkpoint_name, overrides=overrides, device=device)

    def predict_image(self, image: str | os.PathLike[str] | NDArray[np.uint8]) -> Any:
        """RGB uint8 [H, W, 3], or a picture's path -> what the task predicts for it, at its own size.

        Raises:
            UserError: the picture cannot be read, or is of another type or shape.
        """
        pixels = read_image(image) if isinstance(image, str | os.PathLike) else np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UserError(f"a picture is uint8 [H, W, 3], RGB; got {pixels.dtype} {list(pixels.shape)}")
        return self.task.predict_image(pixels)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        license: str | None = None,
        description: str | None = None,
        repo_id: str | None = None,
    ) -> Path:
        """Write what is published: weights, classes, metrics, a model card, and the configuration without
        paths of this machine.

        Args:
            license: of the weights, an identifier of the Hub's such as `apache-2.0` or `cc-by-nc-4.0`.
            description: of the data that the model was trained on, for the card.
            repo_id: where the card says that the model is.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        out = run_folder.make(Path(folder))
        here = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
        foreign = sorted(
            str(path) for path in here if path.as_posix() not in FILES and path.parts[0][0] != "."
        )
        if foreign or out.resolve() == self.run.path.resolve():
            raise UserError(f"{out}: holds {', '.join(foreign[:3]) or 'this run'}; choose another folder")
        published, config = RunFolder(out), self._shareable()
        card = model_card.write(
            self, config=config, license=license, description=description, source=repo_id or "user/name"
        )
        write_json(published.classes, self.classes.to_dict())
        write_json(published.metrics, {**self.metrics, "step": self.step})
        published.best.unlink(missing_ok=True)  # else it would be kept as the one before
        tensors = checkpoint.prefixed("model", self.task.model.state_dict())
        state = {"step": self.step, "evaluated_step": self.step, "metrics": self.metrics}
        checkpoint.write(published.best, tensors, {"format": 1, "state": state})
        try:
            write_text(published.config, to_yaml(config))
            write_text(out / "README.md", card)
        except OSError as error:
            raise UserError(f"{out}: cannot be written ({error.strerror})") from None
        return out

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
        """Make the repository where there is none, and upload what `save_pretrained` writes; returns its URL.

        Raises:
            UserError: huggingface_hub is missing, or the Hub refuses or cannot be reached.
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
        """The configuration without paths: null, or where a reader insists on one, the key in brackets."""
        path, overrides = self.run.config, list(self._overrides)
        for key in self.withheld:
            try:
                validate(load_config(path, [*overrides, f"{key}=null"]))
                overrides.append(f"{key}=null")
            except UserError:
                overrides.append(f"{key}='<{key}>'")
        config = load_config(path, overrides)
        validate(config)
        return config


def _personal(plain: Any, key: str = "") -> Iterator[str]:
    """The keys of values that lead to places of one machine."""
    if isinstance(plain, dict):
        for name, item in plain.items():
            yield from _personal(item, f"{key}.{name}" if key else str(name))
    elif isinstance(plain, list):
        if any(True for item in plain for _ in _personal(item)):
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
    """Step of a checkpoint, and its metrics where it was evaluated at that step; nothing but numbers."""
    state = state if isinstance(state, Mapping) else {}
    step, metrics = state.get("step"), state.get("metrics")
    known = isinstance(metrics, Mapping) and state.get("evaluated_step") == step
    numbers = metrics.items() if known else ()
    plain = {str(name): value for name, value in numbers if isinstance(value, int | float | None)}
    return (step if isinstance(step, int) else 0), plain


def _download(repo_id: str, **options: Any) -> Path:
    if not _REPOSITORY.fullmatch(repo_id):
        raise UserError(f"{repo_id}: no run folder here, and no repository of the Hub, which is user/name")
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
            f"{repo_id}: the Hugging Face Hub needs huggingface_hub: pip install -e '.[hub]'"
        ) from None


def _one_line(repo_id: str, error: Exception) -> UserError:
    # huggingface_hub raises its own errors, those of its http client and Python's.
    text = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(f"{repo_id}: {text}")
