"""messaging's wiring."""

from collections.abc import Callable, Iterable, Mapping

from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.messaging.v1 import (
    conversation_service_pb2_grpc,
    event_service_pb2_grpc,
    file_service_pb2_grpc,
    message_service_pb2_grpc,
    reaction_service_pb2_grpc,
    read_state_service_pb2_grpc,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import command
from services.chassis.frame import Frame
from services.chassis.inbox import Consumer
from services.chassis.worker import Sweep, Worker
from services.messaging import ageing, erasures, files, group_conversations, purges, read_states
from services.messaging.access import Access
from services.messaging.blobs import open_blobs
from services.messaging.changes import Changes
from services.messaging.downloads import Downloads
from services.messaging.file_sweeps import Sweeps, blob_remover, releaser
from services.messaging.group_lookups import GroupLookups
from services.messaging.group_syncs import GroupSyncs
from services.messaging.guards import Guard
from services.messaging.guest_sight import Sights
from services.messaging.hub import WOKEN_CONVERSATIONS, WOKEN_SIGHTS, Hub
from services.messaging.outgoing import Outgoing
from services.messaging.participants import remove_member
from services.messaging.peers import Guests, Membership
from services.messaging.promotions import guest_promoted
from services.messaging.publishing import Publication
from services.messaging.rates import Rates
from services.messaging.search_entries import SearchEntries
from services.messaging.servicers.conversations import ConversationService
from services.messaging.servicers.events import EventService
from services.messaging.servicers.files import FileService
from services.messaging.servicers.messages import MessageService
from services.messaging.servicers.reactions import ReactionService
from services.messaging.servicers.read_states import ReadStateService
from services.messaging.settings import MessagingSettings, MessagingWorkerSettings
from services.messaging.signals import WOKEN_READ_STATES, WOKEN_TYPING, Signals
from services.messaging.tables import METADATA
from services.messaging.uploads import Uploads

SERVICE = "messaging"


def build(settings: MessagingSettings) -> Frame:
    """The service, wired but not started."""
    frame = Frame(SERVICE, settings, consumes=_consumers(lambda: syncs.wake(), lambda: membership))
    database, secret, wakes = frame.database, frame.secret, frame.wakes
    membership, guests = Membership(frame.channels["membership"]), Guests(frame.channels["guest"])
    groups = GroupLookups(database)
    access = Access(database, membership, guests, groups)
    sights = Sights(database, access=access, guests=guests)
    guard = Guard(check_sessions=frame.sessions.check, membership=membership, guests=guests)
    publications: set[Publication] = set()
    hub = Hub(database, access=access, guard=guard, sights=sights, publications=publications)
    search_entries = SearchEntries(database)

    def heard(conversation_id: str) -> None:
        hub.wake(conversation_id)
        search_entries.wake(conversation_id)

    def on_changed(conversation_id: str) -> None:
        heard(conversation_id)
        wakes.publish(WOKEN_CONVERSATIONS, conversation_id)

    def on_sights(workspace_id: str) -> None:
        hub.wake_sights(workspace_id)
        wakes.publish(WOKEN_SIGHTS, workspace_id)

    def on_stored(conversation_ids: Iterable[str]) -> None:
        for conversation_id in conversation_ids:
            on_changed(conversation_id)

    changes = Changes(database, secret, on_changed=on_changed)
    syncs = GroupSyncs(database, membership, on_changed=on_changed, on_sights=on_sights)
    conversation_service = ConversationService(
        database,
        secret,
        access=access,
        membership=membership,
        guests=guests,
        sights=sights,
        changes=changes,
        on_sights=on_sights,
        on_group=syncs.wake,
    )
    frame.add(conversation_service_pb2_grpc.add_ConversationServiceServicer_to_server, conversation_service)
    outgoing = _outgoing(frame, settings, membership=membership, guests=guests, groups=groups, on_stored=on_stored)
    _add_messages(
        frame,
        access=access,
        membership=membership,
        sights=sights,
        changes=changes,
        outgoing=outgoing,
        publications=publications,
    )
    _add_reactions(frame, access=access, changes=changes, sights=sights)
    _add_files(frame, settings, access=access, changes=changes)
    _add_live(frame, access=access, guard=guard, hub=hub, sights=sights)
    frame.background(syncs.run())
    frame.background(search_entries.run())
    frame.hear(WOKEN_CONVERSATIONS, heard)
    return frame


def _outgoing(
    frame: Frame,
    settings: MessagingSettings,
    *,
    membership: Membership,
    guests: Guests,
    groups: GroupLookups,
    on_stored: Callable[[Iterable[str]], None],
) -> Outgoing:
    rates = Rates(
        of_sender=settings.messages_per_second_of_sender, of_workspace=settings.messages_per_second_of_workspace
    )
    return Outgoing(
        frame.database,
        check_sessions=frame.sessions.check,
        membership=membership,
        guests=guests,
        on_stored=on_stored,
        rates=rates,
        groups=groups,
    )


def _add_messages(
    frame: Frame,
    *,
    access: Access,
    membership: Membership,
    sights: Sights,
    changes: Changes,
    outgoing: Outgoing,
    publications: set[Publication],
) -> None:
    message_service = MessageService(
        frame.database,
        frame.secret,
        access=access,
        membership=membership,
        sights=sights,
        changes=changes,
        outgoing=outgoing,
        publications=publications,
    )
    frame.add(message_service_pb2_grpc.add_MessageServiceServicer_to_server, message_service)
    frame.on_drain(message_service.drain)


def _add_reactions(frame: Frame, *, access: Access, changes: Changes, sights: Sights) -> None:
    reaction_service = ReactionService(frame.database, frame.secret, access=access, changes=changes, sights=sights)
    frame.add(reaction_service_pb2_grpc.add_ReactionServiceServicer_to_server, reaction_service)


def _add_files(frame: Frame, settings: MessagingSettings, *, access: Access, changes: Changes) -> None:
    blobs = open_blobs(settings)
    uploads = Uploads(frame.database, blobs, access=access, sessions=frame.sessions)
    downloads = Downloads(frame.database, blobs, access=access, sessions=frame.sessions)
    frame.on_close(uploads.close)
    servicer = FileService(
        frame.database,
        frame.secret,
        access=access,
        changes=changes,
        uploads=uploads,
        downloads=downloads,
        settings=settings,
    )
    frame.add(file_service_pb2_grpc.add_FileServiceServicer_to_server, servicer)


def _add_live(frame: Frame, *, access: Access, guard: Guard, hub: Hub, sights: Sights) -> None:
    """Streams, and what is told on them without being stored as an event."""
    signals = Signals(frame.database, hub=hub, guard=guard, wakes=frame.wakes, sights=sights)
    event_service = EventService(frame.database, access=access, hub=hub, signals=signals)
    frame.add(event_service_pb2_grpc.add_EventServiceServicer_to_server, event_service)
    read_state_service = ReadStateService(frame.database, frame.secret, access=access, signals=signals, sights=sights)
    frame.add(read_state_service_pb2_grpc.add_ReadStateServiceServicer_to_server, read_state_service)
    frame.hear(WOKEN_SIGHTS, hub.wake_sights)
    frame.hear(WOKEN_READ_STATES, signals.hear_moved)
    frame.hear(WOKEN_TYPING, signals.hear_typing)
    for work in (hub.run, hub.watch_sessions, hub.watch_access, signals.run):
        frame.background(work())
    frame.on_drain(hub.drain)


async def _member_removed(tx: AsyncConnection, removed: events.MemberRemoved) -> None:
    """Participation, read states and what was announced hang on the member id that ended."""
    is_done = await remove_member(tx, removed)
    await read_states.member_removed(tx, removed)
    if is_done:
        # Once: for who took part in thousands of conversations the event comes dozens of times.
        await files.member_removed(tx, removed)


def _consumers(on_group: Callable[[], None], membership: Callable[[], Membership]) -> Mapping[str, Consumer]:
    """`membership` is there once the service is wired, which is before any event comes."""

    async def promoted(tx: AsyncConnection, event: events.GuestPromoted) -> None:
        await guest_promoted(tx, event, membership=membership())

    return {
        "member_removed": Consumer({"membership"}, _member_removed),
        "user_deleted": Consumer({"identity"}, erasures.user_deleted),
        "workspace_deleted": Consumer({"membership"}, purges.workspace_deleted),
        "group_membership_changed": Consumer({"membership"}, group_conversations.membership_changed, on_group),
        "group_deleted": Consumer({"membership"}, group_conversations.group_deleted),
        "guest_promoted": Consumer({"guest"}, promoted),
    }


async def serve(settings: MessagingSettings) -> None:
    """Serves until SIGTERM."""
    await build(settings).run()


def worker(settings: MessagingWorkerSettings) -> None:
    """Removes what is past its time, and what deleted workspaces, people and files leave behind, until SIGTERM."""
    process = Worker(SERVICE, settings)
    database, blobs = process.database, open_blobs(settings)
    works = {
        **purges.works(database),
        erasures.ERASE: erasures.eraser(database),
        files.REMOVE_BLOBS: blob_remover(database, blobs),
        files.RELEASE: releaser(database),
    }
    of_files = Sweeps(database, blobs)
    sweeps: Mapping[str, Sweep] = {
        "expire_files": of_files.expired,
        "remove_orphaned_blobs": of_files.orphans,
        "purge_messages": lambda: ageing.purge_messages(database),
        "purge_events": lambda: ageing.purge_events(database),
    }
    process.serve(works, sweeps=sweeps)


if __name__ == "__main__":
    command.run(
        SERVICE,
        serve=serve,
        worker=worker,
        metadata=METADATA,
        serve_settings=MessagingSettings,
        worker_settings=MessagingWorkerSettings,
    )
