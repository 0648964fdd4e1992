"""The comments of the contracts, which the generated code does not hold."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import guildhall
from google.protobuf import descriptor_pb2

_FILE = "contracts.binpb"


@cache
def comments() -> Mapping[str, str]:
    """Each comment by the full name of what it explains, paragraphs apart by an empty line.

    A value of an enum is under the enum's name, `package.Enum.VALUE`, as a field is under its message's.
    """
    files = descriptor_pb2.FileDescriptorSet.FromString(_image())
    return dict(pair for file in files.file for pair in _comments_of(file))


def _image() -> bytes:
    # A namespace package, whose folders importlib.resources does not search.
    [path] = [path for folder in guildhall.__path__ if (path := Path(folder, _FILE)).exists()]
    return path.read_bytes()


def _comments_of(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        if location.leading_comments and (name := _name_at(file, location.path)):
            yield name, _unwrapped(location.leading_comments)


def _name_at(file: descriptor_pb2.FileDescriptorProto, path: Any) -> str:
    """The full name of what a path (field numbers and indices in turn) leads to; empty if it has none."""
    names, found = [file.package], file
    for number, index in zip(path[::2], path[1::2], strict=False):
        children = found.DESCRIPTOR.fields_by_number[number]
        if not children.is_repeated or not children.message_type:
            return ""
        found = getattr(found, children.name)[index]
        names.append(getattr(found, "name", ""))
    return ".".join(names) if len(path) % 2 == 0 and all(names) else ""


def _unwrapped(comment: str) -> str:
    """A comment without the line breaks that only the source's width asked for."""
    paragraphs = "\n".join(line.strip() for line in comment.strip().splitlines()).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
