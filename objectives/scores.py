"""A trial's similarities on the validation pairs as text, so that they travel as JSON does.

They are what a later comparison needs: two models are told apart on the same pairs, resampled
together, without either being loaded again.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray

SCORES = "hpo:scores"
"""The user attribute of a trial that hands them over; hpo keeps it in a file of the study."""


def pack_scores(scores: NDArray[np.float32]) -> str:
    """Return ``scores`` as base64 of little-endian float32, in their order."""
    return base64.b64encode(scores.astype("<f4").tobytes()).decode("ascii")


def unpack_scores(text: str, pairs: int, whose: str) -> NDArray[np.float32]:
    """Return what :func:`pack_scores` was given.

    Args:
        text: What it returned.
        pairs: How many validation pairs there are.
        whose: Whose scores these are, for people.

    Raises:
        ValueError: ``text`` holds something else than one finite number a pair.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error:
        content = b""
    if len(content) != 4 * pairs:
        raise ValueError(
            f"the kept scores of {whose} have {len(content):,} bytes, but {pairs:,} validation "
            f"pairs need {4 * pairs:,}: their file, under scores in the study's directory, was "
            "damaged or is of other data; delete it"
        )
    scores = np.frombuffer(content, "<f4").astype(np.float32)
    if not np.isfinite(scores).all():
        raise ValueError(
            f"the kept scores of {whose} are not all finite: their file, under scores in the "
            "study's directory, was damaged; delete it"
        )
    return scores
