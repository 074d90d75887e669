"""Every target under a few hundred inputs, the same ones each time, and under a short run of the fuzzer."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.catalogue import TARGETS
from fuzz.target import LOOP, Target, log_nothing
from parts.command import UNMEASURED

TESTS = Path(__file__).parent.parent
RUNS = {False: 4_000, True: 60}
EXAMPLES = {False: 300, True: 25}


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Bytes, words in a row, and seeds in which a piece is another one."""
    words = st.lists(st.sampled_from(target.words) | st.binary(max_size=4), max_size=12).map(b"".join)
    places = st.integers(0, 200)
    changed = st.builds(
        lambda seed, start, size, new: seed[:start] + new + seed[start + size :],
        st.sampled_from(target.seeds), places, st.integers(0, 8), words,
    )  # fmt: skip
    return (st.binary(max_size=300) | words | changed).map(lambda data: data[: target.max_bytes])


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    log_nothing()
    yield
    LOOP.close()
    structlog.reset_defaults()


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_the_invariants(name: str) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES[target.slow],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(data=inputs(target))
    def check(data: bytes) -> None:
        target.one_input(data)

    for seed in target.seeds:
        target.one_input(seed)
    check()


if find_spec("atheris") is not None:

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("name", TARGETS)
    def test_the_fuzzer_finds_no_input_that_does(name: str, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "fuzz", "--target", name, "--seed", "1", "--corpus", str(tmp_path)]
        runs = RUNS[TARGETS[name].slow]
        ended = subprocess.run(
            [*command, "--runs", str(runs)], cwd=TESTS, env={**os.environ, **UNMEASURED}, capture_output=True,
            text=True, check=False, timeout=500,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-4_000:]
        # It may do a few more than asked: those with which it begins are not counted against the limit.
        done = re.search(r"^Done (\d+) runs", ended.stderr, re.MULTILINE)
        assert done is not None and int(done[1]) >= runs, ended.stderr[-4_000:]
