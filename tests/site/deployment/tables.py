"""The table that each proof prints, and the figures it must show."""

from typing import Any

COLUMNS = ("sent", "delivered", "lost", "duplicated", "misordered")


def table(title: str, account: dict[str, Any], *notes: str) -> str:
    """Sent, delivered, lost, duplicated and misordered of the echo and the room, and what closed."""
    lines = [f"\n{title}", "        " + "".join(f"{name:>12}" for name in COLUMNS) + f"{'closed':>12}"]
    closed = sum(account["closed"].values())
    for kind in ("echo", "room"):
        if kind not in account:
            continue
        figures = account[kind]
        lines.append(f"  {kind:<6}" + "".join(f"{figures[name]:>12,}" for name in COLUMNS) + f"{closed:>12,}")
    if closed:
        notes = (f"closed with: {account['closed']}", *notes)
    lines += [f"  {note}" for note in notes]
    return "\n".join(lines)


def seconds(value: float | None) -> str:
    """For people."""
    return "none" if value is None else f"{value * 1000:.0f} ms"


def waits(mark: dict[str, Any]) -> str:
    """How long answers took between two marks."""
    return (
        f"{mark['answers']:,} answers, p50 {seconds(mark['p50'])}, p99 {seconds(mark['p99'])},"
        f" longest {seconds(mark['longest'])}"
    )


def assert_account(
    account: dict[str, Any],
    *,
    sent: int,
    lost: int | None = 0,
    may_repeat: bool = False,
    closed: dict[str, int] | None = None,
) -> None:
    """Fail on the first wrong figure.

    At least ``sent`` frames must have been said by those who are still there, and at most ``lost`` (``None``: any
    number) of them lost, of echo and room together. ``closed`` tells how many sockets closed with each code.
    """
    assert account["closed"] == (closed or {}), account
    assert account["stuck"] == 0, f"{account['stuck']} clients waited in vain for an answer: {account}"
    assert account["unreached"] == 0, f"The last broadcast, to all, did not reach all: {account}"
    assert account["echo"]["sent"] >= sent, f"Too little was said for a proof: {account}"
    assert lost is None or account["echo"]["lost"] + account["room"]["lost"] <= lost, account
    assert account["room"]["partly"] == 0, f"Broadcasts reached some members and not others: {account}"
    for kind in ("echo", "room"):
        assert account[kind]["misordered"] == 0, account
        assert may_repeat or account[kind]["duplicated"] == 0, account
