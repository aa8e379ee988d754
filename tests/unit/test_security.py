"""Other people's files run no code and lead nowhere; secrets stay in the environment."""

from __future__ import annotations

import ast
import json
import logging
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from html.parser import HTMLParser
from importlib import metadata
from io import StringIO
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from bad_files import folder, image, put
from vit_colossal.cli import main
from vit_colossal.text import hide_secrets, printable

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for part in ("src", "scripts", "benchmarks", "train.py")
    for path in ([ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py")))
]
AUDIT = ROOT / "scripts" / "audit.py"
LIST = ROOT / "security" / "reviewed-advisories.yaml"
TORCH = Version(metadata.version("torch")).base_version

#: Modules whose readers run what they read.
UNSAFE_MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
#: Calls that do, or that start a shell, or unpack an archive wherever it wants to go.
UNSAFE_CALLS = {
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
    *("yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "pd.read_pickle"),
    *("eval", "exec", "os.system", "os.popen", "shutil.unpack_archive"),
}
UNSAFE_METHODS = {"extractall", "read_pickle", "load_state_dict_from_url"}
UNSAFE_ARGUMENTS = {"trust_remote_code", "allow_pickle", "shell"}


def _findings(path: Path) -> Iterator[str]:
    """What in a file could run other people's code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        yield from (name for name in modules if name.split(".")[0] in UNSAFE_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in UNSAFE_CALLS or name.rpartition(".")[2] in UNSAFE_METHODS:
            yield name
        for keyword in node.keywords:
            off = isinstance(keyword.value, ast.Constant) and not keyword.value.value
            if keyword.arg in UNSAFE_ARGUMENTS and not off:
                yield f"{name}({keyword.arg}=...)"
        weights = name.endswith("ForImageClassification.from_pretrained")
        # None for a name: it is given the weights and reads no file.
        weights = weights and not (node.args and ast.unparse(node.args[0]) == "None")
        if weights and not any(keyword.arg == "use_safetensors" for keyword in node.keywords):
            yield f"{name} without use_safetensors"


def test_nothing_here_unpickles_or_runs_what_it_reads() -> None:
    assert len(SOURCES) > 60
    # The peers of the benchmark read models that the benchmark itself has just written.
    peers = ROOT / "benchmarks" / "peers"
    found = {
        str(path.relative_to(ROOT)): lines
        for path in SOURCES
        if not path.is_relative_to(peers) and (lines := list(_findings(path)))
    }
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path, weights_only=True)",
        "yaml.load(text, Loader=loader)",
        "np.load(path, allow_pickle=True)",
        "load_dataset(name, trust_remote_code=True)",
        "tar.extractall(path)",
        "subprocess.run(text, shell=True)",
        "ViTForImageClassification.from_pretrained(name)",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str, tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(code)
    assert list(_findings(file))


def test_members_of_a_webdataset_from_the_hub_are_not_unpickled() -> None:
    from datasets.packaged_modules.webdataset.webdataset import WebDataset

    from vit_colossal.data.sources.hub_source import never_unpickle

    never_unpickle()
    assert set(WebDataset.DECODERS) <= {"cls", "cls2", "id", "index", "json", "txt"}


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_pickles_beside_a_good_model_and_data_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bad_files import model

    monkeypatch.chdir(tmp_path)
    touched = tmp_path / "touched"
    payload = pickle.dumps(Touch(touched))
    pickle.loads(payload)
    assert touched.exists()  # the payload works
    touched.unlink()
    model(pytorch_model__bin=payload, optimizer__pt=payload, training_args__bin=payload)()
    folder()
    for name in ("photos/data.pkl", "photos/ant/0.pth", "photos/ant/cache.npy"):
        put(name, payload)
    put("photos/photos.py", "from pathlib import Path\nPath('touched').touch()\n")
    flags = "--device cpu --max-steps 1 --global-batch-size 4 --model ./vit --dataset photos"
    assert main(["train", *flags.split(), "--output-dir", "run"]) == 0
    assert not touched.exists()


# --- Names that come from outside -----------------------------------------------------------------

HOSTILE = ("../../../escaped", "<script>alert(1)</script>", "/etc/passwd", "a\x1b[2Jb", "..")
HOSTILE += ('" onload="alert(2)', "]]>\nnext line", "\N{RIGHT-TO-LEFT OVERRIDE}turned")
#: The run directory's name.
RUN = "run $(touch z) <b onclick=alert(3)>\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}"
SECRETS = {
    "HF_TOKEN": "hf_secretNotToBePrinted",
    "WANDB_API_KEY": "wandb-0123456789",
    "AWS_SECRET_ACCESS_KEY": "aws/SECRET+value",
    "DATABASE_PASSWORD": "correct horse battery",
    "my_private_key": "-----BEGIN KEY-----",
}


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose labels are paths and markup, with secrets in the environment; what it said."""
    root = tmp_path_factory.mktemp("hostile") / "deep" / "deeper"
    root.mkdir(parents=True)
    lines, said = [], StringIO()
    for number, label in enumerate(HOSTILE):
        for row in range(6):
            put(str(root / f"{number}-{row}.jpg"), image(seed=10 * number + row))
            lines.append(json.dumps({"file": f"{number}-{row}.jpg", "label": label}))
    put(str(root / "data.jsonl"), "\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        flags = "--device cpu --max-steps 2 --global-batch-size 4 --model vit-micro"
        command = ["train", *flags.split(), "--dataset", "data.jsonl", "--output-dir", RUN]
        with redirect_stdout(said), redirect_stderr(said):
            assert main(command) == 0
            assert main(["report", RUN]) == 0
            logging.getLogger("vit_colossal").warning("for example %s", SECRETS["HF_TOKEN"])
    return root, said.getvalue()


def test_labels_do_not_lead_out_of_the_run_directory(hostile_run: tuple[Path, str]) -> None:
    root, _ = hostile_run
    inside = [path for path in root.rglob("*") if not path.is_relative_to(root / RUN)]
    assert all(path.suffix in (".jpg", ".jsonl") or path.name == RUN for path in inside)
    top = root.parents[1]
    assert sorted(path.name for path in top.iterdir()) == ["deep"]
    assert sorted(path.name for path in (top / "deep").iterdir()) == ["deeper"]
    named = [path for path in (root / RUN).rglob("*") if "script" in path.name]
    assert named == []
    config = json.loads((root / RUN / "model" / "config.json").read_text())
    assert sorted(config["id2label"].values()) == sorted(HOSTILE)


def test_labels_are_text_in_a_report(hostile_run: tuple[Path, str]) -> None:
    page = (hostile_run[0] / RUN / "report.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    elements: list[str] = []
    attributes: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.append(tag)
            attributes.extend(name for name, _ in attrs)

    Parser().feed(page)
    assert elements.count("script") == 1
    assert [name for name in attributes if name.startswith("on")] == []


def test_names_steer_no_terminal_and_are_one_word_of_a_command(
    hostile_run: tuple[Path, str],
) -> None:
    _, said = hostile_run
    assert [char for char in said if not (char.isprintable() or char in "\r\n")] == []
    command = "vit-colossal report "
    line = next(line for line in said.splitlines() if command in line)
    assert shlex.split(line)[-1] == printable(RUN)


def test_no_file_of_a_run_holds_a_secret(hostile_run: tuple[Path, str]) -> None:
    root, said = hostile_run
    files = [path for path in (root / RUN).rglob("*") if path.is_file()]
    assert {"environment.json", "config.yaml", "metrics.jsonl", "report.html"} <= {
        path.name for path in files
    }
    assert "run directory" in said
    assert "for example ***" in said
    for value in SECRETS.values():
        assert value not in said
        assert [path for path in files if value.encode() in path.read_bytes()] == []


def test_errors_and_tracebacks_hide_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for more in ((), ("--debug",)):
        for value in SECRETS.values():
            code = main(["train", "--device", "cpu", "--dataset", f"./{value}", *more])
            output = capsys.readouterr()
            assert code == 2
            assert value not in output.out + output.err
            assert "***" in output.err


def test_what_is_hidden_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("SOME_KEY", "123456789")
    monkeypatch.setenv("MY_TOKEN", "abcdefgh")
    monkeypatch.setenv("OTHER_TOKEN", "abcdefgh-and-more")
    assert hide_secrets("false 123456789") == "false 123456789"
    assert hide_secrets("x abcdefgh-and-more y abcdefgh") == "x *** y ***"
    assert hide_secrets("Bearer hf_AbCdEfGhIjKl") == "Bearer ***"
    address = "https://me:pass@host/a@b?x=1&X-Amz-Signature=0123abc&token=t0k"
    hidden = "https://***@host/a@b?x=1&X-Amz-Signature=***&token=***"
    assert hide_secrets(f"GET {address} failed") == f"GET {hidden} failed"
    assert hide_secrets("https://host/a@b?monkey=1 and a@b") == "https://host/a@b?monkey=1 and a@b"


def test_what_nobody_has_foreseen_hides_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vit_colossal.commands import report

    def fail(*_: object) -> int:
        raise RuntimeError("GET https://me:pass@host/?token=t0k")

    monkeypatch.setattr(report, "main", fail)
    assert main(["report", "run"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("RuntimeError: GET https://***@host/?token=***\n")


# --- The list of advisories -----------------------------------------------------------------------


def audit(*flags: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(AUDIT), *flags]
    environment = {"PYTHONPATH": str(path)} if path else {}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_reviewed_list_is_about_what_is_installed(tmp_path: Path) -> None:
    done = audit()
    new = [line for line in done.stdout.splitlines() if line.startswith("NEW: ")]
    # A release of today was reviewed by nobody; that makes no test fail before a person can look.
    assert [line for line in new if " is installed, " not in line] == []
    assert done.returncode == (1 if new else 0), done.stdout + done.stderr
    assert "CVE-2026-71281" in done.stdout
    assert "CVE-2025-32434" not in done.stdout
    listed = yaml.safe_load(LIST.read_text())
    listed["packages"]["torch"]["versions"] = ">=2.4,<2.6"
    other = tmp_path / "list.yaml"
    other.write_text(yaml.safe_dump(listed))
    done = audit("--list", str(other))
    assert done.returncode == 1
    assert f"NEW: torch {TORCH} is installed, >=2.4,<2.6 was reviewed" in done.stdout
    assert audit("--list", str(tmp_path / "nowhere.yaml")).returncode == 2


def test_every_entry_says_what_it_is_and_how_far_it_was_checked() -> None:
    for name, package in yaml.safe_load(LIST.read_text())["packages"].items():
        oldest = next(
            Version(bound.version)
            for bound in SpecifierSet(package["versions"])
            if bound.operator in (">=", "==")
        )
        for fixed in package.get("gone", {}).values():
            assert Version(fixed) <= oldest, name
        for entry in package["advisories"]:
            assert {"id", "aliases", "fixed", "what", "answer", "source"} == set(entry), entry
            assert entry["source"] in ("reports", "report", "measured", "memory")
            assert entry["fixed"] is None or Version(entry["fixed"]) > oldest, entry


def test_the_oldest_versions_reviewed_are_the_oldest_allowed() -> None:
    allowed = dict(re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "setup.py").read_text()))
    for name, package in yaml.safe_load(LIST.read_text())["packages"].items():
        if (known := name.replace("_", "-")) in allowed:
            assert package["versions"].split(",")[0] == f">={allowed[known]}", name


def test_what_pip_audit_knows_and_the_list_does_not(tmp_path: Path) -> None:
    """With a stand-in for pip-audit, which needs the network."""
    known = {"id": "GHSA-rrmf-rvhw-rf47", "aliases": ["CVE-2025-3000"], "fix_versions": ["2.13.0"]}
    new = {"id": "PYSEC-2099-1", "aliases": [], "fix_versions": []}
    gone = {"id": "PYSEC-2025-41", "aliases": ["CVE-2025-32434"], "fix_versions": ["2.6.0"]}
    for vulns, expected in (
        ([known], []),
        ([known, new], ["torch 2.11: PYSEC-2099-1 (fixed in no release)"]),
        ([gone], ["torch 2.11: PYSEC-2025-41 (fixed in 2.6.0)"]),
    ):
        answer = [{"name": "torch", "version": "2.11", "vulns": vulns}]
        assert online(tmp_path, answer) == expected


def test_what_pip_audit_cannot_look_up_is_not_taken_for_good(tmp_path: Path) -> None:
    why = "Dependency not found on PyPI and could not be audited"
    answer = [
        {"name": "huggingface-hub", "skip_reason": why},
        {"name": "vit-colossal", "skip_reason": "distribution marked as editable"},
    ]
    expected = [f"huggingface-hub: pip-audit could not look it up ({why})"]
    assert online(tmp_path, answer) == expected


def online(folder: Path, dependencies: list[dict[str, object]]) -> list[str]:
    """What ``--online`` finds new apart from versions, when pip-audit answers so."""
    text = f"print({json.dumps(json.dumps({'dependencies': dependencies}))})"
    (folder / "pip_audit.py").write_text(text)
    done = audit("--online", path=folder)
    lines = [line.removeprefix("NEW: ") for line in done.stdout.splitlines() if "NEW: " in line]
    assert done.returncode == (1 if lines else 0), done.stdout + done.stderr
    return [line for line in lines if " is installed, " not in line]
