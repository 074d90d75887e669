"""Messages in a form, and forms that are none."""

import pytest

from calltag.core.bayeux.messages import CodecError, messages_of_form


@pytest.mark.parametrize(
    ("form", "messages"),
    [
        (b"message=%7B%22a%22:1%7D", b'[{"a":1}]'),
        (b"message=%5B1,2%5D&message=3", b"[1,2,3]"),
        (b"message=%EF%BB%BF%5B%5D&message=+4+", b"[4]"),
    ],
)
def test_all_fields_named_message_are_one_array(form: bytes, messages: bytes) -> None:
    assert messages_of_form(form) == messages


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (b"other=1", "no field named message"),
        (b"message=\xff", "is not UTF-8"),
        (b"message=%ff", "is not UTF-8"),
        (b"&".join([b"message=1"] * 101), "more than 100 fields"),
    ],
)
def test_what_is_no_form_is_refused(form: bytes, error: str) -> None:
    with pytest.raises(CodecError, match=error):
        messages_of_form(form)
