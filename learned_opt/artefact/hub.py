"""Artefacts on the Hugging Face Hub, by way of `huggingface_hub`: `pip install 'learned-opt[hub]'`."""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from learned_opt.architectures import LEARNED_OPTIMIZERS
from learned_opt.artefact.card import PLACEHOLDER
from learned_opt.artefact.format import CARD, CONFIG, WEIGHTS, ArtefactError, read_content, read_directory

PREFIX = "hub:"
_NAME = re.compile(r"hub:(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")


def push_to_hub(
    directory: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload learned optimizer",
    token: str | bool | None = None,
) -> str:
    """Uploads an artefact, after checking it, to a model repository, which is made if there is none.

    Args:
      directory: an artefact.
      repo_id: "user/name".
      private: of a repository that is made now; None for the account's default.
      revision: branch to commit to; None for the main one.
      commit_message: of the commit.
      token: of the account; None for the one that `hf auth login` saved, False for none.

    Returns:
      The name for `learned_opt.load`: "hub:user/name", with "@revision" if one was given.

    Raises:
      ArtefactError: the directory holds no artefact, the name is none of a repository, the hub refuses.
      ImportError: huggingface_hub is not installed.
    """
    name = f"{PREFIX}{repo_id}" + (f"@{revision}" if revision else "")
    _parse(name)
    content, _ = read_content(directory)
    if content["architecture"] in LEARNED_OPTIMIZERS:
        read_directory(directory)
    hub = _hub()
    with tempfile.TemporaryDirectory() as staged:
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(Path(directory) / file, Path(staged) / file)
        card = Path(directory) / CARD
        if card.is_file():
            text = card.read_text(encoding="utf-8").replace(PLACEHOLDER, name)
            (Path(staged) / CARD).write_text(text, encoding="utf-8")
        api = hub.HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, folder_path=staged, revision=revision, commit_message=commit_message
            )
        except _refusals(hub) as error:
            raise ArtefactError(f"{name} cannot be uploaded: {_one_line(error)}") from error
    return name


def download(name: str) -> Path:
    """The local directory of an artefact of the hub.

    What is in the cache already is not fetched again; without a network (or with HF_HUB_OFFLINE=1) the
    cache alone is used.

    Args:
      name: "hub:user/name" or "hub:user/name@revision" (a branch, a tag or a commit).

    Raises:
      ArtefactError: the name is none, there is no such repository, or it holds no artefact.
      ImportError: huggingface_hub is not installed.
    """
    repo, revision = _parse(name)
    hub = _hub()
    try:
        found = hub.snapshot_download(repo, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD])
    except _refusals(hub) as error:
        raise ArtefactError(f"{name} cannot be downloaded: {_one_line(error)}") from error
    missing = [file for file in (CONFIG, WEIGHTS) if not (Path(found) / file).is_file()]
    if missing:
        raise ArtefactError(f"{name} is not an artefact: it has no {missing[0]}")
    return Path(found)


def _parse(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ArtefactError(
            f"{name!r} is no name on the hub: it should be hub:user/name or hub:user/name@revision"
        )
    return match["repo"], match["revision"]


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        message = "the hub needs huggingface_hub: pip install 'learned-opt[hub]'"
        raise ImportError(message) from error
    return huggingface_hub


def _refusals(hub: Any) -> tuple[type[Exception], ...]:
    """What huggingface_hub raises for a wrong name, a refusal of the server, no network."""
    return (OSError, ValueError, hub.errors.HfHubHTTPError, hub.errors.HFValidationError)


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
