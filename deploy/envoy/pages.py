"""What the gateway answers by itself, from files beside its config: the OpenAPI document, its page, `landings.py`."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from deploy.envoy.landings import LANDINGS, html
from deploy.envoy.settings import GatewaySettings, Json, any_of
from deploy.openapi.document import document

MOST_BYTES = 4 << 20  # of a file; Envoy's own limit for direct responses is 4 KiB
_SOURCES = Path(__file__).parents[1] / "openapi" / "page"
_GZIPPED = ".gz"
_HTML = "text/html; charset=utf-8"
_FOR_PAGES = {
    # Nothing but its own files, and no code or style inside of the page: no text of the document can become either.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True)
class Page:
    """A file and the path that it is served at."""

    path: str
    file: str
    content_type: str
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What its ETag is made of."""
        return hashlib.sha256(self.content).hexdigest()[:32]


@cache
def pages() -> tuple[Page, ...]:
    """All of them."""
    described = json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()
    kinds = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
    docs, *others = (
        Page(f"/docs/{name}", name, f"{kind}; charset=utf-8", (_SOURCES / name).read_bytes(), _FOR_PAGES)
        for name, kind in kinds.items()
    )
    return (
        # Public, and without cookies: any page may read it, so that other people's viewers and generators can.
        Page("/openapi.json", "openapi.json", "application/json", described, {"access-control-allow-origin": "*"}),
        Page("/docs", docs.file, docs.content_type, docs.content, docs.headers),
        *others,
        *(
            Page(each.path, f"{each.path.strip('/').replace('/', '-')}.html", _HTML, html(each), _FOR_PAGES)
            for each in LANDINGS
        ),
    )


def write_pages(folder: str | Path) -> None:
    """Writes every page's file, and a compressed one beside it."""
    Path(folder).mkdir(exist_ok=True)
    for page in pages():
        Path(folder, page.file).write_bytes(page.content)
        Path(folder, page.file + _GZIPPED).write_bytes(gzip.compress(page.content, mtime=0))


def page_routes(settings: GatewaySettings) -> list[Json]:
    """The pages' routes: for each "you have it", then the compressed file, then the file."""
    return [route for page in pages() for route in _routes(page, settings.pages_folder)]


def _routes(page: Page, folder: Path) -> Iterator[Json]:
    has_it = _header("if-none-match", contains=page.digest)
    takes_gzip = _header("accept-encoding", contains="gzip")
    refuses_gzip = {**_header("accept-encoding", contains="gzip;q=0"), "invert_match": True}
    compressed = {"content-encoding": "gzip"}
    yield _route(page, 304, None, [has_it])
    yield _route(page, 200, folder / f"{page.file}{_GZIPPED}", [takes_gzip, refuses_gzip], compressed)
    yield _route(page, 200, folder / page.file, [])


def _route(
    page: Page, status: int, file: Path | None, conditions: list[Json], headers: dict[str, str] | None = None
) -> Json:
    sent = {
        "content-type": page.content_type,
        # Weak: the compressed file has the same.
        "etag": f'W/"{page.digest}"',
        # Asked for again each time, which costs a 304: a gateway of the next version may answer it.
        "cache-control": "no-cache",
        "vary": "accept-encoding",
        "x-content-type-options": "nosniff",
        **page.headers,
        **(headers or {}),
    }
    return {
        "name": page.path,
        "match": {"path": page.path, "headers": [_header(":method", safe_regex={"regex": "GET|HEAD"}), *conditions]},
        "direct_response": {"status": status, **({"body": {"filename": str(file)}} if file else {})},
        "response_headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in sent.items()
        ],
        "typed_per_filter_config": {
            # Neither an RPC nor for the signed-in only; both filters refuse what they are not told of.
            name: any_of("envoy.config.route.v3.FilterConfig", disabled=True)
            for name in ("envoy.filters.http.grpc_json_transcoder", "envoy.filters.http.jwt_authn")
        },
    }


def _header(name: str, **matcher: object) -> Json:
    return {"name": name, "string_match": matcher}
