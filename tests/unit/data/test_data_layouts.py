"""What folders stand for: splits or classes, how both are told apart, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from PIL import Image

from data_folders import classes, problems, put, read, sizes

# --- Splits by name -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("Train", "Valid"),
        ("train_images", "val_images"),
        ("training", "validation"),
        ("images/train", "images/val"),
        ("train", "validate"),
        ("TRAIN SET", "DEV SET"),
        ("seg_train/seg_train", "seg_dev/seg_dev"),
        ("Vögel & Käfer/train", "Vögel & Käfer/val"),
        ("archive/birds_train/birds_train", "archive/birds_valid/birds_valid"),
        ("train/images", "val/images"),
        ("data/1-train", "data/2-val"),
    ],
)
def test_folders_name_their_splits(tmp_path: Path, train: str, validation: str) -> None:
    classes(tmp_path, train, validation)
    (tmp_path / "labels").mkdir()
    source = read(tmp_path)
    assert (source.labels, sizes(source)) == (("cat", "dog"), (8, 8))
    first = [line for line in source.overview if line.endswith("8 to train on")]
    assert len(first) == 1 and f"of {train.split('/', maxsplit=1)[0]}" in first[0]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("TRAIN", "TEST"),
        ("train", "eval"),
        ("train", "holdout"),
        ("train", "Evaluation"),
        ("asl alphabet train/asl alphabet train", "asl alphabet test/asl alphabet test"),
    ],
)
def test_what_is_called_test_chooses_nothing(tmp_path: Path, train: str, test: str) -> None:
    classes(tmp_path, train, test)
    source = read(tmp_path, val_split=0.25)
    assert (source.labels, sizes(source)) == (("cat", "dog"), (6, 2))
    assert "held out" in source.eval_split
    assert any("kept for the end: vit-colossal eval RUN" in line for line in source.overview)
    # Asked for by name, in any spelling, or where nothing is chosen by it.
    for options in ({"eval_split": "test"}, {"eval_split": "testing"}, {"keep_test": False}):
        assert sizes(read(tmp_path, **options)) == (8, 8)


def test_a_validation_split_leaves_test_alone(tmp_path: Path) -> None:
    classes(tmp_path, "Train", "Dev", "Test")
    source = read(tmp_path)
    assert (sizes(source), source.eval_split) == ((8, 8), "dev")
    assert source.overview == (
        "split train: 8 images of Train/, 8 to train on",
        "split dev: 8 images of Dev/, 8 to evaluate on",
        "split test: 8 images of Test/, kept for the end: vit-colossal eval RUN --eval-split test",
    )


def test_classes_with_words_of_splits_are_classes(tmp_path: Path) -> None:
    put(tmp_path, "bullet train", "tram", "test tube", "valley", "contest")
    assert len(read(tmp_path).labels) == 5


def test_numbered_parts_of_a_split_are_one(tmp_path: Path) -> None:
    classes(tmp_path, "train_1", "train_2", "val")
    assert sizes(read(tmp_path)) == (16, 8)


def test_classes_may_hold_their_splits(tmp_path: Path) -> None:
    put(tmp_path, "cat/train", "cat/val", "dog/Train", "dog/Val")
    source = read(tmp_path)
    assert (source.labels, sizes(source)) == (("cat", "dog"), (8, 8))


def test_classes_may_hold_more_than_their_splits(tmp_path: Path) -> None:
    for name in ("bottle", "cable", "pill"):
        put(tmp_path, *(f"{name}/{s}" for s in ("train/good", "test/bad", "ground_truth/bad")))
    source = read(tmp_path, eval_split="test")
    assert (source.labels, sizes(source)) == (("bottle", "cable", "pill"), (12, 12))
    assert [n for n in source.notes if "*/ground_truth/ (12 images)" in n] == list(source.notes)


def test_a_folder_that_wraps_the_classes_is_no_class(tmp_path: Path) -> None:
    assert read(put(tmp_path / "a", "images/cat", "images/dog")).labels == ("cat", "dog")
    assert read(put(tmp_path / "pets", "pets/cat", "pets/dog")).labels == ("cat", "dog")
    message = problems(put(tmp_path / "b", "flowers/rose", "flowers/tulip"))
    assert f"--dataset {tmp_path}/b/flowers" in message and "rose, tulip" in message
    message = problems(put(tmp_path / "c", "Takeout/Google Fotos/A", "Takeout/Google Fotos/B"))
    assert f"--dataset '{tmp_path}/c/Takeout/Google Fotos'" in message
    # Of splits, one alone would be read and the other forgotten.
    message = problems(classes(tmp_path / "d", "train/animals", "val/animals"))
    assert f"move them up into {tmp_path}/d/train, in each split" in message


def test_folders_of_one_class_say_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path, "pictures")
    message = problems(tmp_path)
    assert "its folders make 1 label(s), pictures; classification needs 2" in message
    (tmp_path / "list.csv").write_text("file,label\nC:\\x\\000.png,a\n")
    assert f"or name the table: --dataset {tmp_path}/list.csv" in problems(tmp_path)
    assert read(tmp_path, min_labels=1).labels == ("pictures",)


def test_many_classes_in_splits(tmp_path: Path) -> None:
    names = tuple(f"Klasse {n}" for n in range(120))
    put(tmp_path, *(f"{split}/{name}" for split in ("Train", "Val") for name in names), count=1)
    source = read(tmp_path)
    assert (len(source.labels), sizes(source)) == (120, (120, 120))


# --- Two readings ---------------------------------------------------------------------------------


def test_a_split_beside_classes_stops_with_both_readings(tmp_path: Path) -> None:
    put(tmp_path, "train", "plane", "car")
    message = problems(tmp_path)
    assert "3 classes (car 4, plane 4, train 4 images)" in message
    assert "train 4 images of train/" in message
    assert "--classes-are-folders" in message and "--train-split train" in message
    assert read(tmp_path, classes_are_folders=True).labels == ("car", "plane", "train")


@pytest.mark.parametrize(
    ("folders", "settled"),
    [
        (("train/steam", "train/diesel", "plane/jet", "car/old"), "--train-split train"),
        (("val/cat", "val/dog", "cat", "dog"), "move the training images into train/"),
        (("crash test", "bullet train"), "--train-split 'bullet train'"),
        (("Test", "ant", "bee"), "move the training images into train/"),
    ],
)
def test_what_nothing_settles_is_asked(
    tmp_path: Path, folders: tuple[str, ...], settled: str
) -> None:
    message = problems(put(tmp_path, *folders))
    assert settled in message and "--classes-are-folders" in message
    found = read(tmp_path, classes_are_folders=True)
    assert found.labels == tuple(sorted({folder.split("/")[0] for folder in folders}))


@pytest.mark.parametrize(
    "names",
    [
        ("images_001", "images_002", "images_003"),
        ("HAM10000_images_part_1", "HAM10000_images_part_2"),
        ("fold 1", "fold 2"),
        ("batch-1", "batch-2"),
        ("fold1/ant", "fold1/bee", "fold2/ant", "fold2/bee"),
        ("2019/ant", "2019/bee", "2020/ant", "2020/bee"),
        ("Session 1/ant", "Session 1/bee", "Session 2/ant", "Session 2/bee", "Session 2/wasp"),
    ],
)
def test_numbered_parts_may_be_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    message = problems(put(tmp_path, *names))
    outer = sorted({name.split("/")[0] for name in names})
    assert f"can be read as {len(outer)} classes ({outer[0]} " in message
    assert "numbered parts" in message and "--classes-are-folders" in message
    assert read(tmp_path, classes_are_folders=True).labels == tuple(outer)
    if "/" in names[0]:
        assert "each hold the classes ant, bee" in message
        assert f"--eval-split '{outer[1]}'" in message or f"--eval-split {outer[1]}" in message
        found = read(tmp_path, train_split=outer[1], eval_split=outer[0])
        assert found.labels[:2] == ("ant", "bee")


@pytest.mark.parametrize(
    "names",
    [
        ("grade_0", "grade_1"),
        ("0", "1", "2"),
        ("n01440764", "n01443537"),
        ("img_class1", "img_class2"),
        ("stage1/scan1", "stage1/scan2", "stage2/scan1", "stage2/scan2"),
        ("0/printed", "1/written"),
        ("data", "images"),
    ],
)
def test_numbered_classes_are_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    outer = tuple(sorted({name.split("/")[0] for name in names}))
    assert read(put(tmp_path, *names)).labels == outer


def test_train_and_test_may_be_the_classes(tmp_path: Path) -> None:
    put(tmp_path, "train", "test")
    assert "if train is a class: --classes-are-folders" in problems(tmp_path)
    assert read(tmp_path, classes_are_folders=True).labels == ("test", "train")
    put(tmp_path / "only", "test/a", "test/b")
    assert "no folder 'train', only test" in problems(tmp_path / "only")


def test_two_folders_of_one_split_are_not_merged(tmp_path: Path) -> None:
    classes(tmp_path, "train", "training")
    message = problems(tmp_path)
    assert "train/ (8 images) and training/ (8 images)" in message
    assert sizes(read(tmp_path, train_split="training", val_split=0.25)) == (6, 2)


def test_a_folder_that_is_no_split_is_left_out_aloud(tmp_path: Path) -> None:
    classes(tmp_path, "train", "val", "extra")
    put(tmp_path, "pred", count=3)
    Image.new("RGB", (4, 4)).save(tmp_path / "banner.png")
    source = read(tmp_path)
    assert sizes(source) == (8, 8)
    notes = "\n".join(source.notes)
    assert "left out" in notes and "extra/ (8 images)" in notes and "pred/ (3 images)" in notes
    assert "1 image(s) directly in" in notes
    assert sizes(read(tmp_path, eval_split="extra")) == (8, 8)


def test_folders_inside_classes_are_mentioned(tmp_path: Path) -> None:
    put(tmp_path, "cat/2019", "cat/2020", "dog/2019", "dog/2020")
    source = read(tmp_path)
    assert source.labels == ("cat", "dog")
    assert "classes are cat, dog ...; their folders 2019, 2020 are not" in source.notes


def test_names_are_the_same_however_a_system_stores_them(tmp_path: Path) -> None:
    put(
        tmp_path,
        "train/K\u00e4fer",
        "train/\U0001f431 Katze",
        "val/Ka\u0308fer",
        "val/\U0001f431 Katze ",
    )
    source = read(tmp_path)
    assert (source.labels, sizes(source)) == (("K\u00e4fer", "\U0001f431 Katze"), (8, 8))
    assert sorted(source.evaluation[:]["label"]) == [0] * 4 + [1] * 4
    put(tmp_path, "train/Ka\u0308fer")
    assert "classes differ only by blanks around them or by how accents" in problems(tmp_path)


# --- No labels, no data ---------------------------------------------------------------------------


def test_a_test_folder_without_classes_is_for_predict(tmp_path: Path) -> None:
    classes(tmp_path, "train")
    put(tmp_path, "test/test", count=5)
    source = read(tmp_path)
    assert sizes(source) == (7, 1)
    assert any("5 images of test/, without labels" in line for line in source.overview)
    message = problems(tmp_path, eval_split="test")
    assert "no labels" in message and "--eval-split train" in message and "--val-split" in message
    assert sizes(read(tmp_path, eval_split="train", val_split=0.5)) == (4, 4)


def test_what_systems_leave_is_no_data(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog", "@eaDir/x", "cat/@eaDir/000.png", "lost+found", "$RECYCLE.BIN")
    put(tmp_path, "__MACOSX/cat", "dog/.ipynb_checkpoints", "System Volume Information")
    (tmp_path / "#recycle").mkdir()
    (tmp_path / "cat/Thumbs.db").write_bytes(b"x")
    (tmp_path / "dog/desktop.ini").write_text("x")
    source = read(tmp_path, val_split=0.25)
    assert (source.labels, sizes(source)) == (("cat", "dog"), (6, 2))
    (note,) = (note for note in source.notes if "passed over" in note)
    assert "2 @eaDir" in note and "1 Thumbs.db" in note and "lost+found" in note


def test_what_phones_and_programs_leave_beside_photos(tmp_path: Path) -> None:
    """Films of live photos, notes of Apple, Adobe and Google; and names that only look like one."""
    put(tmp_path, "cat", "dog")
    for name in ("000.mov", "000.MOV", "000.aae", "000.xmp", "000.png.json", "no suffix"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    for name in ("._000.png", ".picasa.ini", ".DS_Store"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    source = read(tmp_path)
    assert sum(sizes(source)) == 8
    assert source.notes == (
        f"{tmp_path}: passed over what is no image: 2 .mov, 1 .aae, 1 .json, 1 .xmp, "
        "1 without suffix",
    )


def test_few_images_are_held_out_in_a_larger_share(tmp_path: Path) -> None:
    put(tmp_path, "cat", "dog", count=20)
    source = read(tmp_path, val_split=None)
    assert sizes(source) == (32, 8) and source.held_out == 0.2
    named = read(tmp_path, val_split=0.2)
    assert (named.fingerprint, named.eval_split) == (source.fingerprint, source.eval_split)


@pytest.mark.parametrize("place", ["run", "runs/a", "runs/of/june", "cat/run"])
def test_runs_among_the_photos_are_no_data(tmp_path: Path, place: str) -> None:
    """People train where their photos lie; a run has thumbnails, and its predictions are rows."""
    put(tmp_path, "cat", "dog", f"{place}/thumbnails")
    (tmp_path / place / "predictions.parquet").write_bytes(b"rows")
    for name in ("config.yaml", "environment.json"):
        (tmp_path / place / name).write_text("{}")
    source = read(tmp_path, val_split=0.25)
    assert (source.labels, sizes(source)) == (("cat", "dog"), (6, 2))
    assert f"{tmp_path}: passed over the runs in it: {place}" in source.notes


@pytest.mark.parametrize("place", ["rows.parquet", "results/rows.parquet"])
def test_images_in_folders_and_rows_beside_them_are_two_readings(
    tmp_path: Path, place: str
) -> None:
    put(tmp_path, "cat", "dog")
    images = [{"bytes": (tmp_path / "cat/000.png").read_bytes(), "path": None}] * 8
    rows = datasets.Dataset.from_dict({"image": images, "label": ["a", "b"] * 4})
    (tmp_path / place).parent.mkdir(exist_ok=True)
    rows.to_parquet(tmp_path / place)
    message = problems(tmp_path)
    assert f"8 images in the folders cat, dog, and rows in {place}: " in message
    given = tmp_path / Path(place).parts[0]
    assert f"--classes-are-folders takes the images, --dataset {given} the rows" in message
    assert read(given, val_split=0.25).labels == ("a", "b")
    if given.suffix:
        assert read(tmp_path, val_split=0.25, classes_are_folders=True).labels == ("cat", "dog")


def test_pictures_of_a_data_card_beside_rows_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "assets", count=1)
    images = [{"bytes": (tmp_path / "assets/000.png").read_bytes(), "path": None}] * 8
    rows = datasets.Dataset.from_dict({"image": images, "label": ["a", "b"] * 4})
    rows.to_parquet(tmp_path / "rows.parquet")
    source = read(tmp_path, val_split=0.25)
    assert sizes(source) == (6, 2)
    assert f"{tmp_path}: left out 1 image(s) beside the data's files" in source.notes


def test_a_training_split_of_loose_images_says_what_is_missing(tmp_path: Path) -> None:
    put(tmp_path, "train", "validation")
    message = problems(tmp_path)
    assert "4 image(s) outside of a class folder" in message and "metadata.csv" in message
