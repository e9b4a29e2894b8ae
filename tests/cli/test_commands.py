"""The table of commands: its short helps, and that they import nothing."""

import shlex
import sys

import pytest
import typer.main

from tamatar_auth.cli.app import app
from tamatar_auth.cli.commands import COMMANDS
from tamatar_auth.cli.lazy import CallCommand, LazyCommand
from tests.support.commands import run, tamatar


def lazy_commands(commands, words=()):
    """The lazy commands of a table, by the words that call them."""
    for name, command in commands.items():
        if isinstance(command, LazyCommand):
            yield (*words, name), command
        else:
            yield from lazy_commands(command.commands, (*words, name))


EVERY = dict(lazy_commands(COMMANDS))
GROUPS = sorted({words[:-1] for words in EVERY})


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_short_help_of_command_starts_its_help(words):
    command = EVERY[words]

    loaded = command.load(words[-1])

    assert loaded.name == words[-1]
    assert loaded.help.startswith(command.help)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_command_that_calls_a_service_has_output_option(words):
    options = {option for each in EVERY[words].load(words[-1]).params for option in each.opts}

    assert "--output" in options or not isinstance(EVERY[words], CallCommand)


def examples():
    """The examples in the help of every group."""
    program = typer.main.get_command(app)
    helps = [program.epilog, *(each.epilog for each in COMMANDS.values())]
    lines = [line.strip() for text in helps if text for line in text.splitlines()]
    return [line for line in lines if line.startswith("tamatar-auth ")]


@pytest.mark.parametrize("example", examples())
def test_example_in_help_is_a_valid_command_line(example):
    command, name = typer.main.get_command(app), "tamatar-auth"
    words = shlex.split(example.partition(" > ")[0])[1:]
    context = command.make_context(name, words)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = command.make_context(name, list(words), parent=context)

    assert len(f"    {example}") <= 80


def test_help_of_every_group_has_an_example():
    groups = {words[0] for words in EVERY if len(words) > 1}

    assert groups == {line.split()[1] for line in examples()} & groups


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_help_of_group_prints_whole_short_helps(tmp_path, group):
    printed = tamatar(*group, "--help", cwd=tmp_path).stdout

    named = {words: command for words, command in EVERY.items() if words[:-1] == group}
    for words, command in named.items():
        assert (f"  {words[-1]} " in printed) is not command.hidden
        assert command.hidden or f" {command.help}\n" in printed


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_help_of_group_imports_no_command(tmp_path, group):
    program = """
import sys
from tamatar_auth.__main__ import main
try:
    main()
finally:
    print("imported", *sys.modules)
"""
    printed = run(sys.executable, "-c", program, *group, "--help", cwd=tmp_path).stdout

    imported = printed.rpartition("imported ")[2].split()
    assert "tamatar_auth.cli.commands" in imported
    assert not {"grpc", "psycopg", "rich", "google.protobuf"} & set(imported)
    ours = {name.split(".")[1] for name in imported if name.startswith("tamatar_auth.")}
    assert ours <= {"__main__", "cli", "config"}
