"""The server sends the files of its folder, with the headers that threads need, and nothing else."""

import http.client
import json
import ssl
import threading

import pytest

from deploy.serve import address
from deploy.serve.http_server import MAX_BODY, Refusal, Reply, SiteServer
from tests.refusals import refuses


def add_one(call):
    if call.bearer != "secret":
        raise Refusal(403, "no")
    return Reply.json({"sum": call.content["number"] + 1})


@pytest.fixture
def site(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "site"
    (folder / "app").mkdir(parents=True)
    (folder / "index.html").write_text("<p>page</p>")
    (folder / "app/a.wasm").write_bytes(b"\0asm")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


@pytest.fixture
def opened():
    return []


@pytest.fixture
def server(site, opened):
    server = SiteServer(
        ("127.0.0.1", 0),
        site,
        policy="default-src 'self'",
        calls={("POST", "/api/add"): add_one},
        opened=opened.append,
    )
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, method, path, body=None, headers=None, *, context=None):
    """(status, headers, body) of a request, sent exactly as given."""
    kind = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
    options = {} if context is None else {"context": context}
    connection = kind("127.0.0.1", server.server_address[1], timeout=10, **options)
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def test_pages_are_isolated_so_they_can_use_threads(server, opened):
    status, headers, body = ask(server, "GET", "/")
    assert (status, body) == (200, b"<p>page</p>")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Content-Security-Policy"] == "default-src 'self'; frame-ancestors 'none'"
    assert ask(server, "GET", "/app/a.wasm?v=1")[1]["Content-Type"] == "application/wasm"
    assert ask(server, "GET", "/index.html")[2] == body
    assert opened == ["127.0.0.1"]


def test_head_sends_no_body_and_an_unchanged_file_is_not_sent_again(server):
    status, headers, body = ask(server, "HEAD", "/index.html")
    assert (status, headers["Content-Length"], body) == (200, "11", b"")
    again = ask(server, "GET", "/index.html", headers={"If-None-Match": headers["ETag"]})
    assert (again[0], again[2]) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/%2e%2e/secret.txt", "/app/../../secret.txt", "/..%2fsecret.txt", "//secret.txt",
     "/link.txt", "/app/", "/app", "/etc/passwd", "/%00", "/index.html/"],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(server, path):
    status, _, body = ask(server, "GET", path)
    assert status == 404
    assert b"secret" not in body


def test_calls_need_json_and_are_refused_in_one_line(server):
    def post(body, path="/api/add", **headers):
        headers = {"Authorization": "Bearer secret", **headers}
        status, _, answer = ask(server, "POST", path, body, headers)
        return status, json.loads(answer)

    assert post('{"number": 1}') == (200, {"sum": 2})
    assert post('{"number": 1}', Authorization="Bearer other") == (403, {"error": "no"})
    assert post('{"number": 1}', path="/index.html")[0] == 404
    for body in ("{", "[" * 60000, "\n\n", b"\xff\xfe{}"):
        status, answer = post(body)
        assert status == 400
        assert answer["error"].startswith("not JSON: ")
        assert "\n" not in answer["error"]
    assert post("[1]") == (400, {"error": "must be a JSON object, got list"})
    assert post(" " * (MAX_BODY + 1))[0] == 413
    assert post("{}", **{"Content-Length": "-1"})[0] == 411
    assert ask(server, "PUT", "/index.html", "{}")[0] == 501
    assert ask(server, "GET", "/api/add")[0] == 404


def test_a_used_port_is_a_user_error(server, site):
    port = server.server_address[1]
    refuses(
        lambda: SiteServer(("127.0.0.1", port), site, policy=""),
        f"port={port}: cannot be used",
        "another port",
    )


def test_https_with_a_certificate_for_the_address(site):
    pytest.importorskip("cryptography")
    context = address.self_signed_context("192.168.1.5")
    server = SiteServer(("127.0.0.1", 0), site, policy="", context=context)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    trusting = ssl.create_default_context(cadata=ssl.get_server_certificate(server.server_address))
    assert ask(server, "GET", "/", context=trusting)[2] == b"<p>page</p>"  # localhost is among its names
    assert ask(server, "GET", "/", context=trusting)[0] == 200  # after a client that only shook hands
    server.shutdown()
    server.server_close()
    refuses(lambda: address.own_context("none.pem", "none.key"), "certificate=none.pem", "No such file")


def test_addresses():
    assert address.is_local("localhost")
    assert address.is_local("127.0.0.1")
    assert not address.is_local("0.0.0.0")
    assert not address.is_local("phone.local")
    assert address.reachable("192.168.1.5") == "192.168.1.5"
    assert address.reachable("0.0.0.0").count(".") == 3
