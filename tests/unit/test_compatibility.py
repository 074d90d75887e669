"""What the documents say of clients of Web Services is what the code does."""

import re
from pathlib import Path

from calltag.gateway.operations import CALL_OPERATIONS, DEVICE_OPERATIONS, DIAL_OPERATIONS, SESSION_OPERATIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")


def test_the_page_names_all_operations_and_no_others_as_working() -> None:
    working = PAGE.partition("## Differs")[0]
    begins = tuple(
        f"| {part} |"
        for part in (
            "attached data",
            "call control",
            "transfers and conferences",
            "wrap-up and muting",
            "devices",
            "supervisors",
            "state of the agent",
        )
    )
    rows = [line for line in working.splitlines() if line.startswith((*begins, "| contact-centre session |"))]
    tables = (CALL_OPERATIONS, DIAL_OPERATIONS, DEVICE_OPERATIONS, SESSION_OPERATIONS)
    assert set(re.findall(r"`([A-Z]\w+)`", "".join(rows))) == {name for table in tables for name in table.names()}


def test_no_document_promises_that_whole_desktops_work_unchanged() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert not re.search(r"desktops written for (?:those|it|them) work", text), path
