"""Flags, YAML files, aliases, collected problems and the dump that reads back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vit_colossal import ConfigError, TrainConfig, load_config
from vit_colossal.config.command_line import read_flags
from vit_colossal.config.plugins import name_problem


def load(*flags: str) -> TrainConfig:
    return load_config(flags)


def yaml_file(folder: Path, **values: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# --- Flags ----------------------------------------------------------------------------------------


def test_no_flags_are_the_defaults() -> None:
    assert load() == TrainConfig()


def test_wrong_settings_of_a_python_program_are_named_as_flags_are() -> None:
    with pytest.raises(ConfigError) as raised:
        TrainConfig(epochs="many", learning=3)
    first, second = sorted(raised.value.problems)
    assert first.startswith("--epochs many: input should be a valid integer")
    assert second == "learning: no such setting (see --help)"
    assert TrainConfig(epochs="3").epochs == 3


def test_a_run_goes_on_in_the_folder_of_its_file(tmp_path: Path) -> None:
    file = str(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("output_dir: where/it/began\n")
    assert load("--config", file, "--resume", "auto").output_dir == Path("where/it/began")
    (tmp_path / "environment.json").touch()  # now it is a run
    assert load("--config", file, "--resume", "auto").output_dir == tmp_path
    assert load("--config", file).output_dir == Path("where/it/began")
    named = ("--output-path", "mine")
    assert load("--config", file, "--resume", "auto", *named).output_dir == Path("mine")


def test_flags_are_read_as_the_types_of_their_fields() -> None:
    config = load(
        *("--plugin", "hybrid", "--tp", "2", "--precision", "bf16", "--lr", "3e-4"),
        *("--output-dir", "runs/a b", "--max-steps=7", "--grad-checkpoint"),
    )
    assert (config.plugin, config.tp, config.precision) == ("hybrid", 2, "bf16")
    assert (config.lr, config.max_steps, config.grad_checkpoint) == (3e-4, 7, True)
    assert config.output_dir == Path("runs/a b")


@pytest.mark.parametrize("name", ["output_dir", "model", "dataset", "cache_dir", "resume"])
def test_a_path_from_home_is_spelled_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell does, which does not see what stands in a file."""
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load("--config", str(yaml_file(tmp_path, **{name: "~/a b"})))
    assert str(getattr(config, name)) == "/home/somebody/a b"
    assert load(f"--{name.replace('_', '-')}=~/a b") == config
    assert load("--model", "a~/b").model == "a~/b"


def test_underscores_and_hyphens_are_the_same_in_flags() -> None:
    assert load("--global_batch_size", "8", "--warmup_ratio=0.5") == load(
        "--global-batch-size", "8", "--warmup-ratio", "0.5"
    )


def test_underscores_in_values_stay() -> None:
    assert load("--dataset=my_data", "--model", "my_model").dataset == "my_data"


@pytest.mark.parametrize("name", ["grad-checkpoint", "decay-all", "tensorboard", "overwrite"])
def test_switches_go_on_and_off(name: str) -> None:
    field = name.replace("-", "_")
    assert getattr(load(f"--{name}"), field) is True
    assert getattr(load(f"--no-{name}"), field) is False


def test_gradient_checkpointing_is_off_unless_asked_for() -> None:
    assert load().grad_checkpoint is False


def test_model_keys_are_typed_as_yaml_types_them() -> None:
    config = load(
        *("--model-config", "image_size=32", "--model-config=hidden_dropout_prob=0.1"),
        *("--model-config", "qkv_bias=false", "--model-config", "hidden_act=relu"),
    )
    assert config.model_overrides == {
        "image_size": 32,
        "hidden_dropout_prob": 0.1,
        "qkv_bias": False,
        "hidden_act": "relu",
    }


def test_environment_variables_never_change_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TrainConfig.model_fields:
        monkeypatch.setenv(name.upper(), "77")
        monkeypatch.setenv(name, "77")
    assert load() == TrainConfig()


def test_help_names_every_flag_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"], prog="train.py")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: train.py" in text
    for name, field in TrainConfig.model_fields.items():
        if name == "unknown":  # where the parser leaves what is no flag
            continue
        shown = field.serialization_alias or name
        assert f"--{shown.replace('_', '-')}" in text, name
        assert field.description, name
        # argparse adds the default, and may break a line after a hyphen.
        words = "".join(field.description.split())
        assert words[:40] in "".join(text.split()), name


# --- Spellings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "plugin"),
    [
        ("torch_ddp", "ddp"),
        ("torch_ddp_fp16", "ddp"),
        ("low_level_zero", "zero1"),
        ("gemini", "gemini"),
        ("hybrid_parallel", "hybrid"),
    ],
)
def test_upstream_plugin_names(alias: str, plugin: str) -> None:
    assert load("--plugin", alias).plugin == plugin


def test_torch_ddp_fp16_is_ddp_in_fp16(tmp_path: Path) -> None:
    assert load("--plugin", "torch_ddp_fp16").precision == "fp16"
    assert load("--config", str(yaml_file(tmp_path, plugin="torch_ddp_fp16"))).precision == "fp16"
    assert load("--plugin", "torch_ddp").precision is None


