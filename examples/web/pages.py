"""The HTML of the web application, and the forms that it reads."""
# ruff: noqa: INP001 - a module of an example

from html import escape
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

MAX_FORM_SIZE = 32768
"""The largest form in bytes. Answers of passkeys take a few kilobytes."""

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/static/style.css">
<script src="/static/passkeys.js" defer></script>
"""

_CODE = 'inputmode="numeric" autocomplete="one-time-code" maxlength="10" required'
_INPUTS = {
    "email": 'Address <input name="email" type="email" autocomplete="email" required>',
    "any_email": 'Address (may be empty) <input name="any_email" type="email"'
    ' autocomplete="email">',
    "new_email": 'New address <input name="new_email" type="email" required>',
    "password": 'Password <input name="password" type="password"'
    ' autocomplete="current-password" required>',
    "new_password": 'New password <input name="new_password" type="password"'
    ' autocomplete="new-password" required>',
    "totp_code": f'Six digits of your app <input name="totp_code" {_CODE}>',
    "recovery_code": 'Recovery code <input name="recovery_code" autocomplete="off" required>',
    "label": 'Name of the passkey <input name="label" value="My passkey" maxlength="100" required>',
}


def page(title: str, *parts: str, **response: Any) -> HTMLResponse:
    """Return a page. The parts are HTML."""
    body = f"<title>{title}</title>\n<h1>{title}</h1>\n" + "\n".join(parts)
    return HTMLResponse(HEAD + body, **response)


def text(words: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(words)}</p>"


def links(**paths: str) -> str:
    """Return links, by their texts."""
    found = (f'<a href="{path}">{words.replace("_", " ")}</a>' for words, path in paths.items())
    return f"<p>{' · '.join(found)}</p>"


def form(action: str, button: str, *inputs: str, attributes: str = "", **hidden: str) -> str:
    """Return a form that posts the named inputs and the hidden values."""
    values = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in hidden.items()
    )
    fields = "".join(f"<label>{_INPUTS[name]}</label>" for name in inputs)
    return (
        f'<form method="post" action="{action}" {attributes}>{values}{fields}'
        f"<button>{escape(button)}</button><output></output></form>"
    )


def passkey_form(
    action: str, button: str, *inputs: str, create: str = "", get: str = "", **hidden: str
) -> str:
    """Return a form whose empty hidden value passkeys.js fills, by options to create or to get."""
    kind, options = ("create", create) if create else ("get", get)
    attributes = f'data-{kind}="{escape(options)}"'
    without_script = "<noscript><p>A passkey needs JavaScript.</p></noscript>"
    return without_script + form(action, button, *inputs, attributes=attributes, **hidden)


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form that are filled."""
    if int(request.headers.get("content-length", MAX_FORM_SIZE + 1)) > MAX_FORM_SIZE:
        raise HTTPException(413)
    fields = parse_qs((await request.body()).decode(errors="replace"))
    return {name: values[0] for name, values in fields.items()}


async def posted(request: Request, *names: str) -> list[str]:
    """Return the named fields of a form, all of which must be filled."""
    fields = await read_form(request)
    if not fields.keys() >= set(names):
        raise HTTPException(400, "A field is empty.")
    return [fields[name] for name in names]
