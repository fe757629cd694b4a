"""Yesterday's processes and messages beside today's: a deploy never has everything new at once."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deployment.engines import DATABASE, Engine, Postgres
from deployment.fleet import Fleet
from deployment.history import NoHistory, unpack_previous_code
from deployment.scales import QUICK
from deployment.tables import assert_account, table
from redis_servers import RedisServer

RECORDINGS = Path(__file__).parent / "recordings"


@pytest.fixture
def previous_code(tmp_path: Path, engine: Engine) -> tuple[Path, str]:
    """Where the code of before today's is, and which commit it is of."""
    folder = tmp_path / "previous"
    try:
        commit = unpack_previous_code(folder)
    except NoHistory as reason:
        pytest.skip(f"NO UPGRADE TEST, since {reason}")
    if engine.source.startswith("plugins/") and not (folder / engine.source).is_dir():
        pytest.skip(
            f"NO UPGRADE TEST on {engine.name}: there is no {engine.source} yet in commit {commit[:7]}"
        )
    return folder, commit[:7]


@pytest.mark.parametrize("yesterday", ["interface", "worker"])
def test_yesterdays_processes_work_with_todays(
    engine: Engine,
    yesterday: str,
    previous_code: tuple[Path, str],
    tmp_path: Path,
    show: Callable[[str], None],
) -> None:
    """In both delivery classes at once: connecting and leaving in one, talking in the other."""
    code, commit = previous_code
    config = {"delivery": {"websocket.receive": "at-least-once"}}
    with Fleet(engine, tmp_path, config=config) as fleet:
        fleet.start_interface(code=code if yesterday == "interface" else None)
        fleet.start_worker(code=code if yesterday == "worker" else None)
        fleet.wait_until_ready()
        crowd = fleet.crowd()
        crowd.connect(fleet.interfaces, QUICK.clients)
        crowd.talk(QUICK, engine)
        time.sleep(1.0)
        answers = crowd.ask("get", port=fleet.interfaces[0].port, count=5)
        account = crowd.ask("quiet", patience=20)
        members = fleet.probe.members()
        crowd.ask("close")
        fleet.wait_until(lambda: not fleet.probe.groups(), "those who left are no members")
        show(
            table(
                f"Upgrade, {engine.name}: the {yesterday} of commit {commit}, everything else of today",
                account,
            )
        )
        assert answers == {"200": 5}
        assert members == QUICK.clients
        assert_account(account, sent=QUICK.clients)
        fleet.assert_healthy()


def write_raw(engine: Engine, channel: str, body: bytes) -> None:
    """Put a message into the engine as the first version's interface server did, without any code of today's."""
    if isinstance(engine.server, RedisServer):
        engine.server.do("XADD", f"channels:c:{{q0}}{channel}", "*", "m", body)
    else:
        assert isinstance(engine.server, Postgres)
        engine.server.postgres.execute(
            "INSERT INTO channels_msg (key, room, size, attempt, taken, since, expires, body) VALUES"
            f" ('{channel}', 1, 400, 1, 0, now(), now() + interval '60 seconds', '\\x{body.hex()}')",
            DATABASE,
        )


def test_todays_worker_answers_messages_as_the_first_version_wrote_them(
    engine: Engine, tmp_path: Path
) -> None:
    """Byte for byte, but for the process id of who waits for the answers."""
    recording = json.loads((RECORDINGS / f"{engine.name}-1.json").read_text())
    with Fleet(engine, tmp_path) as fleet:
        fleet.start(interfaces=0, workers=1)
        process = fleet.probe.ask("pose")
        for channel, message in recording["messages"].items():
            write_raw(
                engine,
                channel,
                bytes.fromhex(message).replace(recording["process"].encode(), process.encode()),
            )
        found = fleet.probe.ask("answers", process=process, count=3, patience=20)
        answers = {local: (content, credit) for local, content, credit in found}
        fleet.assert_healthy()
        [worker] = fleet.workers
        request, connect, receive = (
            recording["locals"][name] for name in ("http.request", "websocket.connect", "websocket.receive")
        )
        assert answers[request][0]["status"] == "200"
        assert answers[request][0]["content"] == str(f"hello from {worker.pid}".encode())
        assert answers[connect] == ({"accept": "True"}, connect)
        assert answers[receive] == ({"text": f"echo 1 {worker.pid}"}, receive)
        assert fleet.probe.members() == 1
