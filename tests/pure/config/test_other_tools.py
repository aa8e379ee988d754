"""Flags of other tools are answered with what to write here."""

from __future__ import annotations

import re
import shlex

import pytest

from vit_colossal.commands.predict import SETTINGS as PREDICT
from vit_colossal.config.command_line import build_parser
from vit_colossal.config.other_tools import ADVICE, advice
from vit_colossal.config.reading import parse_config, read_settings
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.errors import ConfigError

FLAGS = build_parser("train", TrainConfig).flags()


def test_what_is_advised_exists_and_what_is_answered_does_not() -> None:
    advised = {flag for answer in ADVICE.values() for flag in re.findall(r"--[a-z-]+", answer)}
    assert advised <= set(FLAGS)
    assert not ADVICE.keys() & set(FLAGS)
    assert all(advice(flag, FLAGS) == answer for flag, answer in ADVICE.items())


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("--per_device_train_batch_size 8", "write --batch-size"),
        ("--gradient_accumulation_steps=2", "write --grad-accumulation, which cuts the batch"),
        ("--warmup_steps 500", "write --warmup-ratio, a share of all steps"),
        ("--bf16", "write --precision bf16"),
        ("--model-ema", "write --ema, with the decay"),
        ("--report_to wandb", "write --wandb, --mlflow or neither"),
        ("--push_to_hub", "vit-colossal push uploads a finished run"),
        ("--max_epochs 3", "write --epochs"),
    ],
)
def test_a_line_each(line: str, answer: str) -> None:
    _, [problem, *_] = parse_config(line.split(), "train.py", TrainConfig)
    assert f"no such flag; {answer}" in problem


def test_a_command_is_not_advised_to_take_a_flag_that_it_lacks() -> None:
    with pytest.raises(ConfigError, match=r"--num-train-epochs: no such flag \(see"):
        read_settings(PREDICT, ["model", "image", "--num-train-epochs", "3"], "predict")


#: As run_image_classification.py of transformers is called in its README.
TRAINER = (
    "--dataset_name beans --output_dir ./beans_outputs/ --remove_unused_columns False "
    "--label_column_name labels --do_train --do_eval --push_to_hub --push_to_hub_model_id beans "
    "--learning_rate 2e-5 --num_train_epochs 5 --per_device_train_batch_size 8 "
    "--per_device_eval_batch_size 8 --logging_strategy steps --logging_steps 10 "
    "--eval_strategy epoch --save_strategy epoch --load_best_model_at_end True "
    "--save_total_limit 3 --seed 1337"
)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (
            TRAINER,
            "--dataset beans --output-dir ./beans_outputs/ --label-column labels "
            "--learning-rate 2e-5 --epochs 5 --batch-size 8 --log-every 10 --save-best-model "
            "--keep-last 3 --seed 1337",
        ),
        ("--num_labels=10 --plugin torch_ddp --mem_cap 0", "--plugin torch_ddp"),
        ("--max_train_steps 20 --grad_checkpoint False", "--max-steps 20 --no-grad-checkpoint"),
        ("--fp16 False --bf16 --report_to wandb", "--precision bf16 --wandb"),
        ("--report_to none --save_strategy no", "--save-every 0"),
        ("--dataset_name 'my photos'", "--dataset 'my photos'"),
    ],
)
def test_the_whole_command_can_be_pasted(line: str, command: str) -> None:
    _, problems = parse_config(shlex.split(line), "train.py", TrainConfig)
    assert problems[-1] == f"  the whole command: python train.py {command}"
    assert parse_config(shlex.split(command), "train.py", TrainConfig)[1] == []


@pytest.mark.parametrize(
    "line",
    [
        "--warmup_steps 5 --fp16",  # a share needs the number of steps
        "--fp16 yes",
        "--max_train_steps",
        "--max_train_steps many",
        "--aa rand-m9-mstd0.5",
        "--fp16 --no-such-thing",
        "--fp16 stray",
    ],
)
def test_no_command_is_made_up(line: str) -> None:
    _, problems = parse_config(line.split(), "train.py", TrainConfig)
    assert problems and not any("the whole command" in problem for problem in problems)


@pytest.mark.parametrize(
    ("world", "start"), [("4", "python train.py --nproc 4 "), ("8", "python ")]
)
def test_processes_of_a_launcher_on_one_machine(
    world: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    _, problems = parse_config(["--fp16"], "train.py", TrainConfig)
    assert problems[-1].startswith(f"  the whole command: {start}")
