"""Which folder a model name means: `m3-small` (pulled into M3_HOME), a folder, or a hub id with a pinned revision."""

from __future__ import annotations

import re
from pathlib import Path

from m3core.errors import MissingExtraError, ModelError
from m3core.home import m3_home

M3_SMALL = "m3-small"
_REVISION = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Only files that the loader reads: no code, no card.
_HUB_FILES = ("*.json", "1_Pooling/config.json", "*.safetensors", "pytorch_model.bin", "*_linear.pt")


def models_folder() -> Path:
    """Where pulled models live."""
    return m3_home() / "models"


def resolve_model(name: str, revision: str | None = None, base: Path | None = None) -> Path:
    """The folder of a model. A relative folder is taken from `base`.

    Raises ModelError if m3-small was not pulled, the folder is not there, or a hub id comes without its revision.
    """
    if name == M3_SMALL:
        return _pulled()
    folder = (base or Path()) / Path(name).expanduser()
    if folder.is_dir():
        return folder
    if _HUB_ID.fullmatch(name):
        return _from_hub(name, revision)
    raise ModelError(
        f"model {name!r} is neither m3-small nor a folder", "give m3-small, a folder, or owner/name and a revision"
    )


def _pulled() -> Path:
    from m3core.zoo import m3_small

    folder = m3_small.folder()
    if not m3_small.is_complete(folder):
        raise ModelError(f"model m3-small is not in {models_folder()}", "m3 models pull m3-small")
    return folder


def _from_hub(name: str, revision: str | None) -> Path:
    if revision is None or not _REVISION.fullmatch(revision):
        raise ModelError(
            f"hub model {name} with revision {revision!r}: a hub id needs the 40 hex digits of a commit",
            "set model.revision; a branch name can change under you",
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise MissingExtraError("hub models need huggingface-hub", "pip install 'threefold[hub]'") from None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"hub model {name}@{revision} cannot be fetched ({type(error).__name__})",
            "check network and name, or download the folder and name it",
        ) from None
