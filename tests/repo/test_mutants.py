"""The table of mutants fits the source and names tests that exist."""

import ast
import functools
import re

import pytest

from tests.mutants.run import ROOT
from tests.mutants.table import AREAS

MUTANTS = [mutant for mutants in AREAS.values() for mutant in mutants]


@functools.cache
def named_tests(path):
    """Return the tests of a file and its classes, as node ids."""
    found = {path}
    for node in ast.parse((ROOT / "tests" / path).read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{path}::{node.name}" if isinstance(node, ast.ClassDef) else path
        names = [each.name for each in members if isinstance(each, (*_FUNCTIONS,))]
        found |= {prefix} | {f"{prefix}::{name}" for name in names if name.startswith("test_")}
    return found


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_fits_source_and_names_tests(mutant):
    mutated = mutant.apply((ROOT / "src/tamatar_auth" / mutant.file).read_text())

    assert mutant.old != mutant.new
    ast.parse(mutated)
    assert mutant.tests
    for test in mutant.tests:
        path, _, _ = test.partition("::")
        assert re.sub(r"\[.*\]$", "", test) in named_tests(path)


def test_mutant_names_are_unique():
    names = [mutant.name for mutant in MUTANTS]

    assert sorted(names) == sorted(set(names))
    assert len(names) >= 60
