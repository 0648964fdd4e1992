"""messaging's wiring."""

from collections.abc import Iterable

from guildhall.messaging.v1 import (
    conversation_service_pb2_grpc,
    event_service_pb2_grpc,
    file_service_pb2_grpc,
    message_service_pb2_grpc,
)

from services.chassis import command
from services.chassis.frame import Frame
from services.chassis.inbox import Consumer
from services.chassis.worker import Worker
from services.messaging import files, purges
from services.messaging.access import Access
from services.messaging.blobs import open_blobs
from services.messaging.changes import Changes
from services.messaging.conversations import remove_member
from services.messaging.downloads import Downloads
from services.messaging.file_sweeps import Sweeps, blob_remover
from services.messaging.guards import Guard
from services.messaging.hub import WOKEN_CONVERSATIONS, WOKEN_SIGHTS, Hub
from services.messaging.outgoing import Outgoing
from services.messaging.peers import Guests, Membership
from services.messaging.promotions import guest_promoted
from services.messaging.rates import Rates
from services.messaging.servicers.conversations import ConversationService
from services.messaging.servicers.events import EventService
from services.messaging.servicers.files import FileService
from services.messaging.servicers.messages import MessageService
from services.messaging.settings import MessagingSettings, MessagingWorkerSettings
from services.messaging.tables import METADATA
from services.messaging.uploads import Uploads

SERVICE = "messaging"


def build(settings: MessagingSettings) -> Frame:
    """The service, wired but not started."""
    frame = Frame(
        SERVICE,
        settings,
        consumes={
            "member_removed": Consumer({"membership"}, remove_member),
            "workspace_deleted": Consumer({"membership"}, purges.workspace_deleted),
            "guest_promoted": Consumer({"guest"}, guest_promoted),
        },
    )
    database, secret, wakes = frame.database, frame.secret, frame.wakes
    membership, guests = Membership(frame.channels["membership"]), Guests(frame.channels["guest"])
    access = Access(membership, guests)
    guard = Guard(check_sessions=frame.sessions.check, membership=membership, guests=guests)
    hub = Hub(database, access=access, guard=guard)
    frame.add(
        conversation_service_pb2_grpc.add_ConversationServiceServicer_to_server,
        ConversationService(database, secret, access=access, hub=hub, wakes=wakes),
    )

    def on_stored(conversation_ids: Iterable[str]) -> None:
        for conversation_id in conversation_ids:
            hub.wake(conversation_id)
            wakes.publish(WOKEN_CONVERSATIONS, conversation_id)

    outgoing = Outgoing(
        database,
        check_sessions=frame.sessions.check,
        membership=membership,
        guests=guests,
        on_stored=on_stored,
        rates=Rates(
            of_sender=settings.messages_per_second_of_sender,
            of_workspace=settings.messages_per_second_of_workspace,
        ),
    )
    message_service = MessageService(database, secret, access=access, outgoing=outgoing)
    frame.add(message_service_pb2_grpc.add_MessageServiceServicer_to_server, message_service)
    frame.add(event_service_pb2_grpc.add_EventServiceServicer_to_server, EventService(hub))
    changes = Changes(database, secret, on_changed=lambda conversation_id: on_stored([conversation_id]))
    _add_files(frame, settings, access=access, changes=changes)
    frame.hear(WOKEN_CONVERSATIONS, hub.wake)
    frame.hear(WOKEN_SIGHTS, hub.wake_sights)
    for work in (hub.run, hub.watch_sessions, hub.watch_access):
        frame.background(work())
    frame.on_drain(hub.drain)
    frame.on_drain(message_service.drain)
    return frame


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


async def serve(settings: MessagingSettings) -> None:
    """Serves until SIGTERM."""
    await build(settings).run()


def worker(settings: MessagingWorkerSettings) -> None:
    """Removes what deleted workspaces and files leave behind, until SIGTERM."""
    process = Worker(SERVICE, settings)
    blobs = open_blobs(settings)
    sweeps = Sweeps(process.database, blobs)
    process.serve(
        {purges.PURGE: purges.workspace_purger(process.database), files.REMOVE_BLOBS: blob_remover(blobs)},
        sweeps=[sweeps.expired, sweeps.orphans],
    )


if __name__ == "__main__":
    command.run(
        SERVICE,
        serve=serve,
        worker=worker,
        metadata=METADATA,
        serve_settings=MessagingSettings,
        worker_settings=MessagingWorkerSettings,
    )
