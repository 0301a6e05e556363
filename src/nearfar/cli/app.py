"""The application: it gathers the commands and runs one."""

import traceback
from collections.abc import Sequence

import typer

from nearfar.cli import streams
from nearfar.cli.failures import tell
from nearfar.cli.notices import Notices
from nearfar.cli.root import app


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        0; 1 when it failed; 2 when it was asked wrongly.
    """
    streams.prepare()
    arguments = list(arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        with Notices(debug):
            code = _command(arguments)
        streams.flush()
        return code
    except BrokenPipeError:  # `nearfar losses | head`: who read has read enough
        streams.mute()
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _told(error)
    except KeyboardInterrupt as stop:
        return _told(stop)


def _command(arguments: list[str]) -> int:
    from nearfar.cli import bench, caffe, compare, completion, images, lists, mine, runs  # noqa: F401 (each adds its commands)

    with completion.words_joined():
        return typer.main.get_command(app).main(arguments, prog_name="nearfar", standalone_mode=False) or 0


def _told(error: BaseException) -> int:
    try:
        code = tell(error)
        streams.flush()
    except OSError:
        streams.mute()
        return 1
    return code
