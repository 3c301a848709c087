"""Work in a process of its own, without the seconds that a new interpreter takes to import everything."""

import multiprocessing
import os
import runpy
import sys
import tempfile
import warnings


def begun(work, *arguments):
    """Begin the work in a forked process."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def done(work, *arguments):
    """Do the work in a forked process. Returns its exit code, negative for a signal, and what it has printed."""
    with tempfile.TemporaryFile("w+") as printed:

        def redirected():
            for number in (1, 2):
                os.dup2(printed.fileno(), number)
            sys.stdout = sys.stderr = printed
            work(*arguments)

        process = begun(redirected)
        process.join()
        printed.seek(0)
        return process.exitcode, printed.read()


def printed_by(script, *arguments, folder="."):
    """What a script prints that is run in a folder, as by ``python script arguments``."""

    def run():
        os.chdir(folder)
        sys.argv, sys.path[0] = [str(script), *arguments], str(script.parent)
        warnings.resetwarnings()
        runpy.run_path(str(script), run_name="__main__")

    code, printed = done(run)
    assert code == 0, printed[-3000:]
    return printed
