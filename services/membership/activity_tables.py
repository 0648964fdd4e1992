"""The tables of the activity log: rows that are only ever inserted, and what of them can be forgotten (ADR 8)."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis.tables import CLOCK

ACTIVITIES = MetaData()

# The service's role may insert and read here, and nothing else.
activities = Table(
    "activities",
    ACTIVITIES,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("number", BigInteger, nullable=False, comment="1, 2, 3 … in the workspace, given out by its head"),
    Column("happened_at", DateTime(timezone=True), nullable=False),
    Column("action", Text(collation="C"), nullable=False),
    Column("outcome", Text, nullable=False),
    Column("actor_ref", Uuid(as_uuid=False), comment="of activity_people; empty: the suite, or a service account"),
    Column("actor_account_id", Uuid(as_uuid=False), comment="the service account"),
    Column("target_type", Text(collation="C"), nullable=False),
    Column("target_id", Uuid(as_uuid=False), comment="a thing; empty for people"),
    Column("target_ref", Uuid(as_uuid=False), comment="of activity_people"),
    Column("metadata", JSONB, nullable=False, comment="nothing about people"),
    Column("request_id", Text, nullable=False),
    Column("actor_details_hash", LargeBinary, comment="of the salt and body in activity_details"),
    Column("target_details_hash", LargeBinary, comment="likewise"),
    Column("hash", LargeBinary, nullable=False, comment="of this row and the hash before it"),
    PrimaryKeyConstraint("workspace_id", "number", name="activities_pkey"),
    # No CASCADE anywhere here: PostgreSQL would cascade with the owner's rights, not with the service's.
    ForeignKeyConstraint(["workspace_id"], ["workspace_heads.workspace_id"], name="activities_head_fkey"),
    CheckConstraint("number >= 1", name="activities_number"),
    CheckConstraint("outcome IN ('done', 'refused')", name="activities_outcome"),
    CheckConstraint("octet_length(hash) = 32", name="activities_hash_length"),
    CheckConstraint("num_nonnulls(actor_ref, actor_account_id) <= 1", name="activities_one_actor"),
    Index("activities_actor", "workspace_id", "actor_ref", "number"),
    Index("activities_action", "workspace_id", "action", "number"),
    Index("activities_target", "workspace_id", "target_type", "target_id", "number"),
    Index("activities_person", "workspace_id", "target_ref", "number"),
    Index("activities_time", "workspace_id", "happened_at"),
    # For the ten refusals of somebody in a minute.
    Index(
        "activities_refused",
        "workspace_id",
        "actor_ref",
        "happened_at",
        postgresql_where=text("outcome = 'refused'"),
    ),
    # For lists of them.
    Index("activities_refused_number", "workspace_id", "number", postgresql_where=text("outcome = 'refused'")),
)

# Deleting a row here is what forgetting a person means. No UPDATE.
activity_people = Table(
    "activity_people",
    ACTIVITIES,
    Column("ref", Uuid(as_uuid=False), nullable=False, comment="random, of one person in one workspace"),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("ref", name="activity_people_pkey"),
    UniqueConstraint("workspace_id", "user_id", name="activity_people_user_key"),
    Index("activity_people_of_user", "user_id"),
)

# Session, address, program of the actor; reason and personal values of the target. No UPDATE.
activity_details = Table(
    "activity_details",
    ACTIVITIES,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("about", Text, nullable=False),
    Column("ref", Uuid(as_uuid=False), nullable=False, comment="of activity_people: whose it is"),
    Column("salt", LargeBinary, nullable=False, comment="32 random bytes: once gone, the hash tells nothing"),
    Column("body", JSONB, nullable=False),
    PrimaryKeyConstraint("workspace_id", "number", "about", name="activity_details_pkey"),
    # No foreign key to activities, whose rows never go: checking it cost more than all the rest of an append.
    CheckConstraint("about IN ('actor', 'target')", name="activity_details_about"),
    CheckConstraint("octet_length(salt) = 32", name="activity_details_salt_length"),
    Index("activity_details_ref", "ref"),
)
