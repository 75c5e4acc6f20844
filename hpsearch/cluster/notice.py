"""Notice that a worker is about to go: SIGTERM to its process, or Ray draining its node.

Spot markets give two minutes (AWS) or 30 s (Google); KubeRay's SIGTERM to `ray start --block`, Ray's autoscaler and
`ray drain-node` all end in a drain, during which Ray puts nothing new on the node.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""How often Ray is asked at most; one question takes about a millisecond."""


class Notice:
    """Says whether the worker should keep its trial's state and go.

    Args:
        is_draining: asks whether this machine is about to go; asked at most every `LOOK_S` seconds.
    """

    def __init__(self, is_draining: Callable[[], bool] = lambda: False) -> None:
        self._is_draining = is_draining
        self._is_given = False
        self._asked_at = float("-inf")

    def listen(self) -> None:
        """Take SIGTERM for a notice; a second one ends the process as it would have before."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)

    def is_given(self) -> bool:
        """Say whether notice has been given; once given it stays."""
        if not self._is_given and time.monotonic() - self._asked_at > LOOK_S:
            self._is_given = self._is_draining()
            self._asked_at = time.monotonic()
        return self._is_given

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_given = True
        signal.signal(signal.SIGTERM, self._before)


def is_draining_here() -> bool:
    """Say whether Ray drains the node of this process."""
    import ray
    from ray._private import state  # Ray has no public way to ask; its own Serve asks like this

    try:
        return ray.get_runtime_context().get_node_id() in state.state.get_draining_nodes()
    except Exception:  # whatever it is, not knowing is no reason to lose the trial
        logger.debug("Ray does not say whether this node is drained", exc_info=True)
        return False
