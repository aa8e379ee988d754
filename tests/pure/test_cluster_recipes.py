"""The recipes for Slurm and Kubernetes: what they start, with flags that there are."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from vit_colossal.config.command_line import read_flags
from vit_colossal.config.train_config import TrainConfig

SCRIPTS = Path(__file__).parents[2] / "scripts"
SBATCH = SCRIPTS / "slurm" / "train.sbatch"
JOBS = ("trainjob.yaml", "pytorchjob.yaml")


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((SCRIPTS / "kubernetes" / name).read_text("utf-8"))
    return loaded


def container(name: str) -> dict[str, Any]:
    """What is started in each pod of a job."""
    spec = manifest(name)["spec"]
    if "trainer" in spec:
        trainer: dict[str, Any] = spec["trainer"]
        return trainer
    (started,) = spec["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    return dict(started)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_starts_train_with_flags_of_ours(name: str) -> None:
    started = container(name)
    assert started["command"] == ["torchrun", "train.py"]
    values, problems = read_flags(started["args"], "train.py", TrainConfig)
    assert problems == []
    assert values["resume"] == "auto"  # a pod that is replaced, or a job that grows, goes on
    assert str(values["output_dir"]).startswith("/data/")


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_is_left_the_time_to_save(name: str) -> None:
    """torchrun kills the ranks before Kubernetes kills torchrun."""
    env = {one["name"]: one["value"] for one in container(name)["env"]}
    found = re.findall(
        r"terminationGracePeriodSeconds: (\d+)", (SCRIPTS / "kubernetes" / name).read_text("utf-8")
    )
    assert [int(env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < int(grace) for grace in found] == [True]


def test_the_jobs_use_the_volume_that_there_is() -> None:
    claim = manifest("volume.yaml")["metadata"]["name"]
    for name in JOBS:
        text = (SCRIPTS / "kubernetes" / name).read_text("utf-8")
        assert re.findall(r"claimName: (\S+?)}", text) == [claim]


def test_the_image_has_what_it_copies() -> None:
    text = (SCRIPTS / "kubernetes" / "Dockerfile").read_text("utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert [name for name in sources if not (SCRIPTS.parent / name).exists()] == []


def test_the_example_of_the_batch_script_is_one() -> None:
    example = SBATCH.read_text("utf-8").partition("train.sbatch \\\n")[2].splitlines()[0]
    values, problems = read_flags(example.lstrip("# ").split(), "train.py", TrainConfig)
    assert (problems, str(values["output_dir"])) == ([], "runs/photos")


#: In place of Slurm's commands and torchrun: each writes down what it was given.
STAND_INS = {
    "srun": 'shift; SLURM_NODEID=0 exec "$@"',
    "scancel": "kill -USR2 $(cat all)",
    "scontrol": 'echo "scontrol $*" >> said',
    "torchrun": """
echo "torchrun $*" >> said
echo "$PPID $$" > all
sh -c 'trap "echo saved >> said; exit 143" TERM; touch trained
       for i in $(seq 300); do sleep 0.05; done'
exit 1""",
}


def test_the_batch_script_saves_before_the_end_and_is_queued_again(tmp_path: Path) -> None:
    """The signal reaches the ranks once, by way of neither torchrun nor Slurm."""
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "3"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", str(SBATCH), "--lr", "0.1", "--output-dir", "my run"],
        cwd=tmp_path,
        env={**os.environ, **slurm, "PATH": path, "VIT_COLOSSAL_VENV": "none"},
        stdout=subprocess.PIPE,
        text=True,
    ) as batch:
        while not (tmp_path / "trained").exists():
            assert batch.poll() is None
        batch.send_signal(10)
        output = batch.communicate(timeout=30)[0]
    assert output.splitlines() == ["the time is almost up: saving", "queued again"]
    started, *rest = (tmp_path / "said").read_text().splitlines()
    assert "--nproc_per_node 3 " in started
    assert started.endswith(" train.py --resume auto --lr 0.1 --output-dir my run")
    assert rest == ["saved", "scontrol requeue 7"]
    assert batch.returncode == 1


def test_the_batch_script_wants_a_folder(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SBATCH), "--lr", "1"], capture_output=True, text=True)
    assert (done.returncode, "--output-dir" in done.stderr) == (2, True)
