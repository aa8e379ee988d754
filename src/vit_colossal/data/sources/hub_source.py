"""Data sets on the hub, as `datasets` reads them; nothing in them is run or unpickled."""

from __future__ import annotations

import json

from vit_colossal.data.sources.columns import image_columns, sampler, whole_number_or_text
from vit_colossal.data.sources.image_files import refuse_foreign
from vit_colossal.data.sources.loaded import Loaded
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.errors import DataError
from vit_colossal.hub import explain, reaching_hub
from vit_colossal.text import hide_secrets


def load_hub(name: str, request: SourceRequest) -> Loaded:
    """Fetch a data set from the hub, unless it is in the library's cache.

    Args:
        name: ``OWNER/NAME``.
        request: Configuration, revision, and whether it is streamed.

    Raises:
        DataError: It cannot be fetched, or its rows name files that are not there.
    """
    import datasets

    never_unpickle()
    wanted = f"--dataset {name}"
    wanted += f" --dataset-config {request.dataset_config}" if request.dataset_config else ""
    wanted += f" --dataset-revision {request.revision}" if request.revision else ""
    try:
        with reaching_hub() as online:
            # As `load_dataset` does; only the builder knows which commit a branch stood at.
            builder = datasets.load_dataset_builder(
                name, request.dataset_config, revision=request.revision
            )
            if request.streaming:
                splits = dict(builder.as_streaming_dataset())
            else:
                builder.download_and_prepare()
                splits = dict(builder.as_dataset())
        # Offline the library takes what it fetched last, of whatever revision.
        if request.revision not in (None, builder.hash) and not online:
            raise DataError(
                [
                    f"{wanted}: without the hub only a commit can be found again, and the cache "
                    f"holds {builder.hash}: name that, or connect once"
                ]
            )
    except DataError:
        raise
    except Exception as error:  # the library raises a dozen unrelated types
        problem = (
            f"{wanted}: no such file or folder here, and it cannot be fetched from the hub: "
            f"{explain(error)}"
        )
        raise DataError([hide_secrets(problem)]) from error
    content = json.dumps([name, builder.config.name, builder.hash])
    for split, rows in splits.items() if not request.streaming else ():
        for column in image_columns(rows.features, sampler(rows)):
            refuse_foreign(rows, column, split)
    return Loaded(name, splits, content, remote=True)


def never_unpickle() -> None:
    """Only text and JSON is decoded in a WebDataset from the hub; the rest stays bytes.

    The library hands members called ``.pth`` to ``torch.load``, which on torch 2.5 runs code even
    with ``weights_only`` (CVE-2025-32434). Labels are read as in local shards: it takes ``.cls``
    for a number, whatever it holds, and leaves the line's end in ``.txt``.
    """
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    for suffix in WebDataset.DECODERS.keys() - {"cls", "cls2", "id", "index", "json", "txt"}:
        del WebDataset.DECODERS[suffix]
    WebDataset.DECODERS |= {"cls": whole_number_or_text, "txt": lambda x: x.decode().strip()}
