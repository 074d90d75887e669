"""Commands that run a service alone, or all in one process."""

from collections.abc import Callable

import structlog
from rich.console import Console

from calltag.cli.configuration import log_level, service_settings
from calltag.cli.output import print_json
from calltag.cli.tour import welcome
from calltag.core.process.lifecycle import Lifecycle, run
from calltag.core.settings import Settings, unknown_settings
from calltag.core.telemetry.logging import Level, configure_logging
from calltag.core.telemetry.output import queue_output
from calltag.serve.app import Composition, Serving, run_composition

log = structlog.get_logger()


def serve_gateway(port: int | None, *, demo: bool, ready_json: bool) -> None:
    """Run until SIGTERM or Ctrl-C, as the other functions do."""
    settings = service_settings("gateway", port, demo=demo)
    _run(settings, Composition(gateway=True), _ready_line if ready_json else None)


def serve_worker(*, ready_json: bool) -> None:
    _run(service_settings(), Composition(worker=True), _ready_line if ready_json else None)


def serve_notifier(port: int | None, *, demo: bool, ready_json: bool) -> None:
    settings = service_settings("notifier", port, demo=demo)
    _run(settings, Composition(notifier=True), _ready_line if ready_json else None)


def serve_all(port: int | None, *, demo: bool, embedded: bool, ready_json: bool) -> None:
    settings = service_settings("gateway", port, demo=demo)
    if embedded:
        settings = _for_one_machine(settings)
    chosen = Composition(gateway=True, worker=True, notifier=True, embedded=embedded)

    ready = _ready_line if ready_json else _banner if demo else None
    # For a first look the banner says enough.
    _run(settings, chosen, ready, "warning" if embedded and demo else "info")


def _for_one_machine(settings: Settings) -> Settings:
    """Return settings with any free internal port, unless one is set: clients need only the public one."""
    if "port" in settings.internal.model_fields_set:
        return settings
    return settings.model_copy(update={"internal": settings.internal.model_copy(update={"port": 0})})


def _banner(serving: Serving) -> None:
    Console(stderr=False, highlight=False, soft_wrap=True).print(welcome(serving.parts), markup=False)


def _ready_line(serving: Serving) -> None:
    print_json([serving.public()])


def _run(
    settings: Settings,
    chosen: Composition,
    ready: Callable[[Serving], None] | None = None,
    usual_level: Level = "info",
) -> None:
    queue_output(settings.log.max_queued_bytes)
    configure_logging(chosen.name, form=settings.log.format, level=log_level(settings, usual_level))
    for sentence in unknown_settings():
        log.warning("setting_unknown", reason=sentence)

    async def service(life: Lifecycle) -> None:
        await run_composition(life, settings, chosen, ready)

    run(service)
