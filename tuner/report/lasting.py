"""A console of a process that works on when its output cannot be written any more."""

import logging
import os

from rich.console import Console

log = logging.getLogger(__name__)


class LastingConsole(Console):
    """A console whose reader may go, and whose disc may be full: nothing is shown then, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Shows nothing from now on; what is written to the file otherwise is lost without a fault."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)
        log.warning("nobody reads the output any more; the work goes on")

    def _check_buffer(self) -> None:
        """Writes what was printed or drawn; what cannot be written is logged, and is not written later either."""
        try:
            super()._check_buffer()
        except (OSError, ValueError) as error:  # such as of a full disc, or of characters that its encoding lacks
            del self._buffer[:]
            log.warning("the output cannot be written: %s", error)
