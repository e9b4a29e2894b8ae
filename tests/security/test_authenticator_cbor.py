"""CBOR of authenticators: plain items are decoded, and all others are refused unread."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webauthn.helpers.exceptions import InvalidCBORData

from tamatar_auth.security.authenticator_cbor import MAX_DEPTH, decode, require_plain

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=300)
    | st.text(max_size=300)
)
keys = st.integers(-(2**64), 2**64 - 1) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=MAX_DEPTH
)


def authenticator_data(flags, content=b""):
    return bytes(32) + bytes([flags]) + bytes(4) + content


def shared(levels):
    """Return an array with an item that is ten of the item before it, on each level."""
    first = b"\xd8\x1c\x81\x00"
    rest = (b"\xd8\x1c\x8a" + b"\xd8\x1d\x18" + bytes([each]) for each in range(levels))
    return b"\x98" + bytes([levels + 1]) + first + b"".join(rest)


REFUSED = {
    "tag": b"\xc0\x60",
    "tag_in_array": b"\x81\xd8\x23\x60",
    "tag_in_map": b"\xa1\x01\xd8\x1c\x80",
    "tag_as_key": b"\xa1\xd8\x25\x40\x01",
    "shared_values": shared(100),
    "indefinite_array": b"\x9f\xff",
    "indefinite_map": b"\xbf\xff",
    "indefinite_bytes": b"\x5f\x41a\xff",
    "reserved_size": b"\x1c",
    "deep": b"\x81" * (MAX_DEPTH + 1) + b"\x00",
    "very_deep": b"\x81" * 8000 + b"\x00",
    "nothing": b"",
    "no_items": b"\x9b" + b"\xff" * 8,
    "no_pairs": b"\xbb" + b"\xff" * 8,
    "no_bytes": b"\x5b" + b"\xff" * 8,
    "half_a_number": b"\x19\x01",
}


@given(values)
def test_plain_item_is_decoded(value):
    assert decode(cbor2.dumps(value)) == value


@given(values, st.integers(1, 20))
def test_item_that_is_cut_off_is_refused(value, size):
    with pytest.raises(InvalidCBORData):
        decode(cbor2.dumps(value)[:-size])


@pytest.mark.parametrize("name", REFUSED)
def test_other_item_is_refused(name):
    with pytest.raises(InvalidCBORData):
        decode(REFUSED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_authenticator_data_with_another_item_is_refused(name):
    with pytest.raises(InvalidCBORData):
        require_plain(authenticator_data(0x80, REFUSED[name]))


@pytest.mark.parametrize(
    "data",
    [
        "text",
        [0] * 37,
        bytes(36),
        authenticator_data(0, b"x"),
        authenticator_data(0x80),
        authenticator_data(0x40, bytes(16) + b"\xff\xff"),
        authenticator_data(0xC0, bytes(18) + b"\xa0"),
        authenticator_data(0xC0, bytes(18) + b"\xa1\x18\x01\x01\xa0"),
        authenticator_data(0x80, b"\xa0\xa0"),
        authenticator_data(0x80, b"\x1b" + bytes(8)),
    ],
)
def test_malformed_authenticator_data_is_refused(data):
    with pytest.raises(InvalidCBORData):
        require_plain(data)


@pytest.mark.parametrize(
    ("flags", "content"),
    [
        (0x05, b""),
        (0x45, bytes(16) + b"\x00\x01x" + b"\xa0"),
        (0xC5, bytes(16) + b"\x00\x01x" + b"\xa1\x01\x02" + b"\xa1\x61x\xf5"),
        (0x85, b"\xa1\x61x\xf5"),
    ],
)
def test_plain_authenticator_data_is_accepted(flags, content):
    require_plain(authenticator_data(flags, content))
