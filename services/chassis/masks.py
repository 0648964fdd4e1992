"""Field masks of updates (AIP-134)."""

from collections.abc import Collection

from google.protobuf.field_mask_pb2 import FieldMask

from services.chassis.errors import InvalidRequest


def paths(mask: FieldMask, *, allowed: Collection[str]) -> frozenset[str]:
    """The fields that are to change. InvalidRequest for none, `*`, and whatever is not allowed, nested ones too."""
    named = frozenset(mask.paths)
    if not named or not named <= frozenset(allowed):
        raise InvalidRequest(fields=[("update_mask", f"names some of {', '.join(sorted(allowed))} and nothing else")])
    return named
