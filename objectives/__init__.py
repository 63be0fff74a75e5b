"""What a trial does: the built-in objective, its data and its search space.

Importing this package imports no torch: the coordinator does it.
"""

from __future__ import annotations

from objectives.finetune import FineTune

__all__ = ["FineTune"]
