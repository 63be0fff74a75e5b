"""Whether this machine may use Modal, without asking Modal."""

from __future__ import annotations

from hpo.errors import InputError

NO_TOKEN = (
    "no Modal token is configured; get one with `modal token new` (opens a browser), or set "
    "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET."
)


def has_token() -> bool:
    """Whether a token, or another way to sign in, is configured; it may still be refused.

    Raises:
        InputError: Modal's configuration file cannot be read, or holds half a token.
    """
    try:
        from modal.config import config
    except Exception as error:  # its own, which can only be imported past this point
        raise InputError(
            f"Modal's configuration cannot be read: {error} Mend it, or do without Modal: "
            "--executor local."
        ) from error
    if config.get("oauth_refresh_token"):
        return True
    token, secret = config.get("token_id"), config.get("token_secret")
    if bool(token) != bool(secret):
        there, lacking = ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET")[:: 1 if token else -1]
        raise InputError(
            f"{there} is set and {lacking} is not: set both, or get a new token with `modal token "
            "new`."
        )
    return bool(token)


def require_token(source: str) -> None:
    """See that there is a token.

    Args:
        source: What asks for Modal, for the message: ``--executor``.

    Raises:
        InputError: There is none.
    """
    if not has_token():
        raise InputError(f"{source} modal: {NO_TOKEN}")
