"""PyTorch's compiler, as far as it reads from the disk what this process will run."""

from __future__ import annotations

import os
import stat


def cache_problems() -> list[str]:
    """What is wrong with the folder in which the compiler keeps code and reads it back.

    Unless a person names another it lies in TMPDIR, under a name that anybody can foresee, and
    PyTorch takes what is there (2.14.1).
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

    advice = "set TORCHINDUCTOR_CACHE_DIR to a folder of your own"
    try:
        folder = cache_dir()  # makes it
        status = os.stat(folder)
    except OSError as error:
        return [f"--compile: no folder for compiled code ({error}): {advice}"]
    own = status.st_uid == os.geteuid() and not status.st_mode & stat.S_IWOTH
    if own or folder != os.path.abspath(default_cache_dir()):
        return []
    return [f"--compile: others can put code into {folder}, which would be run: {advice}"]
