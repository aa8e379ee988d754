"""Flags of other tools are answered with what to write here."""

from __future__ import annotations

import re

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
    _, [problem] = parse_config(line.split(), "train.py", TrainConfig)
    assert f"no such flag; {answer}" in problem


def test_a_command_is_not_advised_to_take_a_flag_that_it_lacks() -> None:
    with pytest.raises(ConfigError, match=r"--num-train-epochs: no such flag \(see"):
        read_settings(PREDICT, ["model", "image", "--num-train-epochs", "3"], "predict")
