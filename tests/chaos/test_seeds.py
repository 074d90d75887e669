"""The short form of `make chaos`: a few seeds, each a run of real processes under faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.checker import check
from chaos.running import Plan, run
from chaos.schedule import ALL, SERVICES, schedule
from parts.rabbitmq import RabbitMq

SEEDS = (1, 2)
SECONDS = 20


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    """A broker of these tests' own: it is killed."""
    server = RabbitMq(tmp_path_factory.mktemp("chaos-broker"))
    try:
        server.start()
        yield server
    finally:
        server.end()


def test_the_schedule_follows_from_the_seed() -> None:
    assert schedule(7, 60) == schedule(7, 60)
    assert schedule(7, 60) != schedule(8, 60)
    assert {step.kind for seed in SEEDS for step in Plan(seed, SECONDS).steps} == set(ALL)
    killed = {step.target for seed in range(40) for step in schedule(seed, 60) if step.kind == "kill"}
    assert killed == set(SERVICES)


@pytest.mark.heavy
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_promise_is_kept_under_fire(seed: int, broker: RabbitMq, tmp_path: Path) -> None:
    plan = Plan(seed, SECONDS)
    print(plan.text())
    violations = check(await run(plan, tmp_path, broker))
    assert not violations, "\n".join(map(str, violations))
