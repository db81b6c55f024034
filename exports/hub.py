"""An export on the hub, by huggingface_hub: what can go wrong is found before the model is exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filtune.lightning_modules.backbones.errors import one_line
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .target import is_export

KEPT = {".gitattributes", "LICENSE", "LICENSE.md", "LICENSE.txt"}
"""Files of a repository that a new export leaves there."""

REFUSED = {
    401: "the hub does not accept the token; log in again with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there; make one with the permission to write, or name another repository",
    404: "the hub does not find it; name another repository",
    413: "a file is too large for the hub",
    429: "the hub takes no more requests for now; try again later",
}
"""What the statuses of the hub's answers mean, and the remedy."""


@dataclass(frozen=True)
class Repository:
    """A repository of the hub that may be written to.

    Attributes:
        name: Its id, ``USER/MODEL``.
        private: Whether it is to be private if it is new.
        earlier: Files in it that the export replaces.
    """

    name: str
    private: bool = False
    earlier: tuple[str, ...] = ()

    def push(self, folder: Path) -> str:
        """Create the repository if it is new, write an export into it, and return its address.

        Raises:
            ValueError: If the hub refuses it, or cannot be reached.
        """
        api = HfApi()
        with _explained(self.name):
            url = api.create_repo(self.name, private=self.private or None, exist_ok=True)
            api.upload_folder(
                repo_id=self.name,
                folder_path=folder,
                commit_message="Model and card exported by filtune",
                delete_patterns=list(self.earlier) or None,
            )
        return str(url)


def find_repository(name: str, private: bool, overwrite: bool) -> Repository:
    """Return the repository of a name, after asking the hub who the user is and what is there.

    Args:
        name: ``USER/MODEL``, or ``MODEL`` of the user whose token it is.
        private: Whether it must be private.
        overwrite: Whether an earlier export in it may be replaced.

    Raises:
        ValueError: If the name is invalid, there is no token or no network, it is someone else's, it is public and
            should not be, or there is something in it.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"--push: {name!r} is no name of a repository; name it as USER/MODEL") from error
    if constants.HF_HUB_OFFLINE:
        raise ValueError("--push: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it, or leave --push out")
    if get_token() is None:
        raise ValueError("--push: there is no token of the hub; log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with _explained(name):
        user = api.whoami()
    owners = [user["name"], *(org["name"] for org in user.get("orgs") or [])]
    asked, _, model = name.rpartition("/")
    owner = next((each for each in owners if each.lower() == asked.lower()), None) if asked else owners[0]
    if owner is None:
        raise ValueError(
            f"--push: {name} is not yours: the token is of {owners[0]}; name one of "
            f"{', '.join(f'{each}/{model}' for each in owners[:5])}"
        )
    if ((user.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise ValueError(f"--push: {REFUSED[403]}")
    repo = f"{owner}/{model}"
    with _explained(repo):
        try:
            found = api.model_info(repo)
        except RepositoryNotFoundError:
            return Repository(repo, private)
    if private and not found.private:
        raise ValueError(f"--private: {repo} exists and is public; change that in its settings, or name another")
    files = {each.rfilename for each in found.siblings or []} - KEPT
    if files and not overwrite:
        raise ValueError(f"--push: {repo} is not empty; name another repository, or replace it with --overwrite")
    if files - {"README.md"} and not is_export(files):
        raise ValueError(f"--overwrite: {repo} holds no earlier export, and is left alone; name another repository")
    return Repository(repo, private, tuple(sorted(files)))


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what huggingface_hub and the network raise into one line."""
    try:
        yield
    except RepositoryNotFoundError as error:
        raise ValueError(f"--push: {repo}: {REFUSED[404]}") from error
    except Exception as error:  # of huggingface_hub, and of the HTTP library, whichever it is
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is None and isinstance(error, ValueError):
            raise ValueError(f"--push: {repo}: {one_line(error)[:300]}") from error
        reason = REFUSED.get(status or 0) or f"the hub cannot be reached ({one_line(error)[:200]}); try again later"
        raise ValueError(f"--push: {repo}: {reason}") from error