@pytest.mark.parametrize(
    ("spelling", "field", "value"),
    [
        ("tp_size", "tp", 2),
        ("pp_size", "pp", 2),
        ("zero_stage", "zero", 1),
        ("num_epoch", "epochs", 4),
        ("num_epochs", "epochs", 4),
        ("learning_rate", "lr", 0.5),
        ("model_name_or_path", "model", "vit-tiny"),
        ("output_path", "output_dir", Path("out")),
        ("batch_size", "batch_size", 8),
        ("weight_decay", "weight_decay", 0.2),
        ("warmup_ratio", "warmup_ratio", 0.2),
    ],
)
def test_upstream_spellings(tmp_path: Path, spelling: str, field: str, value: Any) -> None:
    assert getattr(load(f"--{spelling}", str(value)), field) == value
    in_yaml = str(value) if isinstance(value, Path) else value
    file = yaml_file(tmp_path, **{spelling: in_yaml})
    assert getattr(load("--config", str(file)), field) == value


@pytest.mark.parametrize(("in_file", "flag"), [("tp_size", "tp"), ("tp", "tp_size")])
def test_a_flag_wins_over_another_spelling_in_the_file(
    tmp_path: Path, in_file: str, flag: str
) -> None:
    file = yaml_file(tmp_path, **{in_file: 4})
    assert load("--config", str(file), f"--{flag}", "2").tp == 2


def test_a_flag_wins_over_the_name_in_python_too(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, model_overrides={"num_hidden_layers": 4})
    config = load("--config", str(file), "--model-config", "num_hidden_layers=2")
    assert config.model_overrides == {"num_hidden_layers": 2}


def test_the_per_replica_batch_flag_wins_over_the_file_s_global_batch(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, global_batch_size=64)
    config = load("--config", str(file), "--batch-size", "4")
    assert (config.batch_size, config.global_batch_size) == (4, None)


# --- Files ----------------------------------------------------------------------------------------


def test_flags_override_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, plugin="hybrid", pp=2, lr=1e-3, grad_checkpoint=True)
    config = load("--config", str(file), "--lr", "0.5", "--no-grad-checkpoint")
    assert (config.plugin, config.pp, config.lr, config.grad_checkpoint) == (
        "hybrid",
        2,
        0.5,
        False,
    )


def test_keys_may_have_hyphens(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, **{"global-batch-size": 8})
    assert load("--config", str(file)).global_batch_size == 8


def test_model_keys_in_a_file(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, model_config={"image_size": 8})
    assert load("--config", str(file)).model_overrides == {"image_size": 8}


# --- Changing and dumping -------------------------------------------------------------------------


def test_replace_validates_and_leaves_the_original() -> None:
    config = TrainConfig()
    assert config.replace(tp=2).tp == 2
    assert config.tp == 1
    with pytest.raises(ConfigError, match="--tp 0"):
        config.replace(tp=0)


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().tp = 2  # type: ignore[misc]


NAMES = st.text("abcz-_/. 01:#{}'\"\n", min_size=1).filter(str.strip)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "plugin": st.sampled_from(["ddp", "zero1", "zero2", "gemini", "hybrid"]),
        "tp": st.integers(1, 64),
        "pp": st.integers(1, 64),
        "zero": st.integers(0, 2),
        "precision": st.sampled_from(["fp32", "bf16", "fp16"]),
        "model": NAMES,
        "model_overrides": st.dictionaries(
            st.text("abc_", min_size=1), st.integers() | st.booleans() | st.floats(-1e3, 1e3)
        ),
        "dataset": NAMES,
        # A path from home is spelled out where it is read; it has a test of its own.
        "cache_dir": st.text("abc /_~", min_size=1).filter(lambda t: t[0] != "~").map(Path),
        "global_batch_size": st.integers(1, 2**40),
        "lr": st.floats(0, 1e3),
        "adam_eps": st.floats(1e-30, 1.0),
        "warmup_ratio": st.floats(0, 0.999),
        "decay_all": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
        "output_dir": st.text("abc /_.", min_size=1).map(Path),
    },
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=CONFIGS)
def test_what_is_dumped_reads_back_equal(tmp_path: Path, values: dict[str, Any]) -> None:
    config = TrainConfig(**values)
    path = tmp_path / "config.yaml"
    path.write_text(config.dump(), encoding="utf-8")
    assert load("--config", str(path)) == config


def test_the_dump_leaves_out_how_it_was_started() -> None:
    config = load("--nproc", "2", "--overwrite", "--debug", "--lr", "0.1")
    values = yaml.safe_load(config.dump())
    assert values["lr"] == 0.1
    assert not {"nproc", "overwrite", "debug", "unknown"} & values.keys()


@pytest.mark.parametrize("flag", ["--random-resized-crop", "--device", "--lr", "--dry-run"])
def test_a_long_value_is_not_repeated_whole(flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([f"{flag}={'x' * 5000}"], "train.py")
    assert all(len(problem) < 300 for problem in caught.value.problems)


def test_nor_is_a_long_name_of_a_plugin() -> None:
    assert len(name_problem("x" * 5000) or "") < 300


@pytest.mark.parametrize(
    "word",
    [
        "a,b.jpg",
        "[a]",
        "{a}",
        'a"b',
        '"a"',
        "a\nb",
        " a",
        "null",
        "true",
        "007",
        "1e3",
        "a\\",
        "\udcff",
    ],
)
def test_a_word_without_a_flag_arrives_as_it_is(word: str) -> None:
    """pydantic-settings reads several of them as a list in JSON or between commas."""
    from vit_colossal.commands.predict import SETTINGS

    values, problems = read_flags([word, word, "other"], "predict", SETTINGS)
    assert (problems, values) == ([], {"model": word, "images": [word, "other"]})
