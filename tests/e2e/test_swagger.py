"""The page that shows the API works where nothing but calltag can be reached."""

import re
from urllib.parse import urljoin

import httpx

from parts.system import System


async def test_the_page_needs_no_other_host_and_all_its_files_are_there(system: System) -> None:
    async with httpx.AsyncClient(base_url=system.gateway_url) as http:
        page = await http.get("/docs")
        assert page.status_code == 200
        named = re.findall(r"""(?:src|href)=["']([^"']+)["']|url: ["']([^"']+)["']""", page.text)
        addresses = {urljoin(f"{system.gateway_url}/docs", one or other) for one, other in named}
        assert {address.rpartition("/")[2] for address in addresses} == {
            "swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "openapi.json",
        }  # fmt: skip
        for address in addresses:
            assert address.startswith(system.gateway_url), address
            assert (await http.get(address)).status_code == 200, address
        assert "://" not in page.text
        assert '"validatorUrl": "none"' in page.text


async def test_the_style_sheet_fetches_nothing(system: System) -> None:
    async with httpx.AsyncClient(base_url=system.gateway_url) as http:
        style = (await http.get("/docs/files/swagger-ui.css")).text
    assert all(url.lstrip("\"'").startswith("data:") for url in re.findall(r"url\(([^)]*)", style))
    assert "@import" not in style
