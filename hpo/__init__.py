"""hpo: from labelled text pairs to the best fine-tuned embedding model.

``hpo.optimize`` runs a study; ``hpo.current_attempt`` tells an objective which attempt it runs in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpo.current import CurrentAttempt, attempt_context, current_attempt

if TYPE_CHECKING:
    from hpo.study import optimize as optimize

__version__ = "0.1.0"
__all__ = ["CurrentAttempt", "__version__", "attempt_context", "current_attempt", "optimize"]


def __getattr__(name: str) -> Any:
    # optimize() needs optuna (half a second); `hpo --help` and a worker's first breath do not.
    if name == "optimize":
        from hpo.study import optimize

        return optimize
    raise AttributeError(f"module 'hpo' has no attribute {name!r}")
