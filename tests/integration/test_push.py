"""`vit-colossal push` to a hub on the loopback interface, and what comes back from there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hub_upload import OWNER, WRITE_TOKEN, UploadHub, taking_uploads
from launching import Finished, environment, run, warm
from vit_colossal import predict
from vit_colossal.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture
def hub() -> Iterator[UploadHub]:
    with taking_uploads(UploadHub()) as hub:
        yield hub


def vit_colossal(
    hub: UploadHub, home: Path, *flags: str, token: str = WRITE_TOKEN, xet: bool = False
) -> Finished:
    """The real program: the client reads endpoint and token when it is imported.

    Large files go by plain HTTP; by Xet, which the server does not speak, with ``xet``.
    """
    env = environment(HF_HOME=str(home), HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0")
    env |= {"HF_TOKEN": token, "NO_PROXY": "127.0.0.1,localhost"}
    env |= {"HF_HUB_DISABLE_XET": str(int(not xet))}
    command = warm("-m", "vit_colossal", *flags, late=True)
    finished = run(command, timeout_s=180, cwd=home, env=env)
    assert token not in finished.output or not token
    assert "Traceback" not in finished.output
    return finished


def correct(run_dir: Path) -> int:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "eval"][-1]["correct"]


def metadata(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_pushed_run_is_found_and_used_by_others(
    hub: UploadHub, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    pushed = vit_colossal(hub, tmp_path, "push", str(trained), "somebody/eleven", "--private")
    assert pushed.returncode == 0, pushed.output
    assert f"{hub.endpoint}/somebody/eleven/commit/" in pushed.stdout
    files = hub.repositories["models", "somebody/eleven"].files
    assert set(files) == {
        *("README.md", "config.json", "model.safetensors", "preprocessor_config.json")
    }
    assert hub.private == ["somebody/eleven"]
    assert files["model.safetensors"] in hub.blobs.values()
    card = files["README.md"].decode()
    assert f"({correct(trained)}/133)" in card
    for part in (
        "hybrid on 2 processes (dp 1 x pp 2 x tp 1)",
        "| lr | 0.001 |",
        "colossalai | 0.5",
    ):
        assert part in card
    assert 'model="somebody/eleven"' in card
    assert str(tmp_path.parents[1]) not in card  # local folders are nobody's business
    result = metadata(card)["model-index"][0]["results"][0]  # type: ignore[index]
    assert result["metrics"][0]["value"] == pytest.approx(correct(trained) / 133, abs=1e-6)
    # Someone else, by name alone.
    image = str(next(pictures.rglob("001-*.png")))
    found = vit_colossal(hub, tmp_path, "predict", "somebody/eleven", image, token="")
    assert found.returncode == 0, found.output
    (ours,) = predict(trained, image, device="cpu").predictions
    (theirs,) = map(json.loads, found.stdout.splitlines())
    assert [top["label"] for top in theirs["predictions"]] == [label for label, _ in ours.top]
    # Once more, from a checkpoint and to a branch: another commit, nothing in the way.
    flags = ["--checkpoint", "best", "--revision", "best", "--message", "the best"]
    again = vit_colossal(hub, tmp_path, "push", str(trained), "eleven", *flags)
    assert again.returncode == 0, again.output
    assert hub.messages == ["Upload a model trained with vit_colossal", "the best"]
    assert hub.branches == ["best"]
    assert set(hub.repositories) == {("models", f"{OWNER}/eleven")}


def test_refusals_name_the_fix_and_never_the_token(
    hub: UploadHub, trained: Path, tmp_path: Path
) -> None:
    none = vit_colossal(hub, tmp_path, "push", str(trained), "somebody/eleven", token="")
    assert none.returncode == 1
    assert "HF_TOKEN" in none.stderr
    wrong = vit_colossal(hub, tmp_path, "push", str(trained), "somebody/x", token="hf_read-only-1")
    assert wrong.returncode == 1
    assert "may not write" in wrong.stderr
    hub.full = True
    for xet in (False, True):
        full = vit_colossal(hub, tmp_path, "push", str(trained), "somebody/eleven", xet=xet)
        assert full.returncode == 1
        (line,) = full.stderr.splitlines()
        assert "somebody/eleven" in line and ("xet-write-token" in line) is xet
    assert hub.repositories["models", "somebody/eleven"].files == {}
    sent = [request.headers.get("authorization") for request in hub.requests]
    assert f"Bearer {WRITE_TOKEN}" in sent


def test_nobody_listens(trained: Path, tmp_path: Path) -> None:
    hub = UploadHub()
    hub.port = 9
    finished = vit_colossal(hub, tmp_path, "push", str(trained), "somebody/eleven")
    assert finished.returncode == 1
    assert "HF_ENDPOINT (http://127.0.0.1:9)" in finished.stderr


def test_the_card_alone(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(trained), "me/eleven", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert main(["push", str(trained), "me/eleven", "--card-only"]) == 0
    assert (tmp_path / "README.md").read_text() == printed
    assert main(["push", str(trained), "me/eleven", "--card-only"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["push", str(trained), "not/a/name", "--dry-run"]) == 2
    assert "not a repository's name" in capsys.readouterr().err
    written = (trained / "model" / "README.md").read_text()
    assert (
        re.sub("me/eleven|path/to/this/directory", "X", printed).partition("# ")[2]
        == re.sub("path/to/this/directory", "X", written).partition("# ")[2]
    )


def test_a_model_without_a_run_claims_no_accuracy(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alone").mkdir()
    for file in (trained / "model").iterdir():
        (tmp_path / "alone" / file.name).write_bytes(file.read_bytes())
    assert main(["push", str(tmp_path / "alone"), "me/x", "--dry-run"]) == 0
    card = capsys.readouterr().out
    assert "was not measured" in card
    assert "/133" not in card
    assert "model-index" not in card
