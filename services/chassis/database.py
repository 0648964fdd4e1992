"""PostgreSQL: three pools per process, one transaction per unit of work, retried as a whole.

Time limits belong to the database role: cancelling a statement from here can take ten seconds.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import psycopg
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from services.chassis import metrics, traces
from services.chassis.errors import StorageUnavailable
from services.chassis.settings import DatabaseSettings

T = TypeVar("T")

LOCK_NOT_AVAILABLE = "55P03"
RETRYABLE = frozenset({"40001", "40P01", LOCK_NOT_AVAILABLE})
"""serialization_failure, deadlock_detected, lock_not_available."""
TRIES = 5
IDLE_SECONDS = 5.0
OUTBOX_WRITTEN = "guildhall_outbox_written"


class ConnectionLost(StorageUnavailable):
    """The connection was dead before COMMIT was sent, so nothing has happened and all of it can be done again."""


class CountedPool(AsyncAdaptedQueuePool):
    """A pool that knows how many wait for one of its connections, and counts those who got none in time."""

    waiting = 0

    def _do_get(self) -> ConnectionPoolEntry:
        self.waiting += 1
        try:
            return super()._do_get()
        except exc.TimeoutError:
            metrics.POOL_TIMEOUTS.labels(self.logging_name).inc()
            raise
        finally:
            self.waiting -= 1


class Database:
    """The service's pools. `on_outbox` is called after each commit that wrote an outbox row."""

    def __init__(self, settings: DatabaseSettings, *, pool_size: int = 4) -> None:
        """`pool_size` connections for transactions, as many for single statements, as many for those of hot paths."""
        self._settings = settings
        self._running: set[asyncio.Future[Any]] = set()
        self.on_outbox: Callable[[], None] = lambda: None
        self._transactions = self._engine(pool_size, name="transactions")
        # Connections of their own: switching one to autocommit and back costs half of what a statement does.
        self._statements = self._engine(
            pool_size, name="statements", isolation_level="AUTOCOMMIT", pool_reset_on_return=None
        )
        # PostgreSQL takes a batch of one for cheaper than its plan for any batch, and plans it anew each time: that
        # took a third of the time of storing a message. Not for all statements: a search lives by its parameters.
        self._hot = self._engine(pool_size, name="hot", isolation_level="AUTOCOMMIT", pool_reset_on_return=None)
        event.listen(self._hot.sync_engine, "connect", _plan_once)

    def _engine(self, pool_size: int, *, name: str, **options: Any) -> AsyncEngine:
        # No pool_pre_ping: asking before every transaction costs a third more; only idle connections are asked.
        engine = create_async_engine(
            self._settings.database_url.replace("postgresql://", "postgresql+psycopg://", 1),
            poolclass=CountedPool,
            pool_logging_name=name,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=1,
            pool_recycle=1800,
            # Parameters are what people wrote, and an exception's text ends in logs.
            hide_parameters=True,
            connect_args={
                "connect_timeout": 3,
                "tcp_user_timeout": 5000,
                "keepalives_idle": 30,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
            **options,
        )
        event.listen(engine.sync_engine, "do_connect", self._add_password)
        event.listen(engine.sync_engine, "checkin", _note_idle)
        event.listen(engine.sync_engine, "checkout", _ping_idle)
        _show(engine, name, pool_size)
        if traces.active is not None:
            traces.active.watch(engine.sync_engine)
        return engine

    def _add_password(self, _dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
        parameters["password"] = self._settings.database_password

    async def transaction(self, work: Callable[[AsyncConnection], Awaitable[T]], *, tries: int = TRIES) -> T:
        """Runs `work` in one transaction and commits. `work` may run more than once, so it has no effect but on `tx`.

        The caller's cancellation does not reach it: a unit of work ends by itself, within the role's limits.
        """
        return await self._shielded(self._retried(work, tries))

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]], *, hot: bool = False) -> T:
        """Runs statements that only read, each in a transaction of its own: no BEGIN and COMMIT to wait for.

        `hot` is for those whose plan is the same whatever they are asked: it is made once per connection.
        """
        return await self._shielded(self._read_again(work, self._hot if hot else self._statements))

    async def atomic(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Runs one statement that writes: it is a transaction by itself, in one round trip. Not retried.

        Its plan is made once per connection.
        """
        return await self._shielded(self._read(work, self._hot))

    async def _shielded(self, work: Awaitable[T]) -> T:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Looked at here, because a caller who was cancelled no longer does.
            task.exception()

    async def _read_again(self, work: Callable[[AsyncConnection], Awaitable[T]], engine: AsyncEngine) -> T:
        try:
            return await self._read(work, engine)
        except exc.DBAPIError as error:
            # As in a transaction: the first to meet a restarted server finds its connection dead.
            if not error.connection_invalidated:
                raise
        return await self._read(work, engine)

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]], engine: AsyncEngine) -> T:
        async with engine.connect() as connection:
            return await work(connection)

    async def _retried(self, work: Callable[[AsyncConnection], Awaitable[T]], tries: int) -> T:
        give_up = time.monotonic() + 8
        lost = False
        attempt = 0
        while True:
            try:
                return await self._once(work)
            except ConnectionLost:
                # The first to meet a restarted server finds its connection dead; the pool has new ones then.
                if lost:
                    raise
                lost = True
            except exc.DBAPIError as error:
                attempt += 1
                if not _retryable(error) or time.monotonic() > give_up:
                    raise
                if attempt >= tries:
                    raise StorageUnavailable from error
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))

    async def _once(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._transactions.connect() as tx:
            try:
                async with tx.begin():
                    try:
                        result = await work(tx)
                    except exc.DBAPIError as error:
                        if error.connection_invalidated:
                            raise ConnectionLost from error
                        raise
                if tx.info.get(OUTBOX_WRITTEN):
                    self.on_outbox()
            finally:
                # info lives as long as the pooled connection, so the mark must not outlive the transaction.
                if not tx.invalidated:
                    tx.info.pop(OUTBOX_WRITTEN, None)
            return result

    async def close(self) -> None:
        """Waits for the units of work that still run, then closes the pool."""
        if self._running:
            await asyncio.wait(self._running, timeout=15)
        await self._transactions.dispose()
        await self._statements.dispose()
        await self._hot.dispose()


def sqlstate(error: exc.DBAPIError) -> str:
    """PostgreSQL's code of an error, or an empty string."""
    return (error.orig.sqlstate or "") if isinstance(error.orig, psycopg.Error) else ""


def _retryable(error: exc.DBAPIError) -> bool:
    return sqlstate(error) in RETRYABLE


def _plan_once(connection: Any, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("SET plan_cache_mode = force_generic_plan")
    cursor.close()
    connection.rollback()


def _show(engine: AsyncEngine, name: str, pool_size: int) -> None:
    """Has Prometheus read the pool when it asks; the engine has another one after `dispose`."""
    metrics.POOL_SIZE.labels(name).set(pool_size)
    metrics.POOL_USED.labels(name).set_function(lambda: cast(CountedPool, engine.pool).checkedout())
    metrics.POOL_WAITING.labels(name).set_function(lambda: cast(CountedPool, engine.pool).waiting)
    # A counter that is first seen at 1 has not risen for Prometheus.
    metrics.POOL_TIMEOUTS.labels(name)


def _note_idle(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["idle_since"] = time.monotonic()


def _ping_idle(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
    """Asks a connection that was idle for long; the pool replaces one found dead and tries again."""
    if time.monotonic() - record.info.get("idle_since", time.monotonic()) < IDLE_SECONDS:
        return
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.close()
        connection.rollback()
    except Exception as error:
        raise exc.DisconnectionError from error
