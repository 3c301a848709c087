"""Processes that are ended in the middle of their work."""

import os
import signal
import sys

HOWS = ("killed", "terminated", "interrupted")


def strike(how):
    """End this process, as the operating system, a scheduler or a user would."""
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        raise KeyboardInterrupt


def striking(how, count=1):
    """A function of any arguments that ends the process when it is called for the ``count``-th time."""
    calls = []

    def struck(*_arguments, **_options):
        calls.append(None)
        if len(calls) == count:
            strike(how)

    return struck


def before(function, first):
    """The function, preceded by a call of another one."""

    def both(*arguments, **options):
        first()
        return function(*arguments, **options)

    return both


def ended(job):
    """Do a job in a process of its own. Returns whether it ran to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno() if hasattr(sys.stdout, "fileno") else 1)
            os.dup2(null, 2)
            job()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return status == 0
