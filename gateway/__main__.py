"""Run the command line: `pixxel-gateway`, or `python -m gateway`.

Nothing that takes long is imported before the signal handlers are in place.
"""

import errno
import sys

from gateway.app import startup


def main() -> None:
    """Run the command that the arguments name, and end the process with its exit code."""
    if startup.is_serving(sys.argv[1:]):
        startup.catch_signals()
    startup.open_standard_streams()
    code: object = 1
    try:
        from gateway.cli.main import main as run  # noqa: PLC0415 - see above

        code = run()
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `pixxel-gateway schema | head`
        pass
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EIO}:
            startup.complain(f"standard output cannot be written: {error.strerror}")
        else:
            sys.excepthook(*sys.exc_info())
    except BaseException:  # noqa: BLE001 - the interpreter would print it as well, and then wait for threads
        sys.excepthook(*sys.exc_info())
    startup.leave(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
