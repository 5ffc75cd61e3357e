#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The control socket over TCP: on loopback for its own user alone, elsewhere with TLS and a token
of the cluster's secret."""
import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess

import tap
from control import NOBODY, Client, Host, as_nobody, expect_refused, fresh

STATUS = b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
OLD, NEW = "0123456789abcdef old", "fedcba9876543210 new"
ED25519 = bytes.fromhex("302a300506032b6570032100")  # what a public key's DER begins with


def secret_file(*secrets, mode=0o600):
    path = fresh("secret")
    write_secrets(path, *secrets)
    path.chmod(mode)
    return path


def write_secrets(path, *secrets):
    path.write_text("".join(secret + "\n" for secret in secrets))
    path.chmod(0o600)


def place(host, scheme):
    """Host and port of its URL."""
    text = host.control[scheme].removeprefix("//")
    name, _, port = text.rpartition(":")
    return name.strip("[]"), int(port)


def plain(host):
    return Client(None, http.client.HTTPConnection(*place(host, "http"), timeout=60))


def context(version=ssl.TLSVersion.TLSv1_3):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = made.maximum_version = version
    return made


def secure(host, token=None, **options):
    connection = http.client.HTTPSConnection(
        *place(host, "https"), timeout=60, context=context(), **options
    )
    return Client(None, connection, {"Authorization": f"Bearer {token}"} if token else None)


def ask_with(host, token):
    with secure(host, token) as client:
        return client.ask("GET", "/v1/status")


def shown_key(client):
    """The server's key, as curl's --pinnedpubkey takes it."""
    client.connection.connect()
    certificate = client.connection.sock.getpeercert(True)
    at = certificate.index(ED25519)
    key = certificate[at:at + len(ED25519) + 32]
    return "sha256//" + base64.b64encode(hashlib.sha256(key).digest()).decode()


def token_of(secret):
    """HKDF of RFC 5869, in other words than the library's."""
    middle = hmac.digest(b"\0" * 32, secret.encode(), "sha256")
    return hmac.digest(middle, b"kvxfer control token\x01", "sha256").hex()


def credentials(host, path):
    told = host.do("credentials", path)
    return told["token"], told["pinned"]


def speak(address, data):
    found = b""
    with socket.create_connection(address, 60) as bare:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            bare.sendall(data)
            while piece := bare.recv(65536):
                found += piece
    return found.decode()


# --- without a secret ---


@tap.case
def loopback_without_a_secret_serves_its_own_user():
    for listen in ("127.0.0.1:0", "[::1]:0"):
        if listen.startswith("[") and not os.path.exists("/proc/net/if_inet6"):
            continue
        with Host(f"control_listen={listen}", "name=a") as host, plain(host) as client:
            assert host.path is None
            assert client.get("/v1/status")["control"] == host.told["control"]
            client.get("/v1/status")


@tap.case
def both_sockets_at_once():
    path = fresh("s.sock")
    with Host(f"control={path}", "control_listen=127.0.0.1:0") as host, plain(host) as client:
        assert host.told["control"].startswith(f"unix:{path},http://127.0.0.1:")
        ids = {host.get("/v1/status")["incarnation"], client.get("/v1/status")["incarnation"]}
        assert len(ids) == 1


@tap.case
def another_users_process_on_loopback_does_not_get_in():
    with Host("control_listen=127.0.0.1:0") as host, plain(host) as client:
        told = as_nobody(lambda: speak(place(host, "http"), STATUS))
        assert told.startswith("HTTP/1.1 403"), told
        problem = json.loads(told.partition("\r\n\r\n")[2])
        assert problem["code"] == "KVX_E_REFUSED" and str(NOBODY) in problem["detail"], problem
        client.get("/v1/status")


