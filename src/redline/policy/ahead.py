"""The next update's responses are drawn while this update's are learned from.

They are then one update old: the policy that drew them is not yet the one that learns from them. PPO's ratio
is taken against the re-scored policy, and ``policy.importance_cap`` weights the rest.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from redline.sampling.protocol import Drawn
from redline.types import JsonObject


class Ahead:
    """One batch under way. ``prepare`` takes an update's number and returns what will draw its responses; the
    weights to draw from are those at the time of the call."""

    def __init__(self, prepare: Callable[[int], Callable[[], Drawn]]):
        self.prepare = prepare
        self.pool = ThreadPoolExecutor(1)
        self.step = -1  # the update that the batch is for
        self.batch: Future[Drawn] | None = None

    def start(self, step: int) -> None:
        """Begin to draw the responses of an update."""
        self.step, self.batch = step, self.pool.submit(self.prepare(step))

    def take(self, step: int) -> Drawn:
        """The responses of an update; drawn now where they are not under way."""
        if self.batch is None or self.step != step:
            return self.prepare(step)()
        drawn, self.batch = self.batch.result(), None
        return drawn

    def state_dict(self) -> JsonObject:
        """The batch under way, once it is there: a continued training must not draw it again, from other
        weights."""
        if self.batch is None:
            return {}
        drawn = self.batch.result()
        logprobs = None if drawn.logprobs is None else [list(row) for row in drawn.logprobs]
        return {"step": self.step, "ids": [list(row) for row in drawn.ids], "logprobs": logprobs}

    def load_state_dict(self, state: JsonObject) -> None:
        if state:
            self.step, self.batch = int(state["step"]), Future()
            self.batch.set_result(Drawn(state["ids"], state["logprobs"]))
