"""The pages behind the links of mails: one for each, with the call that its token is for."""

import json
import re
import shlex
from html import unescape

import pytest
from google.protobuf import json_format, message_factory

from deploy.envoy.descriptors import public_methods, public_rpcs
from deploy.envoy.landings import LANDINGS, Landing, html
from services.identity.tasks import LINKS
from tests.rules.sources import ROOT, sources

EACH = pytest.mark.parametrize("landing", LANDINGS, ids=lambda landing: landing.path)


def test_every_link_of_a_mail_has_a_page_and_every_page_a_link() -> None:
    (membership,) = sources("services/membership/tasks.py")
    of_membership = re.findall(r"\}(/[a-z/-]+)\?token=", membership.text)

    assert len(of_membership) == 1
    assert {landing.path for landing in LANDINGS} == {f"/{link}" for link in LINKS.values()} | set(of_membership)


def test_no_other_service_mails_a_link() -> None:
    linking = {source.path for source in sources("services") if "?token=" in source.text or "LINKS[" in source.text}

    assert linking == {"services/identity/tasks.py", "services/membership/tasks.py"}


@EACH
def test_the_call_on_the_page_is_one_that_the_gateway_takes(landing: Landing) -> None:
    text = unescape(html(landing).decode())
    (call,) = re.findall(r"<pre>(.*)</pre>", text)
    arguments = shlex.split(call)
    rpc = {each.path: each for each in public_rpcs()}[f"/{landing.rpc}"]
    (method,) = [each for each in public_methods() if f"{each.containing_service.full_name}/{each.name}" == landing.rpc]
    request = message_factory.GetMessageClass(method.input_type)()

    json_format.ParseDict(json.loads(arguments[-1]), request)  # ParseError for a field that is none
    assert request.token == "TOKEN"
    assert rpc.has_json
    assert ("-H" in arguments) == rpc.needs_token
    assert landing.rpc in text


@EACH
def test_a_page_holds_no_code(landing: Landing) -> None:
    text = html(landing).decode()

    assert not re.search(r"<script|<style|<form|\son\w+=|https?://(?!GATEWAY)", text)
    assert "{" not in re.sub(r"<pre>.*</pre>", "", text)


def test_a_page_about_an_rpc_that_there_is_not_is_refused() -> None:
    with pytest.raises(KeyError):
        html(Landing("/x", "x", "guildhall.identity.v1.AuthService/Nothing"))


def test_the_document_tells_of_each_path_and_its_rpc() -> None:
    rows = [line for line in (ROOT / "docs" / "mail.md").read_text().splitlines() if line.startswith("| `/")]

    for landing in LANDINGS:
        (row,) = [line for line in rows if line.startswith(f"| `{landing.path}?token=")]
        assert f"`{landing.rpc.rpartition('.')[2].replace('/', '.')}`" in row