@tap.case
def another_users_request_is_not_obeyed_after_it_has_left():
    body = b'{"deadline_ms":1000}'
    drain = (
        b"POST /v1/drain HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body

    def send_and_leave(address):
        for _ in range(300):
            bare = socket.create_connection(address, 60)
            bare.sendall(drain)
            bare.close()
        return "left"

    with Host("control_listen=127.0.0.1:0") as host, plain(host) as client:
        assert as_nobody(lambda: send_and_leave(place(host, "http"))) == "left"
        assert client.get("/v1/drain")["state"] == "off"


@tap.case
def pages_of_a_browser_are_not_served():
    with Host("control_listen=127.0.0.1:0") as host, plain(host) as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "http://127.0.0.1"},
                        {"Host": "localhost.evil.example:80"}):  # fmt: skip
            client.ask("GET", "/v1/status", headers=headers).expect_problem(403, "KVX_E_REFUSED")
        client.ask("GET", "/v1/status", headers={"Host": "localhost:7400"}).expect(200)


@tap.case
def beyond_loopback_it_takes_a_secret():
    for listen in ("0.0.0.0:0", "[::]:0", "192.0.2.1:7400"):
        expect_refused("KVX_E_INVALID", "secret_file", f"control_listen={listen}")


@tap.case
def addresses_that_are_none():
    for listen in ("127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", ":7400", "::1:7400",
                   "[::1]7400", "localhost:7400", "[::1:7400", "127.0.0.1:+1", "x" * 200):
        expect_refused("KVX_E_INVALID", "control_listen", f"control_listen={listen}")


@tap.case
def a_port_in_use_is_told():
    with Host("control_listen=127.0.0.1:0") as host:
        port = place(host, "http")[1]
        expect_refused("KVX_E_SYSTEM", "port", f"control_listen=127.0.0.1:{port}")


# --- the secret's file ---


@tap.case
def a_secret_that_others_may_read_is_refused():
    for mode in (0o644, 0o640, 0o604, 0o620, 0o700):
        path = secret_file(OLD, mode=mode)
        expect_refused("KVX_E_INVALID", "chmod", "control_listen=127.0.0.1:0",
                       f"secret_file={path}")  # fmt: skip
    for mode in (0o600, 0o400):
        path = secret_file(OLD, mode=mode)
        with Host("control_listen=127.0.0.1:0", f"secret_file={path}"):
            pass


@tap.case
def what_is_not_a_secret_is_refused():
    good = "x" * 16
    for lines, word in (
        ((), "empty"), (("x" * 15,), "16"), (("x" * 256,), "255"), ((good,) * 3, "two"),
        ((good, ""), "16"), ((good + "\r",), "control character"), (("x" * 5000,), "255"),
    ):  # fmt: skip
        expect_refused("KVX_E_INVALID", word, "control_listen=127.0.0.1:0",
                       f"secret_file={secret_file(*lines)}")  # fmt: skip
    folder = fresh("x").parent
    os.mkfifo(folder / "pipe", 0o600)
    for path in (folder, folder / "none", folder / "pipe"):
        expect_refused("KVX_E_INVALID", "secret", "control_listen=127.0.0.1:0",
                       f"secret_file={path}")  # fmt: skip
    if os.geteuid() == 0:
        path = secret_file(good)
        os.chown(path, NOBODY, NOBODY)
        expect_refused("KVX_E_INVALID", "somebody else", "control_listen=127.0.0.1:0",
                       f"secret_file={path}")  # fmt: skip


# --- TLS ---


@contextlib.contextmanager
def secured(*secrets):
    path = secret_file(*secrets)
    with Host("control_listen=127.0.0.1:0", f"secret_file={path}", "name=a") as host:
        host.secret = path
        yield host


@tap.case
def who_has_the_secret_gets_in():
    with secured(OLD) as host:
        token, pinned = credentials(host, host.secret)
        assert token == token_of(OLD)
        with secure(host, token) as client:
            assert shown_key(client) == pinned
            assert client.get("/v1/status")["control"] == host.told["control"]
            assert client.connection.sock.version() == "TLSv1.3"
        assert host.told["control"].startswith("https://127.0.0.1:")


