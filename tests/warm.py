"""A Python that has imported all, and forks what it is asked to run: real processes in little time.

``python warm.py serve SOCKET WHAT`` is that Python, where WHAT is a key of IMPORTS; ``python -I -S
warm.py ask SOCKET ARGUMENTS...`` is ``python ARGUMENTS...`` run by a fork of it: the same output,
signals, folder, environment and exit code. An import of PyTorch, transformers and ColossalAI takes
9 s of CPU time, a fork none. How a process starts by itself is not tested in this way: for that,
tests start `sys.executable`.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress

#: Read when they are imported, by Python and by libraries, so that a fork cannot have others.
EARLY = ("TORCH_", "TORCHINDUCTOR_", "OMP_", "MKL_", "PYTHON", "CUDA_", "LD_")
#: The same, of the libraries that know the hub.
EARLY_FOR_THE_HUB = ("HF_", "TRANSFORMERS_", "DATASETS_")
#: One word that all processes of a launch have: in this variable, or, where forked, as their name.
MARK = "VIT_COLOSSAL_TEST_LAUNCH"
#: What `sys.executable` is in a fork, if set: a program of `warm_programs`, for its own children.
PYTHON = "VIT_COLOSSAL_TEST_EXECUTABLE"
#: A name of a process holds no more.
NAME_LENGTH = 15
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
CANNOT_RUN = 125
#: The environment before the imports, some of which add to it.
STARTED_WITH = dict(os.environ)


def ask(path: str, arguments: list[str]) -> int:
    """Have ``python ARGUMENTS...`` run with this process's streams, and end as it ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = {"arguments": arguments, "folder": os.getcwd(), "variables": dict(os.environ)}
        text = json.dumps(request).encode()
        socket.send_fds(connection, [len(text).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(text)
        answers = connection.makefile()
        pid = int(answers.readline())
        for number in PASSED_ON:
            signal.signal(number, lambda number, frame: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        code = os.waitstatus_to_exitcode(int(answers.readline()))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def import_what_knows_no_hub() -> None:
    """The larger part of what the commands import; the rest reads where the hub is."""
    from importlib import import_module

    for name in ("torch._inductor.compile_fx", "torch.distributed.tensor", "torchvision"):
        import_module(name)
    for name in ("bitsandbytes", "scipy.stats", "sklearn.datasets", "pandas", "pyarrow.dataset"):
        import_module(name)
    for name in ("pydantic_settings", "rich.logging", "torch.utils.tensorboard", "PIL.Image"):
        import_module(name)
    assert not {"huggingface_hub", "transformers", "datasets"} & sys.modules.keys()


def import_all() -> None:
    """What the commands import, with ColossalAI set up for the CPU."""
    from importlib import import_module

    from vit_colossal import runtime
    from vit_colossal.commands.names import SUMMARIES

    runtime.activate("cpu")
    for name in ("ddp", "zero", "gemini", "hybrid"):
        import_module(f"vit_colossal.strategies.{name}")
    for name in SUMMARIES:
        import_module(f"vit_colossal.commands.{name}")
    for name in ("training.run", "training.fit", "data.loaders", "rundir.log_lines"):
        import_module(f"vit_colossal.{name}")
    for name in ("datasets", "sklearn.datasets", "rich.logging"):
        import_module(name)


IMPORTS = {"all": import_all, "what knows no hub": import_what_knows_no_hub}


def serve(path: str, what: str) -> socket.socket:
    """Import, and fork for each that asks, until the standard input ends.

    Args:
        path: of the socket.
        what: a key of IMPORTS.

    Returns:
        In the forks, the connection to the one that asked.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()  # who asks before all is imported waits
        gc.disable()
        IMPORTS[what]()
        gc.freeze()
        gc.enable()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
        while True:
            ready, _, _ = select.select([listener, 0], [], [])
            if 0 in ready:
                os._exit(0)
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return connection
            connection.close()


def fork_the_command(connection: socket.socket) -> dict:  # type: ignore[type-arg]
    """Fork once more: this process waits for the command, and is its end when it is left alone.

    Returns:
        In the command's process, what was asked for.
    """
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    request = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return dict(request)
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    connection.sendall(f"{pid}\n".encode())
    process = os.pidfd_open(pid)
    ready, _, _ = select.select([process, connection], [], [])  # it has nothing more to say
    if process not in ready:  # who asked was killed
        _kill(pid)
    _, status = os.waitpid(pid, 0)
    if process in ready:
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def _kill(pid: int) -> None:
    """A process and all that it started, as whoever asked would have killed what it started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in [top, *top.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def become(request: dict) -> list[str]:  # type: ignore[type-arg]
    """Take the folder, the environment and the name of a process that was started by itself.

    Returns:
        The arguments of ``python``.
    """
    os.setsid()
    os.chdir(request["folder"])
    wanted = request["variables"]
    _take_path(wanted.get("PYTHONPATH", ""))
    early = EARLY + (EARLY_FOR_THE_HUB if "huggingface_hub" in sys.modules else ())
    for name in (wanted.keys() | STARTED_WITH.keys()) - {"PYTHONPATH"}:
        here = (STARTED_WITH.get(name), os.environ.get(name))
        if name.startswith(early) and wanted.get(name) not in here:
            print(f"{name} is read at imports: start this by itself", file=sys.stderr)
            os._exit(CANNOT_RUN)
    for name in STARTED_WITH.keys() - wanted.keys():
        os.environ.pop(name, None)
    os.environ.update(wanted)  # what the imports have set stays
    with open("/proc/self/comm", "w") as name:
        name.write(wanted.get(MARK, "")[:NAME_LENGTH])
    sys.executable = wanted.get(PYTHON, sys.executable)
    import numpy as np

    np.random.seed()  # as in a new process
    return list(request["arguments"])


def _take_path(wanted: str) -> None:
    """Import from the folders of another PYTHONPATH, if nothing came from those that it lacks."""
    here = STARTED_WITH.get("PYTHONPATH", "").split(os.pathsep)
    folders = wanted.split(os.pathsep)
    if gone := tuple(os.path.join(folder, "") for folder in here if folder not in folders):
        files = [getattr(module, "__file__", None) or "" for module in sys.modules.values()]
        if any(file.startswith(gone) for file in files):
            print(f"PYTHONPATH {wanted}: start this by itself", file=sys.stderr)
            os._exit(CANNOT_RUN)
    sys.path[1 : 1 + len(here)] = folders


def run(arguments: list[str]) -> None:
    """As ``python ARGUMENTS...`` does: a script's path, ``-m`` and a module, or ``-c`` and code."""
    import runpy

    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path[0] = ""
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    role, place, *rest = sys.argv[1:]
    if role == "ask":
        sys.exit(ask(place, rest))
    run(become(fork_the_command(serve(place, *rest))))
