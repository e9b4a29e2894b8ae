"""docs/reference: the pages of the Python API and the glossary are complete and in order."""

import re

import pytest

from tamatar_auth import client
from tamatar_auth.client import aio
from tests.support.commands import ROOT

PYTHON_API = (ROOT / "docs/reference/python.md").read_text()
DOCUMENTED = set(re.findall(r"(?m)^::: (\S+)$", PYTHON_API))

GLOSSARY = (ROOT / "docs/reference/glossary.md").read_text()
TABLES = [
    re.findall(r"(?m)^\| (\S.*?) \| (.*) \|$", part)[1:] for part in GLOSSARY.split("## ")[1:]
]

NOT_DOCUMENTED = {"AAL1", "AAL2", "ErrorReason", "OPEN_METHODS"}
"""Values of a proto's enums, and a constant that the option `open_methods` explains."""


@pytest.mark.parametrize("package", [client, aio])
def test_python_page_has_every_public_name(package):
    for name in set(package.__all__) - NOT_DOCUMENTED:
        module = getattr(package, name).__module__
        assert {f"{module}.{name}", module} & DOCUMENTED, name


@pytest.mark.parametrize("table", TABLES)
def test_glossary_terms_are_sorted_short_sentences(table):
    terms = [term for term, _ in table]

    assert terms == sorted(terms, key=str.casefold)
    for term, meaning in table:
        assert len(meaning.split()) <= 25, term
        assert not meaning.endswith("."), term
