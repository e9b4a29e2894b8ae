"""The HTML of the web application, as plain as it can be."""
# ruff: noqa: INP001 - a module of an example

from html import escape
from typing import Any

from starlette.responses import HTMLResponse

_INPUTS = {
    "email": 'Address <input name="email" type="email" autocomplete="email" required>',
    "new_email": 'New address <input name="new_email" type="email" required>',
    "password": 'Password <input name="password" type="password"'
    ' autocomplete="current-password" required>',
    "new_password": 'New password <input name="new_password" type="password"'
    ' autocomplete="new-password" required>',
}


def page(title: str, *parts: str, **response: Any) -> HTMLResponse:
    """Return a page. The parts are HTML."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
    return HTMLResponse(f"{head}<h1>{title}</h1>{''.join(parts)}", **response)


def text(words: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(words)}</p>"


def links(**paths: str) -> str:
    """Return links, by their texts."""
    found = (f'<a href="{path}">{words.replace("_", " ")}</a>' for words, path in paths.items())
    return f"<p>{' · '.join(found)}</p>"


def form(action: str, button: str, *inputs: str, token: str = "") -> str:
    """Return a form that posts the named inputs, and a one-time token if there is one."""
    hidden = f'<input type="hidden" name="token" value="{escape(token)}">' if token else ""
    fields = "".join(f"<p><label>{_INPUTS[name]}</label></p>" for name in inputs)
    return f'<form method="post" action="{action}">{hidden}{fields}<button>{button}</button></form>'
