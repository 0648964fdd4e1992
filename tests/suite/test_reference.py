"""/openapi.json and /docs as the gateway of a real suite serves them."""

import gzip
import ssl
from collections.abc import Iterator

import httpx
import pytest

from deploy.envoy.pages import Page, pages
from tests.suite.conftest import Running

PLAIN = {"accept-encoding": "identity"}
EACH = pytest.mark.parametrize("page", pages(), ids=lambda page: page.path)


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{running.gateway}", trust_env=False, timeout=10) as client:
        yield client


@EACH
def test_a_page_is_served_to_anybody(client: httpx.Client, page: Page) -> None:
    answer = client.get(page.path, headers=PLAIN)

    assert answer.status_code == 200
    assert answer.content == page.content
    assert answer.headers["content-type"] == page.content_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["vary"] == "accept-encoding"
    assert "content-encoding" not in answer.headers
    assert page.headers.items() <= answer.headers.items()


@EACH
def test_it_comes_compressed_to_who_takes_that(client: httpx.Client, page: Page) -> None:
    with client.stream("GET", page.path, headers={"accept-encoding": "br, gzip"}) as answer:
        sent = b"".join(answer.iter_raw())

    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"] == page.content_type
    assert gzip.decompress(sent) == page.content
    assert len(sent) < len(page.content)
    refusing = client.get(page.path, headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in refusing.headers


@EACH
def test_who_has_it_is_told_so(client: httpx.Client, page: Page) -> None:
    etag = client.get(page.path).headers["etag"]
    again = client.get(page.path, headers={"if-none-match": f'"other", {etag}'})
    older = client.get(page.path, headers={"if-none-match": 'W/"other"'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == etag
    assert (older.status_code, older.content) == (200, page.content)


@EACH
def test_head_answers_the_same_without_a_body(client: httpx.Client, page: Page) -> None:
    got, head = client.get(page.path, headers=PLAIN), client.head(page.path, headers=PLAIN)

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag", "cache-control"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize("path", ["/docs/", "/docs/nothing.js", "/docs/../secret", "/openapi.yaml", "/openapi.json/x"])
def test_what_is_beside_a_page_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path)

    assert answer.status_code == 404
    assert "NO_SUCH_METHOD" in answer.text


@EACH
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_pages_cannot_be_written_to(client: httpx.Client, page: Page, method: str) -> None:
    assert client.request(method, page.path).status_code == 404


def test_the_pages_come_over_tls_too(running: Running) -> None:
    authority = running.settings.layout.certificates / "ca.pem"
    base = f"https://localhost:{running.settings.ports.gateway_tls}"
    trusting = ssl.create_default_context(cafile=authority)
    with httpx.Client(base_url=base, verify=trusting, trust_env=False) as client:
        for page in pages():
            assert client.get(page.path).content == page.content


def test_any_page_may_read_the_document_and_none_the_calls(client: httpx.Client) -> None:
    foreign = {"origin": "https://viewer.example"}

    assert client.get("/openapi.json", headers=foreign).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in client.get("/v1/users/me", headers=foreign).headers
    assert "access-control-allow-origin" not in client.get("/docs", headers=foreign).headers


def test_a_token_is_no_hindrance(client: httpx.Client) -> None:
    assert client.get("/openapi.json", headers={"authorization": "Bearer broken"}).status_code == 200
    assert client.get("/v1/users/me", headers={"authorization": "Bearer broken"}).status_code == 401
