"""The documentation site has every page, and its check finds links that lead nowhere."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = '<h1 id="top">Page</h1><img src="docs/picture.svg">'


@pytest.fixture
def website() -> ModuleType:
    spec = importlib.util.spec_from_file_location("website", ROOT / "deploy" / "website.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def html(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "docs" / "picture.svg").write_text("<svg/>")
    (tmp_path / "docs" / "index.html").write_text('<h2 id="limits">Limits</h2>')
    return tmp_path


@pytest.mark.parametrize(
    "link", ["#top", "docs/", "docs/index.html#limits", "docs/picture.svg", "https://a.example/b#c"]
)
def test_a_good_link_passes(website: ModuleType, html: Path, link: str) -> None:
    (html / "index.html").write_text(f'{PAGE}<a href="{link}">')
    assert website.broken(html) == []


@pytest.mark.parametrize("link", ["#gone", "gone.html", "docs/index.html#gone", "docs/gone.json", "../docs/index.html"])
def test_a_broken_link_is_found(website: ModuleType, html: Path, link: str) -> None:
    (html / "index.html").write_text(f'{PAGE}<a href="{link}">')
    assert website.broken(html) == [f"index.html: {link} leads nowhere"]


def test_a_missing_picture_is_found(website: ModuleType, html: Path) -> None:
    (html / "docs" / "picture.svg").unlink()
    assert website.broken(html) == ["index.html: docs/picture.svg leads nowhere"]


def test_every_page_is_in_the_navigation_once(website: ModuleType) -> None:
    navigation = website.navigation()
    pages = [path for path in website.files() if path.endswith(".md") and path.startswith("docs/")]
    assert len(pages) > 20
    assert [page for page in pages if navigation.count(f'"{page}"') != 1] == []
