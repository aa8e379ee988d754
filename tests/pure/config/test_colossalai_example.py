"""The command line of ColossalAI's ViT example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vit_colossal.config.colossalai_example import with_plain_switch, without_idle_degrees
from vit_colossal.config.reading import parse_config
from vit_colossal.config.train_config import TrainConfig

#: As its run_demo.sh has it.
DEMO = [
    "--model_name_or_path",
    "google/vit-base-patch16-224",
    "--output_path",
    "./output_model",
    "--plugin",
    "gemini",
    "--batch_size",
    "16",
    "--tp_size",
    "2",
    "--pp_size",
    "2",
    "--num_epoch",
    "3",
    "--learning_rate",
    "2e-4",
    "--weight_decay",
    "0.05",
    "--warmup_ratio",
    "0.3",
    "--grad_checkpoint",
    "True",
]


def test_the_demo_s_line_is_read_whole() -> None:
    flags, note = without_idle_degrees(DEMO)
    assert note is not None
    assert note.startswith("--tp_size 2 and --pp_size 2: left out, as ColossalAI's example does")
    config, problems = parse_config(flags, "train.py", TrainConfig)
    assert problems == []
    assert (config.tp, config.pp, config.plugin) == (1, 1, "gemini")
    assert config.grad_checkpoint is True
    assert (config.batch_size, config.epochs, config.lr) == (16, 3, 2e-4)


def test_what_the_page_says_to_write_is_read() -> None:
    page = Path(__file__).parents[3] / "docs" / "colossalai-example.md"
    text = page.read_text("utf-8").replace("\\\n", " ")
    [line] = re.findall(r"train\.py (--dataset beans.*)", text)
    assert {*DEMO} - {"--grad_checkpoint", "True"} <= {*line.split()}
    table = re.findall(
        r"^\| .* \| .*?`(--[^`]*)`", text.partition("For those of the script")[2], re.M
    )
    assert len(table) == 7
    for written in (line, *table):
        flags, _ = without_idle_degrees(written.split())
        assert parse_config(flags, "train.py", TrainConfig)[1] == []


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (["--grad_checkpoint", "True"], ["--grad_checkpoint"]),
        (["--grad-checkpoint=true"], ["--grad-checkpoint"]),
        (["--grad_checkpoint", "False", "--pp", "2"], ["--no-grad-checkpoint", "--pp", "2"]),
        (["--grad_checkpoint=False"], ["--no-grad-checkpoint"]),
        (["--grad_checkpoint", "--pp", "2"], ["--grad_checkpoint", "--pp", "2"]),
        (["--plugin", "True"], ["--plugin", "True"]),
    ],
)
def test_the_switch_takes_true_and_false(given: list[str], plain: list[str]) -> None:
    assert with_plain_switch(given) == plain


@pytest.mark.parametrize(
    "line",
    [
        "--plugin hybrid --tp_size 2 --pp_size 2",
        "--plugin hybrid_parallel --tp_size=2",
        "--plugin gemini --tp 2 --pp 2",
        "--plugin gemini --tp_size 4",
        "--config mine.yaml --tp_size 2",  # whose plugin nobody has read yet
        "--plugin mine --tp_size 2",
        "--tp_size",
    ],
)
def test_no_other_degrees_are_left_out(line: str) -> None:
    assert without_idle_degrees(line.split()) == (line.split(), None)


@pytest.mark.parametrize("plugin", ["torch_ddp", "low_level_zero", "gemini"])
def test_degrees_are_left_out_of_every_plugin_without_any(plugin: str) -> None:
    flags, note = without_idle_degrees(["--pp_size=2", "--plugin", plugin, "--lr", "1"])
    assert flags == ["--plugin", plugin, "--lr", "1"]
    assert note is not None and note.startswith("--pp_size 2: left out")


@pytest.mark.parametrize(
    ("flag", "advice"),
    [
        ("--mem_cap", "memory is not capped: --grad-checkpoint"),
        ("--num_labels", "the labels are those of the data: drop it"),
        ("--max_train_steps", "write --max-steps"),
    ],
)
def test_flags_of_its_other_scripts_are_answered(flag: str, advice: str) -> None:
    _, [problem, command] = parse_config([flag, "5"], "train.py", TrainConfig)
    assert advice in problem
    assert command.startswith("  the whole command: python train.py")
