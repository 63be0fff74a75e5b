"""What may go wrong on purpose, and how likely it is."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Faults:
    """Switches for what goes wrong; all are off until a test sets them, at any time.

    Attributes:
        lose_queue_puts: Probability that an item put into a Queue is lost.
        repeat_queue_gets: Probability that an item taken from a Queue is delivered once more later.
        preempt_after: Seconds after which a running call is preempted; ``None`` for never.
        preempt_share: The fraction of calls that ``preempt_after`` strikes, each once.
        crash_share: The fraction of calls whose container is killed while it runs, each once.
        crash_after: How many seconds after the call began in the container that happens.
        crash_limit: How many crashes fail a call as an internal failure; fewer start it again.
            ``None`` for three in an ephemeral app and never in a deployed one.
        expire_results: Answer every question for a result as if it had expired.
        unknown_calls: Answer NOT_FOUND for every call id.
        refuse_token: Refuse the token of every client.
        rpc_errors: Probability, by RPC name, of UNAVAILABLE in place of an answer.
        rpc_delay: Seconds by which every answer is late.
        cold_start: Seconds by which every start of a container is late.
        seed: Where the sequence of random decisions starts.
    """

    lose_queue_puts: float = 0.0
    repeat_queue_gets: float = 0.0
    preempt_after: float | None = None
    preempt_share: float = 1.0
    crash_share: float = 0.0
    crash_after: float = 0.5
    crash_limit: int | None = None
    expire_results: bool = False
    unknown_calls: bool = False
    refuse_token: bool = False
    rpc_errors: dict[str, float] = field(default_factory=dict)
    rpc_delay: float = 0.0
    cold_start: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def strikes(self, probability: float) -> bool:
        """Decide one case; certain and impossible ones leave the sequence as it is."""
        if probability <= 0 or probability >= 1:
            return probability >= 1
        return self._random.random() < probability
