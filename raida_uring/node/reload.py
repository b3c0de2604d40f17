"""Reading the configuration again, one at a time, told to the log and the service manager."""

import contextlib
import threading
from collections.abc import Callable

from raida_uring.admin.node import Reloaded
from raida_uring.config import Config
from raida_uring.errors import ConfigError, EngineError, RaidaError, StartError
from raida_uring.log import events
from raida_uring.node.server import Server
from raida_uring.node.servicemanager import Service


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
                if self._reread is None:
                    raise ConfigError("started without a configuration file")
                reloaded = self._server.reload(self._reread())
            except (ConfigError, StartError, EngineError) as error:
                remark = f"; the last reload failed: {error}"
                events.RELOAD_FAILED.log(error=error)
                raise
            except Exception as error:  # whatever it is, the node has something to go on with
                events.RELOAD_CRASHED.log(error=error, exc_info=True)
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


def _log(reloaded: Reloaded) -> None:
    events.RELOADED.log(
        changes=", ".join(map(str, reloaded.applied)) or "nothing to apply",
        applied=list(map(str, reloaded.applied)),
    )
    if reloaded.restart:
        names = ", ".join(map(str, reloaded.restart))
        events.RESTART_NEEDED.log(changes=names, settings=list(map(str, reloaded.restart)))
