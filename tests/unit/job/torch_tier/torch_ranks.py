"""How a forked rank of a test ends."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import torch.distributed as dist


def leave(queue: Any = None) -> NoReturn:
    """Ends this rank at once: torn down in a forked process, gloo's process group may wait for its threads for ever.

    ``queue``: a `multiprocessing.Queue` whose words must be out first.
    """
    dist.destroy_process_group()
    if queue is not None:
        queue.close()
        queue.join_thread()
    os._exit(0)
