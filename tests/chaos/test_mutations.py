"""The mutations are of the code as it is now."""

import ast
from pathlib import Path

import pytest

from chaos.mutations import ALL, HOMES, Mutation, astray
from parts.session_home_model import Rules

ROOT = Path(__file__).parents[2]


def test_each_mutation_finds_its_text() -> None:
    assert astray(ALL) == []


@pytest.mark.parametrize("mutation", [each for each in ALL if each.test], ids=lambda each: each.name)
def test_the_test_of_a_mutation_is_there(mutation: Mutation) -> None:
    path, _, name = mutation.test.partition("::")
    tests = ast.parse((ROOT / path).read_text()).body
    assert name in {each.name for each in tests if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_rule_of_the_model_has_a_mutation() -> None:
    broken = {each.name.removeprefix("breaks the rule ").partition(":")[0] for each in HOMES}
    assert broken == set(Rules.__slots__)
