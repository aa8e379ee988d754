"""Links in a model's folder, as the hub's cache has them, and what they must not carry away."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import LABELS, edit, save_model
from transformers import ViTForImageClassification

from data_folders import as_snapshot
from vit_colossal.errors import ModelError
from vit_colossal.model.build import build_model
from vit_colossal.model.processor import build_processor, preprocessing_of
from vit_colossal.model.weights_fit import check_weights
from vit_colossal.plan.model_files import weights_digest
from vit_colossal.plan.model_spec import read_spec
from vit_colossal.trained.export import export_hf
from vit_colossal.trained.saved import load_model, locate


def built(folder: Path) -> ViTForImageClassification:
    spec = read_spec(str(folder), {})
    check_weights(spec)
    preprocessing_of(spec)
    return build_model(spec, LABELS, 7)


@pytest.mark.parametrize("size", ["5GB", "5KB"])
def test_a_snapshot_of_the_hub_is_a_model(size: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "plain")
    (tmp_path / "plain" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "plain", max_shard_size=size)
    snapshot = as_snapshot(tmp_path / "plain", tmp_path / "models--me--mine")
    assert all(file.is_symlink() for file in snapshot.iterdir())
    assert weights_digest(str(snapshot)) == weights_digest(str(tmp_path / "plain"))
    expected = model.state_dict()
    for found in (built(snapshot), load_model(locate(str(snapshot)))):
        assert all(value.equal(expected[name]) for name, value in found.state_dict().items())
    export_hf(locate(str(snapshot)), tmp_path / "out")
    assert [file for file in (tmp_path / "out").iterdir() if file.is_symlink()] == []


def test_weights_on_another_disk_are_read(tmp_path: Path) -> None:
    model = save_model(tmp_path / "vit")
    weights = tmp_path / "vit" / "model.safetensors"
    weights.rename(tmp_path / "large.safetensors")
    weights.symlink_to(tmp_path / "large.safetensors")
    assert torch.equal(built(tmp_path / "vit").classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_what_a_processor_does_not_know_is_not_saved_with_the_model(
    name: str, tmp_path: Path
) -> None:
    """A link among a model's files may lead to any file of this machine."""
    save_model(tmp_path / "vit")
    edit(tmp_path / "vit" / "config.json", image_size=224)
    known = tmp_path / "vit" / "preprocessor_config.json"
    known.unlink()
    secret = {"auths": {"registry": "c2VjcmV0"}, "HttpHeaders": {"token": "c2VjcmV0"}}
    held = {"image_processor": secret} if name == "processor_config.json" else secret
    (tmp_path / "docker.json").write_text(json.dumps(held))
    (tmp_path / "vit" / name).symlink_to(tmp_path / "docker.json")
    build_processor(read_spec(str(tmp_path / "vit"), {})).save_pretrained(tmp_path / "saved")
    (saved,) = (tmp_path / "saved").iterdir()
    assert "c2VjcmV0" not in saved.read_text()
    assert json.loads(saved.read_text())["size"] == {"height": 224, "width": 224}


def test_a_setting_takes_no_method_s_place(tmp_path: Path) -> None:
    save_model(tmp_path)
    methods = ("preprocess", "to_dict", "save_pretrained", "resize", "_valid_kwargs_names")
    edit(tmp_path / "preprocessor_config.json", **{name: "x" for name in methods})
    build_processor(read_spec(str(tmp_path), {})).save_pretrained(tmp_path / "saved")
    assert not set(methods) & set(
        json.loads((tmp_path / "saved" / "preprocessor_config.json").read_text())
    )


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def index(name: object) -> Callable[[Path], None]:
    """The only weights are those that an index names so."""

    def change(folder: Path) -> None:
        shutil.copyfile(folder / "model.safetensors", folder.parent / "x.safetensors")
        (folder / "model.safetensors").rename(folder / "other.safetensors")
        parts = {f"weight {number}": name for number in range(3)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))

    return change


def to_passwd(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


#: What is changed in a good folder, and a part of the answer.
ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a configuration of another kind": (
        replaced("config.json", to_passwd),
        "config.json cannot be read",
    ),
    "a configuration in a circle": (replaced("config.json", to_itself), "no config.json in it"),
    "a configuration that is a pipe": (replaced("config.json", os.mkfifo), "no config.json in it"),
    "a configuration that is a folder": (replaced("config.json", Path.mkdir), "no config.json"),
    "weights of another kind": (
        replaced("model.safetensors", to_passwd),
        "model.safetensors cannot be read",
    ),
    "weights in a circle": (replaced("model.safetensors", to_itself), "it has no model.safet"),
    "weights that are a pipe": (replaced("model.safetensors", os.mkfifo), "it has no model.safet"),
    "weights that are a device": (
        replaced("model.safetensors", lambda path: path.symlink_to("/dev/zero")),
        "it has no model.safetensors",
    ),
    "a processor of another kind": (
        replaced("preprocessor_config.json", to_passwd),
        "no image processor",
    ),
    "above": (index("../x.safetensors"), "only .safetensors files beside it"),
    "above, in the middle": (index("a/../../x.safetensors"), "only .safetensors files beside it"),
    "from the root": (index("/x.safetensors"), "only .safetensors files beside it"),
    "in a folder": (index("a/x.safetensors"), "only .safetensors files beside it"),
    "in the folder itself": (index("./x.safetensors"), "only .safetensors files beside it"),
    "a slash behind": (index("x.safetensors/"), "only .safetensors files beside it"),
    "no name": (index(""), "only .safetensors files beside it"),
    "points": (index(".."), "only .safetensors files beside it"),
    "a zero": (index("x\0.safetensors"), "is missing"),
    "a list": (index(["../x.safetensors"]), "only .safetensors files beside it"),
    "nothing": (index(None), "only .safetensors files beside it"),
    "a link that leads nowhere": (index("y.safetensors"), "y.safetensors is missing"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ODD)
def test_odd_folders_are_refused_in_a_line(name: str, tmp_path: Path) -> None:
    change, answer = ODD[name]
    save_model(tmp_path / "vit")
    change(tmp_path / "vit")
    with pytest.raises(ModelError) as caught:
        built(tmp_path / "vit")
    (problem,) = caught.value.problems
    assert answer in problem and "root:" not in problem


def test_a_pipe_in_a_processor_s_place_is_none(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    os.mkfifo(tmp_path / "preprocessor_config.json")
    (note,) = preprocessing_of(read_spec(str(tmp_path), {})).notes
    assert "has no preprocessor_config.json" in note
