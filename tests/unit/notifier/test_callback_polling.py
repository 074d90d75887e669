"""Scripts for pages: which name they may call, what they may hold, and whose requests count."""

from collections.abc import Mapping
from urllib.parse import urlencode

import pytest

from calltag.core.bayeux.messages import BayeuxLimits, CodecError, decode, messages_of_form
from calltag.core.http.origin import AllowedOrigins
from calltag.notifier.browsers import WRONG_NAME, Origins, WrongCallback, callback_of, page_is_known, script

COOKIE = {"cookie": "JSESSIONID=x"}
BASIC = {"authorization": "Basic YTpi"}
OURS, THEIRS, FRIENDS = "http://ours.example/desk", "http://theirs.example/", "https://friends.example/page"


@pytest.mark.parametrize("name", ["_cometd_jsonp_0", "__jsonp12__", "jsonpcallback", "a.b.$c_9", "$", "x" * 64])
def test_a_callback_is_a_name_or_names_with_dots_between(name: str) -> None:
    assert callback_of(urlencode({"jsonp": name}).encode()) == name.encode()


def test_a_callback_that_is_not_named_is_the_usual_one() -> None:
    assert callback_of(b"message=[]") == b"jsonpcallback"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 65,
        "1a",
        "a-b",
        "a b",
        "a.",
        ".a",
        "a..b",
        "a()",
        "a;b",
        "a[0]",
        "alert(1)//",
        "<b>",
        "a\n",
        "é",
        "a\u2028",
    ],
)
def test_what_could_be_more_than_a_name_is_refused_without_repeating_it(name: str) -> None:
    with pytest.raises(WrongCallback) as refused:
        callback_of(urlencode({"jsonp": name}).encode())
    assert str(refused.value) == WRONG_NAME


def test_one_callback_is_named() -> None:
    with pytest.raises(WrongCallback):
        callback_of(b"jsonp=a&jsonp=b")


def test_messages_may_come_in_several_parameters() -> None:
    query = urlencode([("message", '[{"id":"1"},{"id":"2"}]'), ("jsonp", "f"), ("message", '{"id":"é"}')])
    messages = decode(messages_of_form(query.encode(), "query"), BayeuxLimits())
    assert messages == [{"id": "1"}, {"id": "2"}, {"id": "é"}]


@pytest.mark.parametrize(("query", "word"), [("jsonp=f", "query has no field"), ("message=%FF", "query is not UTF-8")])
def test_a_query_without_messages_is_refused(query: str, word: str) -> None:
    with pytest.raises(CodecError, match=word):
        messages_of_form(query.encode(), "query")


def test_nothing_in_an_answer_can_end_the_script() -> None:
    answer = script(b"f", '[{"a":"</script>&\u2028\u2029é"}]'.encode())
    assert answer == (b'/**/f([{"a":"\\u003c/script\\u003e\\u0026\\u2028\\u2029' + "é".encode() + b'"}]);')


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        (COOKIE | {"sec-fetch-site": "same-origin"}, True),
        (COOKIE | {"sec-fetch-site": "none"}, True),
        (COOKIE | {"referer": OURS}, True),
        (COOKIE | {"referer": FRIENDS, "sec-fetch-site": "cross-site"}, True),
        (COOKIE | {"origin": "https://friends.example"}, True),
        (COOKIE | {"origin": "http://theirs.example", "sec-fetch-site": "same-origin"}, False),
        (COOKIE | {"sec-fetch-site": "cross-site"}, False),
        (COOKIE | {"sec-fetch-site": "same-site"}, False),
        (COOKIE | {"sec-fetch-site": "cross-site", "referer": THEIRS}, False),
        (COOKIE | {"sec-fetch-site": "same-site", "referer": "http://sub.ours.example/"}, False),
        (COOKIE | {"referer": THEIRS}, False),
        (COOKIE | {"referer": "http://ours.example:8080/"}, False),
        (COOKIE | {"referer": "http://[/"}, False),
        (COOKIE, False),
        (BASIC, True),
        (BASIC | COOKIE, True),
        (BASIC | {"referer": THEIRS}, False),
        (BASIC | {"sec-fetch-site": "cross-site"}, False),
        ({}, True),
    ],
)
def test_a_request_counts_as_its_users_where_its_page_is_known(headers: Mapping[str, str], known: bool) -> None:
    origins = Origins(AllowedOrigins(["https://friends.example"]))
    sent = {"host": "ours.example", **headers}
    assert page_is_known([(name.encode(), value.encode()) for name, value in sent.items()], origins) is known
