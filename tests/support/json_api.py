"""Calls of the JSON API, made and checked by what its OpenAPI document says of them."""

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema

from tests.support.mails import MailFolder

Json = dict[str, Any]
FORMATS = jsonschema.FormatChecker(["date-time", "uuid"])


class JsonApi:
    """Makes calls by their operation ids. What is sent and what is answered must be as the document says."""

    def __init__(self, document: Json, client: httpx.Client) -> None:
        self._document = closed(document)
        self._client = client
        self._operations = {
            operation["operationId"]: (path, verb, operation)
            for path, item in self._document["paths"].items()
            for verb, operation in item.items()
        }
        self.called: set[str] = set()
        """The operations that were answered with 200."""

    def call(self, name: str, values: Mapping[str, Any] | None = None, *, token: str = "", status: int = 200) -> Any:
        """Makes a call with these values, wherever each belongs, and returns the JSON of the answer."""
        path, verb, operation = self._operations[name]
        rest = dict(values or {})
        parameters = {one["name"]: one for one in operation.get("parameters", ())}
        for key in [key for key, one in parameters.items() if one["in"] == "path"]:
            path = path.replace(f"{{{key}}}", rest.pop(key))
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        if body is None:
            assert set(rest) <= set(parameters), set(rest) - set(parameters)
            for key, value in rest.items():
                self.check(value, parameters[key]["schema"])
        elif status == 200:
            self.check(rest, body)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        sent = {"json": rest} if body else {"params": rest}
        request = self._client.build_request(verb, path, headers=headers, **sent)
        answer = self._answered(request)
        assert answer.status_code == status, f"{name}: {answer.status_code} {answer.text}"
        assert answer.headers["content-type"] == "application/json"
        self.check(answer.json(), operation["responses"][str(status)]["content"]["application/json"]["schema"])
        if status == 200:
            self.called.add(name)
        return answer.json()

    def _answered(self, request: httpx.Request, *, seconds: float = 20) -> httpx.Response:
        """The answer of a call that is repeated while a service is away, as on a machine with much to do."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self._client.send(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                return answer
            time.sleep(0.1)

    def reason(self, name: str, values: Mapping[str, Any] | None = None, *, token: str = "", status: int) -> str:
        """The reason of a call that must be refused with this status; it must be one of those that are said there."""
        refusal = self.call(name, values, token=token, status=status)
        [info] = [one for one in refusal["details"] if one["@type"].endswith("/google.rpc.ErrorInfo")]
        said = self._operations[name][2]["responses"][str(status)]["x-reasons"]
        assert info["reason"] in said or info["domain"] == "guildhall.gateway", (info, said)
        return str(info["reason"])

    def check(self, value: Any, schema: Json) -> None:
        """Raises if a value does not fit a schema of the document."""
        whole = {**schema, "components": self._document["components"]}
        jsonschema.Draft202012Validator(whole, format_checker=FORMATS).validate(value)


def closed(document: Json) -> Json:
    """The document with its objects closed: a field that it does not name is then a fault."""
    made = copy.deepcopy(document)
    schemas = [schema for name, schema in made["components"]["schemas"].items() if not name.startswith("google.rpc.")]
    for item in made["paths"].values():
        for operation in item.values():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            schemas += [body["schema"]] if body else []
    for schema in schemas:
        if schema["type"] == "object":
            schema["additionalProperties"] = False
    return made


def mailed_token(folder: Path, address: str, subject: str, *, seconds: float = 20) -> str:
    """The token in the mail to an address whose text holds `subject`, once it is written."""
    deadline, mails = time.monotonic() + seconds, MailFolder(folder)
    while time.monotonic() < deadline:
        for text in mails.texts(address):
            if subject in text and (found := text.partition("Token: ")[2].split()):
                return found[0]
        time.sleep(0.05)
    raise TimeoutError(f"no mail to {address} that says {subject!r}")
