"""Which options say where the servers are, and what every wrong one is told. No text holds a password."""

import pytest

from channels_core.exceptions import InvalidChannelLayerError
from channels_layer_redis.transport import Servers
from channels_layer_redis.transport.addresses import Address


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({}, "redis://localhost:6379"),
        ({"hosts": "redis://h"}, "redis://h:6379"),
        ({"hosts": "redis://h:7/3"}, "redis://h:7/3"),
        ({"hosts": ["redis://h:7?db=2"]}, "redis://h:7/2"),
        ({"hosts": "redis://[::1]:7"}, "redis://[::1]:7"),
        ({"hosts": "rediss://h"}, "rediss://h:6379"),
        ({"hosts": "unix:///run/redis.sock?db=1"}, "unix:///run/redis.sock?db=1"),
        ({"hosts": ("h", 7)}, "redis://h:7"),
        ({"hosts": [("h", 7)], "db": 4}, "redis://h:7/4"),
        ({"hosts": [("h", 7), "redis://i:8"]}, "redis://h:7, redis://i:8"),
        ({"hosts": [{"address": "redis://h:7", "db": 1}]}, "redis://h:7/1"),
        ({"hosts": [{"address": ("h", 7)}]}, "redis://h:7"),
        ({"hosts": [{"host": "h", "port": 7, "ssl": True}]}, "rediss://h:7"),
        ({"hosts": {"path": "/s"}}, "unix:///s"),
        ({"hosts": "redis://h", "tls": True}, "rediss://h:6379"),
        ({"cluster": [("h", 7)]}, "the cluster of redis://h:7"),
        ({"cluster": True, "hosts": [("h", 7), ("i", 8)]}, "the cluster of redis://h:7, redis://i:8"),
        ({"sentinels": [("h", 7)], "master_name": "m"}, "'m' of the Sentinels redis://h:7"),
        ({"hosts": [{"sentinels": [("h", 7)], "master_name": "m"}]}, "'m' of the Sentinels redis://h:7"),
    ],
)
def test_ways_to_say_where(options, places):
    assert str(Servers.from_options(**options)) == places


def test_kinds():
    assert Servers.from_options().kind == "one"
    assert Servers.from_options([("a", 1), ("b", 2)]).kind == "several"
    assert Servers.from_options(cluster=[("a", 1)]).is_sharded
    assert not Servers.from_options(sentinels=[("a", 1)], master_name="m").is_sharded


def test_logins_come_from_the_entry_or_else_from_the_options():
    servers = Servers.from_options(
        [
            "redis://u:p%40w@a",
            "redis://:only@b",
            "redis://c",
            {"host": "d", "username": "x", "password": "y"},
        ],
        username="default",
        password="pw",
    )
    assert [endpoint.login.read() for endpoint in servers.endpoints] == [
        ("u", "p@w"),
        ("default", "only"),
        ("default", "pw"),
        ("x", "y"),
    ]


def test_sentinels_have_a_login_of_their_own():
    servers = Servers.from_options(
        {
            "sentinels": [("a", 1)],
            "master_name": "m",
            "password": "data",
            "sentinel_kwargs": {"password": "watch"},
        }
    )
    assert servers.endpoints[0].login.read() == ("watch",)
    assert servers.template.login.read() == ("data",)


def test_providers_are_asked_each_time():
    class Provider:
        count = 0

        def get_credentials(self):
            self.count += 1
            return ("u", f"token{self.count}")

    servers = Servers.from_options(credentials=Provider())
    assert servers.endpoints[0].login.read() == ("u", "token1")
    assert servers.endpoints[0].login.read() == ("u", "token2")
    assert Servers.from_options(credentials=lambda: "pw").endpoints[0].login.read() == ("pw",)
    with pytest.raises(ValueError, match="must give") as caught:
        Servers.from_options(credentials=lambda: (1, 2, 3)).endpoints[0].login.read()
    assert str(caught.value) == (
        "The provider of credentials gave 3 values of types int, int, int: it must give (username, password),"
        " (password,) or a password."
    )


def test_no_representation_shows_a_password():
    servers = Servers.from_options("redis://u:hunter2@h", credentials=None)
    assert "hunter2" not in repr(servers) + str(servers) + repr(servers.endpoints[0].login)


def test_addresses_read_well():
    assert str(Address("::1", 6)) == "[::1]:6"
    assert str(Address("/run/s", 0)) == "/run/s"


