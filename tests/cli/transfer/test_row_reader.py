"""Rows of files: a field that occurs twice."""

import io

import pytest

from tamatar_auth.cli.transfer.file_formats import FileFormat, InvalidRow
from tamatar_auth.cli.transfer.row_reader import read_rows


def read(text):
    (row,) = read_rows(io.StringIO(text), FileFormat.JSONL)
    return row.user


@pytest.mark.parametrize(
    ("text", "field", "name"),
    [
        ('{"email": "a@x.example", "email": "b@x.example"}', "email", "email"),
        ('{"email": "a@x.example", "email": "a@x.example"}', "email", "email"),
        ('{"email": null, "email": "a@x.example"}', "email", "email"),
        ('{"is_active": true, "is_active": false}', "is_active", "is_active"),
        ('{"profile": {"bio": "a"}, "profile": {"bio": "b"}}', "profile", "profile"),
        ('{"profile": {"bio": "a", "bio": "b"}}', "profile.bio", "bio"),
        ('{"password_kept": true, "password_kept": true}', "", "password_kept"),
    ],
)
def test_field_that_occurs_twice_is_refused(text, field, name):
    user = read(text)

    assert isinstance(user, InvalidRow)
    assert (user.field, user.rule) == (field, f"has a field twice: {name!r}")


@pytest.mark.parametrize("name", ["Email", "EMAIL", "email "])
def test_field_in_other_notation_is_unknown(name):
    user = read(f'{{"email": "a@x.example", "{name}": "b@x.example"}}')

    assert isinstance(user, InvalidRow)
    assert user.rule == f"has an unknown field: {name!r}"


@pytest.mark.parametrize("header", ["email,Email", "email,email ", "email,email"])
def test_column_in_other_notation_is_refused(header):
    with pytest.raises(Exception, match="The first line"):
        list(read_rows(io.StringIO(f"{header}\na@x.example,b@x.example\n"), FileFormat.CSV))


def test_equal_names_in_different_objects_are_read():
    user = read('{"email": "a@x.example", "profile": {"bio": "bio"}}')

    assert user.profile.bio == "bio"
