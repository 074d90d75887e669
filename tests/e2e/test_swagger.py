"""The page that shows the API works where nothing but calltag can be reached."""

import re
from urllib.parse import urljoin

import httpx

from parts.chromium import Page
from parts.eventually import eventually
from parts.system import System

WATCH = """
window.violations = []
addEventListener('securitypolicyviolation', (event) => {
  violations.push(event.violatedDirective + ' ' + event.blockedURI)
})
"""
INJECT = """
(() => {
  const script = document.createElement('script')
  script.textContent = 'window.injected = true'
  document.body.append(script)
  return window.injected === true
})()
"""
VERSION = "document.querySelector('.opblock [data-path=\"/api/v2/diagnostics/version\"]').closest('.opblock')"


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


async def test_no_other_page_shows_it_in_a_frame(system: System) -> None:
    async with httpx.AsyncClient(base_url=system.gateway_url) as http:
        policy = (await http.get("/docs")).headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy


async def test_the_page_works_in_a_browser_and_runs_no_script_that_is_not_its_own(system: System, page: Page) -> None:
    await page.call("Page.enable")
    await page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    await page.open(f"{system.gateway_url}/docs")

    async def shows(expression: str) -> bool:
        return bool(await page.evaluate(f"Boolean({expression})"))

    await eventually(lambda: shows("document.querySelectorAll('.opblock').length > 5"))
    await page.evaluate(f"{VERSION}.querySelector('.opblock-summary-control').click()")
    await eventually(lambda: shows(f"{VERSION}.querySelector('.try-out__btn')"))
    await page.evaluate(f"{VERSION}.querySelector('.try-out__btn').click()")
    await eventually(lambda: shows(f"{VERSION}.querySelector('.execute')"))
    await page.evaluate(f"{VERSION}.querySelector('.execute').click()")
    status = f"{VERSION}.querySelector('.live-responses-table tbody .response-col_status')?.textContent.trim()"
    await eventually(lambda: shows(f"{status}.startsWith('200')"))
    assert await page.evaluate("violations") == []
    assert not await page.evaluate(INJECT)
    await eventually(lambda: shows("violations.length == 1 && violations[0] == 'script-src-elem inline'"))


OPERATION = "document.querySelector('.opblock-{method} [data-path=\"{path}\"]').closest('.opblock')"
FILL = """
((selector, text) => {{
  const input = document.querySelector(selector)
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, text)
  input.dispatchEvent(new Event('input', {{ bubbles: true }}))
}})('{selector}', '{text}')
"""


async def test_a_person_authorizes_and_tries_an_operation(system: System, page: Page) -> None:
    await page.open(f"{system.gateway_url}/docs")

    async def shows(expression: str) -> bool:
        return bool(await page.evaluate(f"Boolean({expression})"))

    async def click(expression: str) -> None:
        await eventually(lambda: shows(expression))
        await page.evaluate(f"{expression}.click()")

    await click("document.querySelector('.auth-wrapper .authorize')")
    await eventually(lambda: shows("document.querySelector('#auth-basic-username')"))
    await page.evaluate(FILL.format(selector="#auth-basic-username", text="alice"))
    await page.evaluate(FILL.format(selector="#auth-basic-password", text="demo"))
    await click("document.querySelector('#auth-basic-username').closest('form').querySelector('.authorize')")
    await click("document.querySelector('.btn-done')")
    for method, path in (("get", "/api/v2/me"), ("post", "/api/v2/me")):
        operation = OPERATION.format(method=method, path=path)
        await click(f"{operation}.querySelector('.opblock-summary-control')")
        await click(f"{operation}.querySelector('.try-out__btn')")
        await click(f"{operation}.querySelector('.execute')")
        status = f"{operation}.querySelector('.live-responses-table tbody .response-col_status')?.textContent.trim()"
        await eventually(lambda status=status: shows(f"{status}.startsWith('200')"))  # type: ignore[misc]
