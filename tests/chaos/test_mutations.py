"""The mutations are of the code as it is now."""

from chaos.mutations import MUTATIONS, astray


def test_each_mutation_finds_its_text() -> None:
    assert astray(MUTATIONS) == []
