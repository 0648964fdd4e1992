"""Users of another system, taken over with the hashes of their passwords."""

from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.identity import security, users
from services.identity.errors import EmailTaken
from services.identity.profiles import COLUMNS

# What the other system's clock calls the past may be the future here. (least() skips nulls.)
ADD = text(f"""
    INSERT INTO users (id, email, normalized_email, name, image_url, email_verified_at, password_hash)
    VALUES (
        :id, :email, :normalized_email, :name, :image_url,
        CASE WHEN CAST(:email_verified_at AS timestamptz) IS NOT NULL
            THEN least(CAST(:email_verified_at AS timestamptz), statement_timestamp()) END,
        :password_hash
    )
    ON CONFLICT (normalized_email) DO NOTHING
    RETURNING {COLUMNS}
""")


async def add(
    tx: AsyncConnection,
    *,
    email: str,
    normalized_email: str,
    name: str,
    image_url: str,
    email_verified_at: datetime | None,
    password_hash: str | None,
) -> Row[Any]:
    """A new user, as the other system knew them. EMAIL_TAKEN if there is one of that address, verified or not.

    Somebody who has only signed up with it, and not proven it, gives way. The security log has it with the service
    account: whoever holds its key knows the password, and says that the address is proven.
    """
    row = {
        "id": str(uuid_utils.uuid7()),
        "email": email,
        "normalized_email": normalized_email,
        "name": name,
        "image_url": image_url,
        "email_verified_at": email_verified_at,
        "password_hash": password_hash,
    }
    await users.drop_claim(tx, normalized_email=normalized_email)
    user = (await tx.execute(ADD, row)).one_or_none()
    if user is None:
        raise EmailTaken
    account_id = current_call().service_account_id
    await security.record(tx, "user_imported", user_id=str(user.id), service_account_id=account_id)
    return user
