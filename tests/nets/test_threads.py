"""The helpers of the native kernels: many callers at once, and processes that fork."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from marl.nets import kernels, linear

pytestmark = pytest.mark.skipif(not kernels.usable(torch.zeros(1)), reason="needs a C++ compiler")


def test_callers_at_the_same_time_get_their_own_results():
    """One of them has the helpers, the others work alone: nobody waits for, or sees, another's rows."""
    layer = linear(64, 64, generator=torch.Generator().manual_seed(0))
    inputs = [torch.randn(3000, 64, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    before = torch.get_num_threads()
    with torch.no_grad():
        torch.set_num_threads(1)
        expected = [layer(x) for x in inputs]

        def run(i):
            with torch.no_grad():
                return all(torch.equal(layer(inputs[i % 4]), expected[i % 4]) for _ in range(20))

        try:
            torch.set_num_threads(3)
            with ThreadPoolExecutor(4) as pool:
                assert all(pool.map(run, range(8)))
        finally:
            torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_helpers_of_its_own():
    layer, x = linear(64, 64, generator=torch.Generator().manual_seed(0)), torch.ones(3000, 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.no_grad():
            expected = layer(x).numpy()
            child = os.fork()
            if child == 0:  # the comparison is numpy's: torch's own threads do not outlive a fork
                os._exit(0 if (layer(x).numpy() == expected).all() else 1)
    finally:
        torch.set_num_threads(before)
    deadline = time.monotonic() + 20
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done == (child, 0)
