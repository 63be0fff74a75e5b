"""Putting an exported model on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpo.errors import InputError

TOKEN = "HF_TOKEN"


def check_hub(hub_id: str) -> str:
    """Return the token to push with; nothing is asked of the hub.

    Raises:
        InputError: ``hub_id`` is none, or there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # public

    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        raise InputError(f"--push-to-hub {hub_id!r} is no id of the hub: {error}") from error
    token = get_token()
    if token is None:
        raise InputError(
            f"--push-to-hub needs a token of the Hugging Face hub that may write: set {TOKEN} to "
            "one of your account's access tokens."
        )
    return token


def push(directory: Path, hub_id: str, token: str, say: Callable[[str], None]) -> None:
    """Upload an exported model; a repository that is not there yet is made, and is private.

    Args:
        directory: The exported model.
        hub_id: The repository: ``account/name``, or a name in the token's own account.
        token: The token.
        say: Takes where the model is, line by line.

    Raises:
        InputError: The hub refused or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        made = api.create_repo(hub_id, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=directory,
            commit_message="Upload a model exported by hpo",
        )
        private = api.model_info(made.repo_id).private
    except Exception as error:  # whichever HTTP library the hub's client uses has its own
        raise InputError(
            f"pushing to {hub_id} failed ({_reason(error)}). The model is at {directory}; the same "
            "command tries again."
        ) from error
    say(f"hub   {made} ({'private: only you can see it' if private else 'public'})")


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if not isinstance(error, HfHubHTTPError):
        return f"the hub cannot be reached: {type(error).__name__}: {error}"
    code = error.response.status_code
    if code in (401, 403):
        return f"the hub answered {code}: the token in {TOKEN} is wrong, or may not write there"
    return f"the hub answered {code}: {error.server_message or error}"
