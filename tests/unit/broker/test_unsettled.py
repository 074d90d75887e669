"""Which messages may be acknowledged: only those of which every part is settled."""

from hypothesis import given
from hypothesis import strategies as st

from calltag.core.broker.rabbitmq.consumer import Messages, Settled


def test_a_message_waits_for_all_its_parts() -> None:
    messages = Messages()
    [one, two] = messages.took(7, 2)
    assert messages.settle([two]) == Settled(None, [])
    assert messages.settle([one]) == Settled(7, [])
    assert messages.unsettled == 0


def test_those_in_order_are_acknowledged_at_once_and_others_one_by_one() -> None:
    messages = Messages()
    tags = [messages.took(tag, 1)[0] for tag in (1, 2, 3, 4)]
    assert messages.settle([tags[0], tags[1], tags[3]]) == Settled(2, [4])
    assert messages.settle([tags[3]]) == Settled(None, [])
    assert messages.settle([tags[2]]) == Settled(3, [])


def test_settling_through_a_part_leaves_its_message_open_until_the_last() -> None:
    messages = Messages()
    [first] = messages.took(1, 1)
    [second, third] = messages.took(2, 2)
    assert messages.settle_through(second) == Settled(1, [])
    assert messages.settle_through(third) == Settled(2, [])
    assert messages.settle_through(first) == Settled(None, [])


@given(st.data())
def test_every_message_is_acknowledged_once_and_never_before_its_parts_are_settled(data: st.DataObject) -> None:
    messages, parts = Messages(), {}
    for tag in range(1, 7):
        parts[tag] = list(messages.took(tag, data.draw(st.integers(1, 3))))
    order = data.draw(st.permutations([each for of_one in parts.values() for each in of_one]))
    settled: set[int] = set()
    acknowledged: list[int] = []
    while order:
        some, order = order[: (count := data.draw(st.integers(1, 4)))], order[count:]
        settled.update(some)
        done = messages.settle(some)
        if done.through is not None:
            acknowledged += [tag for tag in parts if tag <= done.through and tag not in acknowledged]
        acknowledged += done.beyond
        assert all(settled.issuperset(parts[tag]) for tag in acknowledged)
    assert sorted(acknowledged) == list(parts)
    assert messages.unsettled == 0