LAYER = "of the Redis layer"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"hosts": "http://h:1"},
            f"A URL in option hosts {LAYER} has the scheme 'http'; known are redis, rediss (TLS) and unix. It looks"
            " like 'redis://user:password@host:6379/0'.",
        ),
        (
            {"hosts": "redis://u:secret@h:port"},
            f"A URL in option hosts {LAYER} cannot be read: its host or its port is malformed. It looks like"
            " 'redis://user:password@host:6379/0', with odd characters of the password percent-encoded.",
        ),
        (
            {"hosts": "redis://h?colour=red"},
            f"A URL in option hosts {LAYER} has the query option 'colour'; known are: db, password, ssl_ca_certs,"
            " ssl_cert_reqs, ssl_certfile, ssl_check_hostname, ssl_keyfile, username. Everything else is an option of"
            " CONFIG.",
        ),
        (
            {"hosts": 5},
            f"Option hosts {LAYER} is of type int, or empty: it is a list of URLs, (host, port) pairs or dicts, or one"
            " of them.",
        ),
        (
            {"hosts": []},
            f"Option hosts {LAYER} is of type list, or empty: it is a list of URLs, (host, port) pairs or dicts, or one"
            " of them.",
        ),
        (
            {"hosts": [5]},
            f"An entry of option hosts {LAYER} is of type int: it is a URL ('redis://host:6379/0'), a (host, port) pair"
            " or a dict.",
        ),
        (
            {"hosts": [{"hots": "h"}]},
            f"An entry of option hosts {LAYER} has the key 'hots'; known are: address, host, port, path, db, username,"
            " password, ssl.",
        ),
        (
            {"hosts": [{"address": 5}]},
            f"An entry of option hosts {LAYER} has an address of type int: it is a URL or a (host, port) pair.",
        ),
        (
            {"hosts": [("h", 70_000)]},
            "The Redis layer was given the port 70000: it is a number from 1 to 65535.",
        ),
        ({"hosts": [("", 7)]}, "The Redis layer was given the host '': it is a name or an IP address."),
        (
            {"hosts": "unix://relative"},
            "The Redis layer was given the unix socket '': its path begins with '/', as in"
            " 'unix:///run/redis/redis.sock'.",
        ),
        (
            {"hosts": "redis://h/first"},
            "The Redis layer was given the database 'first': it is a number from 0.",
        ),
        ({"db": -1}, "The Redis layer was given the database -1: it is a number from 0."),
        (
            {"hosts": "redis://h", "cluster": [("h", 1)]},
            "The Redis layer was given more than one of the options hosts, sentinels and cluster: each of them says"
            " where the servers are, so give one.",
        ),
        (
            {"sentinels": [("h", 1)]},
            "The Redis layer was given sentinels and master_name None: the Sentinels must be asked for a master by its"
            " name. Add master_name, as it stands in sentinel.conf.",
        ),
        (
            {"cluster": ["redis://h/1"]},
            "The Redis layer was given a database number other than 0 for a cluster, which has only database 0. Remove"
            " db, and keep applications apart by prefix.",
        ),
        (
            {"username": "u"},
            "The Redis layer was given the username 'u' without a password. Add password, or credentials.",
        ),
        ({"password": 5}, f"Option password {LAYER} is of type int: it is a text."),
        (
            {"credentials": 5},
            f"Option credentials {LAYER} is of type int: it is a callable, or an object with get_credentials(), that"
            " gives (username, password).",
        ),
        (
            {"credentials": list, "password": "secret"},
            "The Redis layer was given both password and credentials: keep the one that is right.",
        ),
        (
            {"tls": 5},
            f"Option tls {LAYER} is of type int: it is a dict of: ca, cert, key, check_hostname, verify.",
        ),
        (
            {"tls": {"ca": "/nowhere/ca.pem"}},
            "The Redis layer was given the TLS option ca '/nowhere/ca.pem': there is no such file.",
        ),
        (
            {"answer_timeout": 0},
            f"Option answer_timeout {LAYER} is 0: it is a number of seconds above 0.",
        ),
    ],
)
def test_what_is_wrong_is_told(options, text):
    with pytest.raises(InvalidChannelLayerError) as caught:
        Servers.from_options(**options)
    assert str(caught.value) == text
    assert "secret" not in str(caught.value)


def test_certificates_that_cannot_be_loaded(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(InvalidChannelLayerError) as caught:
        Servers.from_options(tls={"ca": path})
    assert str(caught.value).startswith("The Redis layer's TLS certificates cannot be loaded (")
    assert str(caught.value).endswith("). Check the files of ca, cert and key.")
