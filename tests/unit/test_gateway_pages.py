"""The pages that the gateway serves itself: their routes, their files, and that nothing from elsewhere runs in them."""

import gzip
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from deploy.envoy.config import GatewaySettings, render, write_files
from deploy.envoy.landings import LANDINGS
from deploy.envoy.pages import MOST_BYTES, pages

SERVICES = ("identity", "membership", "guest", "messaging")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> GatewaySettings:
    folder = tmp_path_factory.mktemp("pages")
    return GatewaySettings(
        host="127.0.0.1",
        port=8080,
        tls_port=8443,
        admin_port=9901,
        upstreams={name: [("127.0.0.1", 15051)] for name in SERVICES},
        health_ports={name: [15061] for name in SERVICES},
        cert_file="cert.pem",
        key_file="key.pem",
        ca_file="ca.pem",
        edge_cert_file="edge.pem",
        edge_key_file="edge-key.pem",
        descriptor_file=str(folder / "descriptors.binpb"),
        public_url="https://guildhall.example",
    )


@pytest.fixture(scope="module")
def rendered(settings: GatewaySettings) -> Any:
    return json.loads(render(settings))


@pytest.fixture(scope="module")
def route_configs(rendered: Any) -> list[Any]:
    return [
        chain["filters"][0]["typed_config"]["route_config"]
        for listener in rendered["static_resources"]["listeners"]
        for chain in listener["filter_chains"]
    ]


def direct_routes(config: Any) -> list[Any]:
    return [route for route in config["virtual_hosts"][0]["routes"] if "direct_response" in route]


def test_both_listeners_serve_every_page_by_its_exact_path(route_configs: list[Any]) -> None:
    reference = {"/openapi.json", "/docs", "/docs/page.css", "/docs/page.js"}
    assert {page.path for page in pages()} == reference | {landing.path for landing in LANDINGS}
    assert len(route_configs) == 2
    for config in route_configs:
        assert {route["match"]["path"] for route in direct_routes(config)} == {page.path for page in pages()}
        last = config["virtual_hosts"][0]["routes"][-1]
        assert "direct_response" not in last


def test_pages_are_read_only(route_configs: list[Any]) -> None:
    for route in direct_routes(route_configs[0]):
        method = route["match"]["headers"][0]
        assert (method["name"], method["string_match"]) == (":method", {"safe_regex": {"regex": "GET|HEAD"}})


def test_every_page_fits(route_configs: list[Any]) -> None:
    assert [config["max_direct_response_body_size_bytes"] for config in route_configs] == [MOST_BYTES] * 2
    assert [page.path for page in pages() if len(page.content) > MOST_BYTES] == []


def test_every_file_that_the_configuration_names_is_written(settings: GatewaySettings, rendered: Any) -> None:
    write_files(settings)
    folder = Path(settings.descriptor_file).parent
    named = set(re.findall(rf'"({re.escape(str(folder))}/[^"]+)"', json.dumps(rendered)))

    assert len(named) == 1 + 2 * len(pages())
    assert [path for path in named if not Path(path).is_file()] == []
    for page in pages():
        plain, compressed = (settings.pages_folder / f"{page.file}{ending}" for ending in ("", ".gz"))
        assert gzip.decompress(compressed.read_bytes()) == plain.read_bytes() == page.content


def test_an_etag_changes_with_the_content() -> None:
    page = pages()[0]
    changed = type(page)(page.path, page.file, page.content_type, page.content + b" ")

    assert changed.digest != page.digest
    assert len({page.digest for page in pages()}) == len(pages())


def test_the_policy_lets_nothing_in_but_its_own_files(route_configs: list[Any]) -> None:
    for route in direct_routes(route_configs[0]):
        headers = {one["header"]["key"]: one["header"]["value"] for one in route["response_headers_to_add"]}
        assert headers["x-content-type-options"] == "nosniff"
        if route["match"]["path"] != "/openapi.json":
            policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
            assert policy.pop("default-src") == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert not any("unsafe" in sources or "http" in sources for sources in policy.values())


class Elements(html.parser.HTMLParser):
    """Gathers a page's elements and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.code = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style"):
            self.code += data.strip()


def test_the_page_holds_no_code_and_loads_only_what_the_gateway_serves() -> None:
    served = {page.path.removeprefix("/") for page in pages()}
    [index] = [page for page in pages() if page.path == "/docs"]
    elements = Elements(index.content.decode())

    assert elements.code == ""
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for link in filter(None, (attributes.get("src"), attributes.get("href"))):
            assert link in served or link.startswith("#") or link == "data:,", link
    assert {"docs/page.js", "docs/page.css"} <= {
        value for _, attributes in elements.found for value in attributes.values() if value
    }


def test_the_script_makes_no_markup_and_no_code_of_texts() -> None:
    [script] = [page.content.decode() for page in pages() if page.path == "/docs/page.js"]

    made_of_texts = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(made_of_texts + r"|https?://\w", script)
