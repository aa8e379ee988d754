"""Checks the manifests beside this file by the schemas of Kubernetes and of Kubeflow's clients.

    pip install kubernetes-validate kubeflow-trainer-api kubeflow-training
    python scripts/kubernetes/check.py

Not in the project's own environment: it needs none of its packages, and they bring many of theirs.
The clients' models accept a key that they do not know, so that each manifest is written out again
from the model and compared with what was read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from kubeflow.training import ApiClient
from kubeflow.training.models import KubeflowOrgV1PyTorchJob
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

HERE = Path(__file__).parent


class _Answer:
    """What the client of the Training Operator reads a model from."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.data = json.dumps(manifest)


def written_again(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest as its model knows it."""
    if manifest["kind"] == "TrainJob":
        job: dict[str, Any] = TrainerV1alpha1TrainJob.from_dict(manifest).to_dict()
        return job
    client = ApiClient()
    model = client.deserialize(_Answer(manifest), KubeflowOrgV1PyTorchJob)
    return dict(client.sanitize_for_serialization(model))


def lost(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """What the model did not take over as it was."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key), f"{place}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from lost(*pair, f"{place}[{number}]")
    elif before != after:
        yield f"{place}: {before!r} became {after!r}"


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """The pod specifications in a manifest: what has containers."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


def problems(path: Path) -> Iterator[str]:
    """What is wrong with one manifest."""
    manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    core = [manifest]
    if "kubeflow" in manifest["apiVersion"]:
        yield from lost(manifest, written_again(manifest))
        # A patch of a TrainJob's pod has no image: the runtime's stays.
        image = {"image": "none"} if manifest["kind"] == "TrainJob" else {}
        core = [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "pod"},
                "spec": {**pod, "containers": [image | one for one in pod["containers"]]},
            }
            for pod in pods(manifest)
        ]
    for one in core:
        version = kubernetes_validate.latest_version()
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{'.'.join(map(str, error.path))}: {error.message}"


def main() -> int:
    found = [
        f"{path.name}: {text}" for path in sorted(HERE.glob("*.yaml")) for text in problems(path)
    ]
    print("\n".join(found) or "all manifests fit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
