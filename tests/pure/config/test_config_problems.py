"""Problems of flags and files: all of them, one line each, with the flag and its value."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vit_colossal import ConfigError, load_config
from vit_colossal.config.reading import read_yaml


def problems(*flags: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(flags)
    assert caught.value.exit_code == 2
    return caught.value.problems


@pytest.mark.parametrize("content", ["- a\n- b\n", "plain text", "", "7"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="expected 'key: value' lines"):
        read_yaml(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.yaml", tmp_path / "binary.yaml"
    broken.write_text("a: [1, 2")
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.yaml", tmp_path, broken, binary):
        [*lines] = problems("--config", str(path))
        assert str(path) in lines[0]


def test_a_file_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"lr: !!python/object/apply:pathlib.Path.touch ['{tmp_path}/touched']")
    problems("--config", str(path))
    assert not (tmp_path / "touched").exists()


def test_a_problem_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2")
    (line,) = problems("--config", str(path))
    assert len(line.splitlines()) == 1


def test_all_problems_are_collected_with_flag_and_value(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"turbo": True, "seed": -1}))
    flags = ["--plugin", "fsdp", "--lr", "fast", "--tp", "0", "--nonsense", "5"]
    found = problems("--config", str(file), *flags)
    assert len(found) == 6
    for text in ("turbo", "--seed -1", "--plugin fsdp", "--lr fast", "--tp 0", "--nonsense"):
        assert sum(text in line for line in found) == 1, text


@pytest.mark.parametrize(
    "flags",
    [
        ("--epochs", "0"),
        ("--max-steps", "0"),
        ("--global-batch-size", "0"),
        ("--grad-accumulation", "0"),
        ("--log-every", "0"),
        ("--warmup-ratio", "1"),
        ("--warmup-ratio", "-0.1"),
        ("--weight-decay", "-1"),
        ("--clip-grad-norm", "-1"),
        ("--adam-beta1", "1"),
        ("--adam-eps", "0"),
        ("--lr", "nan"),
        ("--seed", str(2**32)),
        ("--val-split", "1"),
        ("--zero", "3"),
        ("--precision", "fp8"),
        ("--device", "tpu"),
        ("--lr-schedule", "step"),
        ("--num-workers", "1.5"),
        ("--plu", "ddp"),
        ("ddp",),
    ],
)
def test_values_out_of_range(flags: tuple[str, ...]) -> None:
    (line,) = problems(*flags)
    assert all(part in line for part in flags[:1])


@pytest.mark.parametrize("name", ["lr", "weight_decay", "clip_grad_norm", "adam_eps"])
def test_numbers_are_finite(name: str) -> None:
    """An infinite learning rate trains to NaN and ends with exit code 0."""
    (line,) = problems(f"--{name}", "inf")
    assert "inf" in line


def test_a_model_key_without_a_value() -> None:
    (line,) = problems("--model-config", "hidden_size")
    assert "hidden_size" in line


def test_a_malformed_command_line_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^argument --tp.*expected one argument \(see "
    ) as caught:
        load_config(["--tp"])
    assert len(caught.value.problems) == 1
