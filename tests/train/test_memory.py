"""Memory that training keeps."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import textwrap

import pytest

FAULTS = textwrap.dedent("""
    import resource, torch
    from packlight.train.memory import kept_memory
    def faults(times):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            torch.ones(16_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    torch.set_num_threads(1)
    faults(1)
    outside = faults(3)
    with kept_memory():
        faults(30)
        inside = faults(3)
    print(outside, inside, faults(3))
""")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_block_that_is_freed_and_asked_for_again_is_not_fetched_from_the_system_again(monkeypatch):
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    outside, inside, after = map(int, done.stdout.split())
    pages = 3 * 64_000_000 // resource.getpagesize()
    assert outside > pages / 2 and inside < pages / 100 and after > pages / 2
