"""Each numbered behaviour of Channels 1.x has a test of its number, or a row on the page of differences."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "channels-1-differences.md").read_text()
BEHAVIOURS = range(1, 144)


def with_a_test() -> set[int]:
    found: set[int] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"def (test\w+)", path.read_text()):
            found |= {int(number) for number in re.findall(r"_b(\d+)(?=_|$)", name)}
    return found


def different() -> set[int]:
    cells = re.findall(r"^\| (\d[\d, ]*) \|", PAGE, re.MULTILINE)
    return {int(number) for cell in cells for number in cell.split(", ")}


def test_every_behaviour_is_tested_or_is_a_difference() -> None:
    assert sorted(set(BEHAVIOURS) - with_a_test() - different()) == []


def test_no_number_is_made_up() -> None:
    assert sorted((with_a_test() | different()) - set(BEHAVIOURS)) == []


def test_differences_come_in_order_and_once() -> None:
    numbers = [int(number) for number in re.findall(r"^\| (\d+)", PAGE, re.MULTILINE)]
    assert numbers == sorted(numbers)
    assert len(numbers) == len(set(numbers))
