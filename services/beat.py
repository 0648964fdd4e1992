"""The one Celery beat of the suite: has every service's worker sweep each minute. Two at once do no harm."""

from celery.beat import Scheduler

from services.chassis.celery import make_app
from services.chassis.settings import BrokerSettings, load
from services.chassis.worker import sweep_task

SERVICES = ("identity", "membership", "guest", "messaging")
SWEEP_SECONDS = 60


def main() -> None:
    """Runs beat until SIGTERM. The schedule is in memory: a sweep that was missed is made up by the next."""
    app = make_app("beat", load(BrokerSettings).redis_url)
    app.conf.beat_schedule = {
        name: {
            "task": sweep_task(name),
            "schedule": SWEEP_SECONDS,
            "options": {"queue": name, "expires": SWEEP_SECONDS},
        }
        for name in SERVICES
    }
    app.Beat(scheduler_cls=Scheduler, loglevel="WARNING").run()


if __name__ == "__main__":
    main()
