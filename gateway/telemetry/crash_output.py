"""What Python itself says of an exception that nobody caught: to standard error, and without the vendor key.

Lines of the log are looked through by their writer. These are none: they come when there is no writer any more, or from
where no logger is asked.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


def keep_secrets(withhold: Callable[[bytes], bytes]) -> None:
    """Have `withhold` take secrets out of every traceback that Python writes in this process from now on."""

    def tell(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        with suppress(OSError):  # Python would print the exception itself, as it is
            sys.stderr.write(withhold(text.encode("utf-8", "backslashreplace")).decode())

    sys.excepthook = tell
    threading.excepthook = lambda told: tell(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: tell(told.exc_type, told.exc_value, told.exc_traceback)