@tap.case
def no_token_or_a_wrong_one_is_told_so():
    with secured(OLD) as host:
        good = token_of(OLD)
        for token in (None, "x", good[:-1], good + "0", good.upper(), token_of(NEW), "0" * 64, OLD):
            answer = ask_with(host, token)
            answer.expect_problem(401, "KVX_E_REFUSED", "kvxferctl")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        with secure(host) as client:
            client.ask(
                "GET", "/v1/status", headers={"Authorization": f"Basic {good}"}
            ).expect_problem(401)  # fmt: skip
            # It is the request that lacks it, not the connection.
            client.ask("GET", "/v1/status", headers={"Authorization": f"Bearer {good}"}).expect(200)
            client.ask("POST", "/v1/drain", {"deadline_ms": 1000}).expect_problem(401)
        with secure(host, good) as client:
            assert client.get("/v1/drain")["state"] == "off"


@tap.case
def another_secret_makes_another_key():
    with secured(OLD) as host, secure(host) as client:
        assert shown_key(client) != credentials(host, secret_file(NEW))[1]


@tap.case
def an_older_TLS_and_none_at_all_are_refused():
    with secured(OLD) as host:
        with socket.create_connection(place(host, "https"), 60) as bare:
            try:
                context(ssl.TLSVersion.TLSv1_2).wrap_socket(bare)
            except (ssl.SSLError, ConnectionResetError):
                pass
            else:
                raise AssertionError("TLS 1.2 was taken")
        assert "200" not in speak(place(host, "https"), STATUS)
        speak(place(host, "https"), os.urandom(4096))
        ask_with(host, token_of(OLD)).expect(200)


@tap.case
def a_secret_is_changed_without_a_stop():
    with secured(OLD) as host:
        first = credentials(host, secret_file(OLD))[1]
        last = credentials(host, secret_file(NEW))[1]
        with secure(host, token_of(OLD)) as kept:
            kept.get("/v1/status")
            for secrets, taken, refused, key in (
                ((OLD, NEW), (OLD, NEW), (), first),
                ((NEW, OLD), (OLD, NEW), (), last),
                ((NEW,), (NEW,), (OLD,), last),
            ):  # fmt: skip
                write_secrets(host.secret, *secrets)
                for secret in taken:
                    ask_with(host, token_of(secret)).expect(200)
                for secret in refused:
                    ask_with(host, token_of(secret)).expect_problem(401)
                with secure(host) as client:
                    assert shown_key(client) == key
            # A connection stays as it was when it began.
            kept.get("/v1/status")
        # A file that is gone lets nobody in, and does not end the engine.
        host.secret.unlink()
        with contextlib.suppress(ssl.SSLError, ConnectionError, http.client.HTTPException):
            assert ask_with(host, token_of(NEW)).status == 401
        write_secrets(host.secret, NEW)
        ask_with(host, token_of(NEW)).expect(200)


@tap.case
def curl_takes_the_key_and_refuses_another():
    if not shutil.which("curl"):
        raise tap.Skip("curl is not installed")
    with secured(OLD) as host:
        token, pinned = credentials(host, host.secret)
        other = credentials(host, secret_file(NEW))[1]
        url = "https:" + host.control["https"] + "/v1/status"

        def curl(key, authorization=token):
            return subprocess.run(
                ["curl", "--silent", "--insecure", "--pinnedpubkey", key, "--header",
                 f"Authorization: Bearer {authorization}", "--write-out", "%{http_code}", url],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            )  # fmt: skip

        done = curl(pinned)
        assert done.returncode == 0 and done.stdout.endswith("200"), done
        # While the secret is changed a client takes either key.
        done = curl(f"{other};{pinned}")
        assert done.returncode == 0 and done.stdout.endswith("200"), done
        done = curl(pinned, "x")
        assert done.returncode == 0 and done.stdout.endswith("401"), done
        assert curl(other).returncode == 90


@tap.case
def clients_that_say_nothing_or_nonsense_do_not_keep_others_out():
    with secured(OLD) as host, contextlib.ExitStack() as stack:
        for number in range(100):
            bare = stack.enter_context(socket.create_connection(place(host, "https"), 60))
            if number % 2:
                bare.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        ask_with(host, token_of(OLD)).expect(200)
        for _ in range(50):
            socket.create_connection(place(host, "https"), 60).close()
        ask_with(host, token_of(OLD)).expect(200)


tap.main()
