"""User data is an ordered multimap."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltag.core.domain.user_data import Pair, Size, UserData

KEYS = st.sampled_from(["a", "b", "AccountNumber", "é"])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
)
PAIRS = st.lists(st.tuples(KEYS, VALUES), max_size=6)


def weigh(value: object) -> int:
    return len(orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS, default=str))


def test_one_value_stands_as_itself_and_several_as_a_list() -> None:
    data = UserData().attach([("AccountNumber", "12345")])
    assert data.as_object() == {"AccountNumber": "12345"}
    assert data.attach([("AccountNumber", "67890")]).as_object() == {"AccountNumber": ["12345", "67890"]}


def test_update_leaves_one_value_and_keeps_the_place_of_the_key() -> None:
    data = UserData().attach([("a", 1), ("b", 2), ("a", 3)]).update([("a", 4)])
    assert list(data.as_object().items()) == [("a", 4), ("b", 2)]


def test_a_list_is_that_many_values() -> None:
    assert list(UserData().attach([("a", [1, [2], "x"])]).pairs()) == [("a", 1), ("a", [2]), ("a", "x")]


def test_an_empty_list_is_no_value() -> None:
    data = UserData().attach([("a", [])])
    assert not data
    assert "a" not in UserData().attach([("a", 1), ("b", 1)]).update([("a", [])])


def test_a_string_is_not_spread() -> None:
    assert UserData().attach([("a", "xy")]).as_object() == {"a": "xy"}


def test_without_drops_all_values_of_the_key() -> None:
    assert UserData().attach([("a", 1), ("a", 2), ("b", 3)]).without("a").as_object() == {"b": 3}


def test_equal_values_of_different_types_stay_what_they_are() -> None:
    after = UserData().attach([("a", 1)]).update([("a", True)])
    assert after.as_object()["a"] is True


@given(PAIRS, PAIRS)
def test_attaching_keeps_every_value_in_order(first: list[Pair], second: list[Pair]) -> None:
    data = UserData().attach(first).attach(second)
    for key in {key for key, _ in (*first, *second)}:
        expected = [
            each
            for name, value in (*first, *second)
            if name == key
            for each in (value if isinstance(value, list) else [value])
        ]
        assert [value for name, value in data.pairs() if name == key] == expected


@given(PAIRS)
def test_no_key_is_without_a_value(pairs: list[Pair]) -> None:
    assert all(UserData().attach(pairs).update(pairs).values.values())


@given(PAIRS)
def test_the_size_of_a_request_is_what_it_adds(pairs: list[Pair]) -> None:
    assert Size.of(pairs, weigh).pairs == sum(1 for _ in UserData().attach(pairs).pairs())


@pytest.mark.parametrize(
    ("pairs", "size"), [((), Size()), ((("é", "x"),), Size(1, 2 + 3)), ((("a", [1, 2]),), Size(2, 4))]
)
def test_size_counts_utf8_bytes(pairs: tuple[Pair, ...], size: Size) -> None:
    assert Size.of(pairs, weigh) == size
    assert UserData().attach(pairs).size(weigh) == size
