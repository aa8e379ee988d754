"""Which ways to divide a run are found, in which order, and what is said of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vit_colossal.commands import plan as command
from vit_colossal.config.train_config import TrainConfig
from vit_colossal.forecast.candidates import Candidates, candidates
from vit_colossal.forecast.chunks import chunks_of
from vit_colossal.forecast.devices import Room, by_profile
from vit_colossal.forecast.outline import Held
from vit_colossal.forecast.profiles import PROFILES
from vit_colossal.forecast.subject import subject
from vit_colossal.forecast.table import as_text
from vit_colossal.plan.plan import Device

_GIB = 2**30


def found(room: Room, processes: int = 4, **settings: Any) -> Candidates:
    asked = TrainConfig(model="vit-tiny", **settings)
    named = asked.model_fields_set
    about = subject(asked, named, room.device, processes, 10)
    return candidates(about.plan, named, processes, room, about.whole)


def roomy(gib: float, kind: str = "cuda") -> Room:
    return Room(Device(kind), round(gib * _GIB), "given", extrapolated=False)


def test_the_order_is_the_one_that_is_told() -> None:
    every = found(roomy(80))
    first = every.of_each_layout
    keys = [(c.plan.config.grad_checkpoint, round(c.idle, 3), c.sent) for c in first]
    assert keys == sorted(keys)
    assert all(each.fits(roomy(80)) for each in every.found)


def test_what_does_not_fit_comes_last_and_the_smallest_of_it_first() -> None:
    sizes = sorted(each.memory.peak for each in found(roomy(80)).found)
    room = Room(Device("cuda"), sizes[len(sizes) // 2], "given", extrapolated=False)
    layouts = found(room).of_each_layout
    fits = [each.fits(room) for each in layouts]
    assert fits == sorted(fits, reverse=True) and not all(fits) and any(fits)
    others = [each.memory.peak for each in layouts if not each.fits(room)]
    assert others == sorted(others)


def test_only_what_training_takes_is_a_candidate() -> None:
    every = found(roomy(80), processes=2)
    assert any("not divisible by --tp 2" in reason for reason in every.refused)
    assert all(each.plan.config.tp == 1 for each in every.found)
    on_cpu = found(roomy(80, "cpu"), processes=2)
    assert any("refuses --precision fp32" in reason for reason in on_cpu.refused)
    assert {each.rounding for each in on_cpu.found} == {"fp32"}


def test_what_a_person_names_is_kept() -> None:
    every = found(roomy(80), plugin="hybrid", pp=2, num_microbatches=4, grad_checkpoint=False)
    assert {each.plan.dims.pp for each in every.found} == {2}
    assert {each.plan.config.plugin for each in every.found} == {"hybrid"}
    assert {each.microbatches for each in every.found} == {4}
    assert not any(each.plan.config.grad_checkpoint for each in every.found)


def test_the_batch_is_the_same_for_all() -> None:
    every = found(roomy(80), batch_size=8)
    assert {each.plan.batches.global_batch for each in every.found} == {32}


def test_a_plugin_that_does_not_tell_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vit_colossal.config import plugins

    silent = plugins.PluginFacts(strategy="somewhere:Else")
    monkeypatch.setitem(plugins.BUILT_IN, "silent", silent)
    plugins.facts_of.cache_clear()
    every, room = found(roomy(80)), roomy(80)
    assert every.unknown == ("silent",)
    assert "Not predicted: silent" in as_text(every, room, [])
    plugins.facts_of.cache_clear()


def test_profiles_are_those_that_the_flag_names() -> None:
    from typing import get_args

    annotation = command.SETTINGS.model_fields["device_profile"].annotation
    names = {name for part in get_args(annotation) for name in get_args(part)}
    assert names == {*PROFILES, "cpu"}
    for name in names:
        assert by_profile(name, 2).extrapolated


def test_a_parameter_larger_than_the_others_has_a_chunk_of_its_own() -> None:
    config = TrainConfig(gemini_min_chunk_m=0.01, gemini_search_range_m=0.001)
    held = [Held(size, True, True) for size in (*[4096] * 40, 10**6 + 1, *[4096] * 40)]
    chunks = chunks_of(held, config, 2)
    assert max(chunk.size for chunk in chunks) == 10**6 + 2
    assert sum(chunk.used for chunk in chunks) == sum(each.numel for each in held)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "vit-base", "--devices", "8", "--device-profile", "h100-80g"]
    flags += ["--num-labels", "10", "--global-batch-size", "64"]
    assert command.main(flags, "vit-colossal plan") == 0
    text = capsys.readouterr().out
    assert "extrapolated" in text and "80 GB of memory each (NVIDIA's data sheet" in text
    assert "First: --plugin" in text and "Next: --plugin" in text
    assert command.main([*flags, "--format", "json"], "vit-colossal plan") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["device"]["extrapolated"] and document["candidates"]
    assert document["candidates"][0]["memory_bytes"]["peak"] > 0


def test_where_training_takes_none(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--nproc", "4", "--global-batch-size", "6", "--plugin", "ddp", "--device", "cpu"]
    assert command.main(flags, "vit-colossal plan") == 1
    text = capsys.readouterr().out
    assert "No layout is possible." in text and "is not divisible by 4 data-parallel" in text


def test_where_nothing_fits(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "vit-large", "--devices", "1", "--device-profile", "l4-24g"]
    wide = "hidden_size=8192,num_hidden_layers=48,intermediate_size=32768,num_attention_heads=64"
    flags += ["--num-labels", "10", "--model-config", wide]
    assert command.main(flags, "vit-colossal plan") == 1
    assert "None fits: the smallest" in capsys.readouterr().out
