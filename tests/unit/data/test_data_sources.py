from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vit_colossal.data.sources.columns import checked, labels_of
from vit_colossal.data.sources.request import SourceRequest
from vit_colossal.data.sources.source import ImageSource, open_source
from vit_colossal.data.sources.splits import stratified_split
from vit_colossal.errors import DataError


@pytest.fixture(autouse=True)
def own_library_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("library"))


DIGITS = "867c79d7a702ccdc5a5f160fc753d467c0abb63cee39bf90c29b7a2e82a5ead5"


def image(shade: int) -> Image.Image:
    return Image.fromarray(np.full((6, 5, 3), shade, np.uint8))


def write_folder(root: Path, **images_per_class: int) -> Path:
    for number, (name, count) in enumerate(images_per_class.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            image(20 * number + i).save(root / name / f"{i:03}.png")
    return root


def table(labels: list, feature: object = None) -> datasets.Dataset:
    feature = feature or datasets.ClassLabel(names=["cat", "dog"])
    features = {"image": datasets.Image(), "label": feature}
    rows = {"image": [image(i) for i in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def shades(dataset: datasets.Dataset) -> list[int]:
    return [row["image"].getpixel((0, 0))[0] for row in dataset]


def problems(**request: object) -> str:
    with pytest.raises(DataError) as caught:
        open_source(
            SourceRequest(**{k: v if k != "dataset" else str(v) for k, v in request.items()})
        )
    assert all("\n" not in problem for problem in caught.value.problems)
    return "\n".join(caught.value.problems)


def open_path(path: Path, **options: object) -> ImageSource:
    return open_source(SourceRequest(str(path), **options))


# --- The built-in digits --------------------------------------------------------------------------


def test_digits_are_1437_and_360_rescaled_images() -> None:
    source = open_source(SourceRequest("digits"))
    assert (len(source.train), len(source.evaluation)) == (1437, 360)
    assert source.labels == tuple("0123456789")
    assert source.eval_split == "test"
    values, targets = load_digits(return_X_y=True)
    expected = Counter(
        (np.round(v.reshape(8, 8) * 255 / 16).astype(np.uint8).tobytes(), int(t))
        for v, t in zip(values, targets, strict=True)
    )
    found = Counter(
        (np.asarray(row["image"]).tobytes(), row["label"])
        for part in (source.train, source.evaluation)
        for row in part
    )
    assert found == expected
    shares = np.bincount(source.evaluation[:]["label"]) / np.bincount(targets)
    assert np.all(np.abs(shares - 0.2) < 0.01)


def test_digits_hold_out_the_same_images_for_every_seed() -> None:
    first, second = (open_source(SourceRequest("digits", seed=seed)) for seed in (1, 2))
    assert first.fingerprint == second.fingerprint
    assert first.evaluation[:]["label"] == second.evaluation[:]["label"]


def test_the_fingerprint_of_the_digits_never_changes() -> None:
    """A changed value silently invalidates every recorded run: change it only on purpose."""
    assert open_source(SourceRequest("digits")).fingerprint == DIGITS


# --- Folders of images ----------------------------------------------------------------------------


def test_a_folder_of_classes_is_split_by_label_and_seed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", dog=20, cat=40)
    source = open_path(root, val_split=0.2)
    assert source.labels == ("cat", "dog")
    assert Counter(source.evaluation[:]["label"]) == {0: 8, 1: 4}
    assert Counter(source.train[:]["label"]) == {0: 32, 1: 16}
    paths = [
        {row["image"]["path"] for row in part.cast_column("image", datasets.Image(decode=False))}
        for part in (source.train, source.evaluation)
    ]
    assert not paths[0] & paths[1]
    assert "held out" in source.eval_split
    assert shades(open_path(root, val_split=0.2).evaluation) == shades(source.evaluation)
    other = open_path(root, val_split=0.2, seed=7)
    assert shades(other.evaluation) != shades(source.evaluation)
    assert other.fingerprint != source.fingerprint


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "test"])
def test_a_folder_may_bring_its_own_evaluation_split(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path / "pets/train", cat=3, dog=2)
    write_folder(tmp_path / f"pets/{name}", cat=1, dog=1)
    (tmp_path / "pets/notes").mkdir()
    source = open_path(tmp_path / "pets")
    assert source.eval_split == name
    assert source.train[:]["label"] == [0, 0, 0, 1, 1]
    assert source.evaluation[:]["label"] == [0, 1]


def test_split_folders_of_other_names_can_be_chosen(tmp_path: Path) -> None:
    for split, count in (("learn", 3), ("exam", 2), ("test", 1)):
        write_folder(tmp_path / f"pets/{split}", cat=count, dog=count)
    source = open_path(tmp_path / "pets", train_split="learn", eval_split="exam")
    assert (len(source.train), len(source.evaluation), source.eval_split) == (6, 4, "exam")


def test_naming_the_training_split_for_evaluation_holds_out_a_share(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets/train", cat=10, dog=10)
    write_folder(tmp_path / "pets/test", cat=3, dog=3)
    source = open_path(tmp_path / "pets", eval_split="train", val_split=0.5)
    assert (len(source.train), len(source.evaluation)) == (10, 10)


def test_uneven_nesting_keeps_labels_and_hidden_files_are_no_images(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", cat=2, dog=2)
    (root / "cat/more").mkdir()
    image(9).save(root / "cat/more/9.png")
    (root / "cat/._000.png").write_bytes(b"not an image")
    (root / ".thumbnails").mkdir()
    image(9).save(root / ".thumbnails/9.png")
    source = open_path(root, val_split=0.2)
    assert source.labels == ("cat", "dog")
    assert len(source.train) + len(source.evaluation) == 5


def test_the_fingerprint_of_a_folder_is_its_content(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", cat=10, dog=10)
    before = open_path(root).fingerprint
    assert open_path(shutil.copytree(root, tmp_path / "copy")).fingerprint == before
    assert open_path(root, max_train_samples=5).fingerprint != before
    assert open_path(root, max_train_samples=500).fingerprint == before
    size = (root / "cat/000.png").stat().st_size
    (root / "cat/000.png").write_bytes(b"x" * size)
    assert open_path(root).fingerprint != before


def test_a_local_path_wins_over_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "digits", cat=10, dog=10)
    monkeypatch.chdir(tmp_path)
    assert open_source(SourceRequest("digits")).labels == ("cat", "dog")


def test_the_first_rows_are_kept(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets/train", cat=3, dog=3)
    write_folder(tmp_path / "pets/val", cat=3, dog=3)
    source = open_path(tmp_path / "pets", max_train_samples=4, max_eval_samples=2)
    assert shades(source.train) == [0, 1, 2, 20]
    assert shades(source.evaluation) == [0, 1]


# --- Parquet and Arrow ----------------------------------------------------------------------------


def test_parquet_files_tell_the_split_by_their_names(tmp_path: Path) -> None:
    root = tmp_path / "data [v1]"
    root.mkdir()
    table([0, 1, 0]).to_parquet(root / "train-00000-of-00002.parquet")
    table([1]).to_parquet(root / "train-00001-of-00002.parquet")
    table([1, 0]).to_parquet(root / "validation.parquet")
    source = open_path(root)
    assert source.train[:]["label"] == [0, 1, 0, 1]
    assert source.evaluation[:]["label"] == [1, 0]
    assert source.labels == ("cat", "dog")
    assert source.train[0]["image"].size == (5, 6)


def test_what_the_library_saved_to_disk_is_read_by_folder(tmp_path: Path) -> None:
    both = datasets.DatasetDict(train=table([0, 1, 0]), test=table([1]))
    both.save_to_disk(tmp_path / "saved")
    source = open_path(tmp_path / "saved")
    assert (len(source.train), len(source.evaluation), source.eval_split) == (3, 1, "test")


@pytest.mark.parametrize("file", ["mine.parquet", "test.parquet"])
def test_a_single_file_is_the_training_split(tmp_path: Path, file: str) -> None:
    table([0, 1] * 10).to_parquet(tmp_path / file)
    assert len(open_path(tmp_path / file, val_split=0.1).train) == 18


def test_images_are_recognised_without_the_librarys_own_mark(tmp_path: Path) -> None:
    table([0, 1] * 5, datasets.Value("int64")).to_parquet(tmp_path / "a.parquet")
    pq.write_table(
        pq.read_table(tmp_path / "a.parquet").replace_schema_metadata(None), tmp_path / "b.parquet"
    )
    source = open_path(tmp_path / "b.parquet")
    assert source.labels == ("0", "1")
    assert source.train[0]["image"].size == (5, 6)


@pytest.mark.parametrize(
    ("kind", "train", "test", "names"),
    [
        ("string", ["dog", "ant", "cat"], ["cat", "dog"], ("ant", "cat", "dog")),
        ("int64", [10, 9, 11], [11, 10], ("9", "10", "11")),
    ],
)
def test_plain_labels_are_numbered_in_sorted_order(
    tmp_path: Path, kind: str, train: list, test: list, names: tuple[str, ...]
) -> None:
    table(train, datasets.Value(kind)).to_parquet(tmp_path / "train.parquet")
    table(test, datasets.Value(kind)).to_parquet(tmp_path / "test.parquet")
    source = open_path(tmp_path)
    assert source.labels == names
    assert [names[i] for i in source.train[:]["label"]] == [str(v) for v in train]
    assert [names[i] for i in source.evaluation[:]["label"]] == [str(v) for v in test]
    assert tuple(source.evaluation.features["label"].names) == names


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = table([0, 1] * 5)
    rows = rows.add_column("fine", [i % 3 for i in range(10)], feature=datasets.Value("int64"))
    rows = rows.rename_column("image", "img")
    rows.to_parquet(tmp_path / "train.parquet")
    source = open_path(tmp_path, image_column="img", label_column="fine")
    assert (source.image_column, source.label_column) == ("img", "fine")
    assert source.labels == ("0", "1", "2")
    assert source.train.column_names == ["img", "fine"]


# --- Everything that is refused -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere", "a/b/c", "no.parquet", ""])
def test_a_missing_path_is_not_looked_for_on_the_hub(name: str) -> None:
    assert "no such file or folder" in problems(dataset=name)


def test_folders_without_images_say_what_is_expected(tmp_path: Path) -> None:
    assert "one folder of images per class" in problems(dataset=tmp_path)
    image(0).save(tmp_path / "loose.png")
    assert "1 image(s) outside of a class folder" in problems(dataset=tmp_path)


def test_a_folder_of_other_splits_has_no_training_split(tmp_path: Path) -> None:
    write_folder(tmp_path / "test", cat=1, dog=1)
    assert "no folder 'train', only test" in problems(dataset=tmp_path)


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    assert "1 label" in problems(dataset=write_folder(tmp_path / "pets", cat=4))


def test_a_class_in_one_split_only_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", cat=2, dog=2)
    write_folder(tmp_path / "test", cat=2, dog=2, yak=1)
    assert "outside of the 2 labels (yak) in 1 of 5 rows" in problems(dataset=tmp_path)
    rows = table(["cat", "dog"], datasets.Value("string"))
    (tmp_path / "files").mkdir()
    rows.to_parquet(tmp_path / "files/train.parquet")
    table(["yak"], datasets.Value("string")).to_parquet(tmp_path / "files/test.parquet")
    assert "(yak)" in problems(dataset=tmp_path / "files")
    table([1], datasets.ClassLabel(names=["cat", "yak"])).to_parquet(
        tmp_path / "files/test.parquet"
    )
    table([0, 1]).to_parquet(tmp_path / "files/train.parquet")
    assert "outside of the 2 labels (yak)" in problems(dataset=tmp_path / "files")


def test_a_class_without_evaluation_images_is_fine(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", ant=2, cat=2, dog=2)
    write_folder(tmp_path / "test", cat=1, dog=1, ant=0)
    source = open_path(tmp_path)
    assert source.labels == ("ant", "cat", "dog")
    assert source.evaluation[:]["label"] == [1, 2]


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", ant=0, cat=2, dog=2)
    assert f"no images in the class folder {root / 'ant'}" in problems(dataset=root)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", cat=2, dog=2)
    write_folder(tmp_path / "other", yak=2)
    (root / "cat/inside.png").symlink_to(root / "cat/000.png")
    assert len(open_path(root, eval_split="train[:1]").train) == 5
    (root / "cat/out.png").symlink_to(tmp_path / "other/yak/000.png")
    (root / "yak").symlink_to(tmp_path / "other/yak")
    (root / "dog/loop").symlink_to(root)
    message = problems(dataset=root)
    assert f"{root}/cat/out.png is a link to {tmp_path}/other/yak/000.png" in message
    assert f"{root}/yak is a link to a folder" in message
    assert f"{root}/dog/loop is a link to a folder" in message


def test_names_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    """Such as another system's archive leaves: neither rows nor JSON could hold them."""
    root = write_folder(tmp_path / "pets", cat=2, dog=2)
    (root / "cat/caf\udce9.png").write_bytes((root / "cat/000.png").read_bytes())
    found = problems(dataset=root)
    assert f"{root}/cat/caf\N{REPLACEMENT CHARACTER}.png is no name in UTF-8: rename it" in found
    moved = write_folder(tmp_path / "\udce9" / "pets", cat=2, dog=2)
    assert "is no name in UTF-8: rename it" in problems(dataset=moved)
    table = tmp_path / "data.jsonl"
    table.write_text('{"file": "a.png", "label": "\\ud83d"}\n')
    assert "line 1: half of a pair of surrogates is no character" in problems(dataset=table)


def test_photos_that_are_not_read_are_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", cat=2, dog=2)
    (root / "cat/IMG_1.CR2").write_bytes(b"x")
    (root / "dog/IMG_2.cr2").write_bytes(b"x")
    (root / "dog/IMG_3.dng").write_bytes(b"x")
    assert open_path(root).notes == (
        f"{root}: left out 2 .cr2, 1 .dng; convert them to JPEG to use them",
    )
    only = tmp_path / "phone"
    (only / "cat").mkdir(parents=True)
    (only / "cat/IMG_1.CR2").write_bytes(b"x")
    message = problems(dataset=only)
    assert "no images in" in message and "left out 1 .cr2; convert them" in message
    # One class is from another phone: the folder is not empty, and not to be removed.
    write_folder(only, bee=4)
    (message,) = problems(dataset=only).splitlines()
    assert "class folder" in message and "left out 1 .cr2; convert them" in message
    assert "remove" not in message


def test_ten_thousand_classes_are_no_obstacle(tmp_path: Path) -> None:
    content = (write_folder(tmp_path / "one", cat=1) / "cat/000.png").read_bytes()
    for i in range(10_000):
        (tmp_path / f"many/c{i:05}").mkdir(parents=True)
        (tmp_path / f"many/c{i:05}/0.png").write_bytes(content)
    source = open_path(tmp_path / "many", eval_split="train[:1]")
    assert (len(source.labels), len(source.train)) == (10_000, 10_000)


def test_unlabelled_rows_are_refused(tmp_path: Path) -> None:
    table([0, 1]).to_parquet(tmp_path / "train.parquet")
    table([-1, 1]).to_parquet(tmp_path / "test.parquet")
    message = problems(dataset=tmp_path)
    assert "(-1)" in message and "'test'" in message and "--eval-split" in message
    (tmp_path / "none").mkdir()
    table([0, None, 1]).to_parquet(tmp_path / "none/train.parquet")
    assert "None" in problems(dataset=tmp_path / "none")
    (tmp_path / "plain").mkdir()
    table([0, -1, 1], datasets.Value("int64")).to_parquet(tmp_path / "plain/train.parquet")
    assert "(-1)" in problems(dataset=tmp_path / "plain")


def test_missing_splits_are_named_with_the_flag(tmp_path: Path) -> None:
    table([0, 1] * 9).to_parquet(tmp_path / "train.parquet")
    table([0, 1]).to_parquet(tmp_path / "test.parquet")
    message = problems(dataset=tmp_path, train_split="learn", eval_split="exam")
    assert "--train-split learn: no such split, only test, train" in message
    assert "--eval-split exam: no such split, only test, train" in message


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_the_held_out_share_lies_between_0_and_1(tmp_path: Path, share: float) -> None:
    table([0, 1]).to_parquet(tmp_path / "train.parquet")
    assert "--val-split" in problems(dataset=tmp_path, val_split=share)


def test_holding_out_everything_is_refused(tmp_path: Path) -> None:
    table([0, 1]).to_parquet(tmp_path / "train.parquet")
    assert "leaves nothing of the 2 rows" in problems(dataset=tmp_path, val_split=0.9)


@pytest.mark.parametrize("kind", [None, datasets.Value("string")], ids=["classes", "strings"])
def test_an_empty_split_is_refused(tmp_path: Path, kind: object) -> None:
    rows = table([], kind)
    with pytest.raises(DataError, match="split 'test' is empty"):
        checked(rows, "test", "image", "label", labels_of(rows, "label", "train"))
    table([0, 1]).to_parquet(tmp_path / "train.parquet")
    pq.ParquetWriter(tmp_path / "test.parquet", rows.data.schema).close()
    assert '"test" corresponds to no data' in problems(dataset=tmp_path)


@pytest.mark.parametrize("flag", ["max_train_samples", "max_eval_samples"])
def test_no_rows_at_all_is_refused(flag: str) -> None:
    assert f"--{flag.replace('_', '-')} 0" in problems(dataset="digits", **{flag: 0})


def test_ambiguous_and_missing_columns_list_the_candidates(tmp_path: Path) -> None:
    kinds = datasets.ClassLabel(names=["a", "b"])
    rows = table([0, 1]).add_column("kind", [0, 1], feature=kinds)
    masks = table([0, 1]).select_columns(["image"]).rename_column("image", "mask")
    twice = datasets.concatenate_datasets([rows, masks], axis=1)
    twice.to_parquet(tmp_path / "twice.parquet")
    message = problems(dataset=tmp_path / "twice.parquet")
    assert "several image columns: choose one of image, mask with --image-column" in message
    assert "several label columns: choose one of label, kind with --label-column" in message
    bare = datasets.Dataset.from_dict({"text": ["a", "b"]})
    bare.to_parquet(tmp_path / "bare.parquet")
    message = problems(dataset=tmp_path / "bare.parquet")
    assert "no image column found" in message and "no label column found" in message
    message = problems(dataset=tmp_path / "twice.parquet", image_column="pic", label_column="tag")
    assert "--image-column pic: no such column" in message
    assert "--label-column tag: no such column" in message


def test_columns_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    rows = table([0, 1] * 5).add_column("score", [0.5] * 10)
    rows.to_parquet(tmp_path / "train.parquet")
    assert "--label-column score" in problems(dataset=tmp_path, label_column="score")
    assert "--image-column score" in problems(dataset=tmp_path, image_column="score")


def test_a_split_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    rows = table([0, 1])
    bare = rows.remove_columns("label")
    with pytest.raises(DataError, match="split 'test': no column 'label'"):
        checked(bare, "test", "image", "label", labels_of(rows, "label", "train"))


def test_unclear_mixed_and_damaged_files_are_refused(tmp_path: Path) -> None:
    table([0, 1]).to_parquet(tmp_path / "train.parquet")
    table([0, 1]).to_parquet(tmp_path / "extra.parquet")
    assert "extra.parquet belongs to no split" in problems(dataset=tmp_path)
    (tmp_path / "extra.parquet").rename(tmp_path / "test.arrow")
    assert "found .arrow and .parquet" in problems(dataset=tmp_path)
    (tmp_path / "test.arrow").unlink()
    (tmp_path / "train.parquet").write_bytes(b"PAR1 cut off")
    assert "cannot be read" in problems(dataset=tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    message = problems(dataset=tmp_path / "notes.txt")
    assert "expected files of one kind (.parquet, .arrow" in message


# --- Details --------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [1, 7, 50, 99])
def test_a_stratified_split_keeps_every_share_to_one_row(held_out: int) -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    kept, out = stratified_split(labels, held_out, seed=3)
    assert sorted(kept + out) == list(range(100))
    assert len(out) == held_out
    assert np.all(
        np.abs(np.bincount(labels[out], minlength=3) - held_out * np.array([0.6, 0.3, 0.1])) <= 1
    )


def test_no_heavy_library_is_imported_with_the_modules() -> None:
    script = (
        "import sys, vit_colossal.data.sources.source, vit_colossal.data.cache; "
        "print(sorted({'torch', 'datasets', 'transformers', 'colossalai'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_slices_of_a_split_keep_its_order(tmp_path: Path) -> None:
    pixels = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in range(10)]
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    rows = {"img": pixels, "label": [value % 2 for value in range(10)]}
    file = tmp_path / "train.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    request = SourceRequest(str(tmp_path), train_split="train[:6]", eval_split="train[6:9]")
    source = open_source(request)
    reds = [
        [row["img"].getpixel((0, 0))[0] for row in split]
        for split in (source.train, source.evaluation)
    ]
    assert reds == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]
    assert source.eval_split == "train[6:9]"
    beyond = SourceRequest(str(tmp_path), train_split="train[10:]", eval_split="train[4500:5000]")
    with pytest.raises(DataError) as caught:
        open_source(beyond)
    train, evaluation = caught.value.problems
    assert "--train-split train[10:] is empty: 'train' has 10 images" in train
    assert "--eval-split train[4500:5000] is empty" in evaluation
