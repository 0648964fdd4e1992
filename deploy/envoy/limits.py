"""How many calls the gateway lets through: of a user, of a service account, of an address without a token, and where a
password is tried.

The buckets are this gateway's own: n gateways let through n times as much, and so do the two listeners of each.
"""

from deploy.envoy.descriptors import PublicRpc
from deploy.envoy.settings import GatewaySettings, Json, extension

BURST_SECONDS = 10  # what was left unused for so long may be used at once
RATE_LIMIT = "envoy.filters.http.local_ratelimit"
TOKEN_CLAIMS = "claims"  # noqa: S105 — where jwt_authn leaves the claims of a valid token, for this filter to read
KEYS = "/guildhall.identity.v1.AuthService/GetJwks"

# What hashes a password, or writes to an address that anybody may name.
SIGN_INS = frozenset(
    f"/guildhall.identity.v1.AuthService/{method}"
    for method in (
        "ChangePassword",
        "CompleteEmailSignIn",
        "RequestPasswordReset",
        "ResendVerification",
        "ResetPassword",
        "SignIn",
        "SignUp",
        "StartEmailSignIn",
    )
)

_NAMESPACE = "guildhall"
_OTHERS = "others"  # the group of all RPCs that have none of their own
_NO_SCOPE = "-"  # a user's; a service account's token has one
_NOBODY = "nobody"  # a caller without a valid token; a user's id is a UUID


def route_metadata(rpc: PublicRpc) -> Json:
    """What a route says of itself to the filter, as a part of the route."""
    group = "sign-ins" if rpc.path in SIGN_INS else "keys" if rpc.path == KEYS else _OTHERS
    return {} if group == _OTHERS else {"metadata": {"filter_metadata": {_NAMESPACE: {"group": group}}}}


def rate_limit(settings: GatewaySettings) -> Json:
    """The filter. It stands behind the one that reads the token and before the one that insists on it.

    So a flood of bad tokens is counted by its address, and a user is counted by their id wherever they call from.
    """
    caller_or_nobody = _claim("caller", "sub", default_value=_NOBODY)
    group_or_others = _route_group(default_value=_OTHERS)
    everybody_elses = settings.calls_per_second_of_address
    return extension(
        RATE_LIMIT,
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="edge",
        filter_enabled=_ALWAYS,
        filter_enforced=_ALWAYS,
        rate_limited_as_resource_exhausted=True,
        # Of each kind of bucket, so that a crowd of addresses costs a bounded memory. Whose bucket was given up for
        # another's has a full one again.
        max_dynamic_descriptors=settings.most_counted_callers,
        always_consume_default_token_bucket=False,
        rate_limits=[
            {"actions": [_claim("user", "sub"), _claim("scope", "scope", default_value=_NO_SCOPE)]},
            {"actions": [_claim("account", "sub"), _claim("scope", "scope")]},
            {"actions": [caller_or_nobody, group_or_others, _ADDRESS]},
            {"actions": [_route_group(), _ADDRESS]},
        ],
        descriptors=[
            _bucket(settings.calls_per_second_of_user, user="", scope=_NO_SCOPE),
            _bucket(settings.calls_per_second_of_service_account, account="", scope=""),
            _bucket(everybody_elses, caller=_NOBODY, group=_OTHERS, masked_remote_address=""),
            _bucket(settings.sign_ins_per_second_of_address, group="sign-ins", masked_remote_address=""),
            # Of its own, because the gateway itself asks for the keys, and may do so from the address of a flood.
            _bucket(everybody_elses, group="keys", masked_remote_address=""),
        ],
    )


_ALWAYS: Json = {"default_value": {"numerator": 100}}
# Whoever has one IPv6 address has all of its network.
_ADDRESS: Json = {"masked_remote_address": {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}}


def _claim(key: str, claim: str, **options: str) -> Json:
    """An entry with a claim of a valid token. Without one there is no entry, and nothing to count."""
    where = {"key": "envoy.filters.http.jwt_authn", "path": [{"key": TOKEN_CLAIMS}, {"key": claim}]}
    return {"metadata": {"descriptor_key": key, "metadata_key": where, "source": "DYNAMIC", **options}}


def _route_group(**options: str) -> Json:
    where = {"key": _NAMESPACE, "path": [{"key": "group"}]}
    return {"metadata": {"descriptor_key": "group", "metadata_key": where, "source": "ROUTE_ENTRY", **options}}


def _bucket(per_second: int, **entries: str) -> Json:
    """A bucket for whatever has these entries; an empty value stands for any, each with a bucket of its own."""
    return {
        "entries": [{"key": key, **({"value": value} if value else {})} for key, value in entries.items()],
        "token_bucket": {
            "max_tokens": per_second * BURST_SECONDS,
            "tokens_per_fill": per_second,
            "fill_interval": "1s",
        },
    }
