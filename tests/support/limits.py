"""The gateway's limits out of the way, for a few callers on one address that make everybody's calls."""

OUT_OF_THE_WAY = {
    "GUILDHALL_CALLS_PER_SECOND_OF_USER": "1000000",
    "GUILDHALL_CALLS_PER_SECOND_OF_SERVICE_ACCOUNT": "1000000",
    "GUILDHALL_CALLS_PER_SECOND_OF_ADDRESS": "1000000",
    "GUILDHALL_SIGN_INS_PER_SECOND_OF_ADDRESS": "1000000",
}
