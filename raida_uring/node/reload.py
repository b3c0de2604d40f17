"""Reading the configuration again, one at a time, told to the log and the service manager."""

import contextlib
import logging
import threading
from collections.abc import Callable

from raida_uring.config import Config
from raida_uring.errors import ConfigError, EngineError, RaidaError, StartError
from raida_uring.log import event
from raida_uring.node.server import Reloaded, Server
from raida_uring.node.service import Service

logger = logging.getLogger("raida_uring")


class Reload:
    """Thread: any."""

    def __init__(
        self, server: Server, service: Service, reread: Callable[[], Config] | None
    ) -> None:
        """reread: reads the configuration; None where there is no file to read."""
        self._server = server
        self._service = service
        self._reread = reread
        self._lock = threading.Lock()

    def run(self) -> Reloaded:
        """Apply what can change. Raises ConfigError, EngineError or StartError, with nothing
        changed."""
        with self._lock:
            if self._server.phase != "serving":
                raise StartError("the node is stopping")
            self._service.reloading()
            remark = ""
            try:
                reloaded = self._apply()
            except (ConfigError, StartError, EngineError) as error:
                remark = f"; the last reload failed: {error}"
                logger.error(
                    "not reloaded, nothing changed: %s", error, extra=event("reload_failed")
                )
                raise
            except Exception as error:  # whatever it is, the node has something to go on with
                logger.exception("not reloaded: %r", error, extra=event("reload_failed"))
                raise StartError(f"a fault of the node, see its log: {error!r}") from error
            finally:
                if self._server.phase == "serving":  # otherwise STOPPING=1 must stand
                    self._service.reloaded(remark)
        _log(reloaded)
        return reloaded

    def run_quietly(self) -> None:
        """The same for a signal: the log has the outcome."""
        with contextlib.suppress(RaidaError):
            self.run()

    def _apply(self) -> Reloaded:
        if self._reread is None:
            raise ConfigError("started without a configuration file")
        return self._server.reload(self._reread())


def _log(reloaded: Reloaded) -> None:
    logger.info(
        "reloaded: %s",
        ", ".join(map(str, reloaded.applied)) or "nothing to apply",
        extra=event("reloaded", applied=list(map(str, reloaded.applied))),
    )
    if reloaded.restart:
        names = ", ".join(map(str, reloaded.restart))
        logger.warning(
            "need a restart: %s",
            names,
            extra=event("restart_needed", settings=list(map(str, reloaded.restart))),
        )
