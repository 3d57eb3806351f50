"""Jobs of a sampler side by side, on as many processors as there are, with results in the order of the jobs."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """Results of jobs in their order; as many run at once as there are processors to use, in the caller's settings."""
    device = getattr(jax.config, "jax_default_device", None)  # settings of jax belong to a thread

    def one(job: tuple[Any, ...]) -> Any:
        with jax.enable_x64(True), jax.default_device(device):
            return function(*job)

    jobs = iter(jobs)
    ahead = list(itertools.islice(jobs, 2))
    if len(ahead) < 2 or processors() == 1:  # nothing to gain from threads
        yield from (function(*job) for job in itertools.chain(ahead, jobs))
        return
    jobs = itertools.chain(ahead, jobs)
    at_once = min(8, processors())
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Any] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(one, job))
                if len(waiting) > at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
