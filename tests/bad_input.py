"""Everything wrong that people hand to a program, what it should answer, and what not to do.

Each case is run by ``unit/test_bad_input.py`` in one process, through the CLI's ``main``, in an
empty folder; those marked ``real`` by ``integration/test_bad_input_e2e.py`` as commands too.
``scripts/fuzz_config.py`` writes the counts into docs/bad-input.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bad_files import (
    CLASSES,
    Make,
    all_of,
    cut,
    file,
    folder,
    image,
    index,
    labelled,
    lines,
    link,
    model,
    parquet,
    pictures,
    png,
    put,
    quantized,
    rows,
    shard,
    table,
    tiff,
    vit,
    with_image,
    without,
)

#: What every training case adds to; a case's own flags stand behind and win.
TRAIN = "train --device cpu --max-steps 1 --global-batch-size 4 --model vit-micro --output-dir run"


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        name: what is wrong.
        argv: the command line; ``+`` at its start stands for ``TRAIN``.
        parts: texts that the message holds: the offending value, and the fix.
        make: writes files into the current folder.
        environment: variables that are set.
        lines: how many lines may be said about it, at most.
        held: a run directory that another process writes to meanwhile.
        real: run it as a command, too.
    """

    name: str
    argv: str
    parts: tuple[str, ...]
    make: Make | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    lines: int = 2
    held: str | None = None
    real: bool = False


def _image(name: str, content: bytes, reason: str, **more: object) -> Case:
    path = str(more.pop("path", "bad.jpg"))
    parts = (f"photos/ant/{path}", reason, "1 of", "--skip-bad-images")
    return Case(name, "+ --dataset photos", parts, with_image(content, path), **more)  # type: ignore[arg-type]


_HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
_MP4 = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41"
_BOMB = png(20000, 20000, bytes(20001 * 2))

IMAGES = (
    _image("truncated JPEG", image(size=64)[:900], "truncated", real=True),
    _image("truncated PNG", image("PNG", size=64)[:2000], "", path="bad.png"),
    _image("truncated GIF", image("GIF", size=64)[:900], "", path="bad.gif"),
    _image("truncated WebP", image("WEBP", size=64)[:300], "", path="bad.webp"),
    _image("truncated BMP", image("BMP")[:80], "", path="bad.bmp"),
    _image("truncated TIFF", image("TIFF")[:100], "", path="bad.tif"),
    _image("head of a JPEG alone", image()[:20], ""),
    _image("empty", b"", "empty"),
    _image("zeros", bytes(500), ""),
    _image("random bytes", np.random.default_rng(0).bytes(500), ""),
    _image("HTML", b"<!doctype html><html>Not found</html>", "HTML"),
    _image("HTML behind a byte order mark", b"\xef\xbb\xbf \n<html>", "HTML"),
    _image("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG", path="bad.png"),
    _image("text", b"the cat sat on the mat", ""),
    _image("JSON", b'{"error": "rate limit"}', ""),
    _image("PDF", b"%PDF-1.7 ...", "PDF"),
    _image("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
    _image("Photoshop", b"8BPS\0\1" + bytes(40), "Photoshop"),
    _image("HEIC", _HEIC, "this HEIC is damaged"),
    _image("MP4", _MP4, ""),
    _image("ZIP", b"PK\3\4" + bytes(60), ""),
    _image("pickle", b"\x80\x04\x95.", ""),
    _image("decompression bomb", _BOMB, "400000000 pixels", path="bad.png"),
    _image("PNG with a wrong checksum", png(8, 8, bytes(72))[:-20] + bytes(20), "", path="bad.png"),
    _image("PNG without pixels", png(64, 64), "", path="bad.png"),
    _image("PNG of no size", png(0, 0), "", path="bad.png"),
    _image("TIFF of fractions", tiff(np.zeros((4, 4), np.float32)), "floating", path="bad.tif"),
    _image("TIFF beyond 16 bits", tiff(np.full((4, 4), 70000, np.int32)), "70000", path="bad.tif"),
    Case(
        "an animation's header alone, decoded on the fly",
        "+ --dataset photos --no-cache",
        ("photos/ant/bad.gif", "--skip-bad-images"),
        with_image(b"GIF89a\1\0\1\0\x80\0\0", "bad.gif"),
    ),
    Case(
        "two bad images, both are named",
        "+ --dataset photos",
        ("photos/ant/bad.jpg", "photos/bee/worse.jpg", "2 of"),
        all_of(with_image(b""), file("photos/bee/worse.jpg", b"x")),
        lines=3,
    ),
    Case(
        "bad images in both splits",
        "+ --dataset all",
        ("all/train/ant/bad.jpg", "all/validation/bee/worse.jpg", "training", "evaluation"),
        all_of(
            lambda: folder("all/train"),
            lambda: folder("all/validation"),
            file("all/train/ant/bad.jpg"),
            file("all/validation/bee/worse.jpg"),
        ),
        lines=4,
    ),
    Case(
        "no good image at all",
        "+ --dataset photos --skip-bad-images",
        ("images cannot be decoded", "repair or remove them"),
        lambda: [put(f"photos/{name}/{row}.jpg") for name in CLASSES for row in range(6)],
        lines=14,
    ),
    Case(
        "120 bad images: a hundred are named",
        "+ --dataset photos --val-split 0.1",
        ("108 of 144", "12 of 16", "... and 8 more"),
        all_of(
            lambda: folder(count=20),
            lambda: [put(f"photos/ant/x{row:03}.jpg") for row in range(120)],
        ),
        lines=204,
    ),
)

FOLDERS = (
    Case("no such folder", "+ --dataset ./nowhere", ("./nowhere", "no such file"), real=True),
    Case("no such folder, absolute", "+ --dataset /no/where", ("/no/where", "no such file")),
    Case("no name", "+ --dataset=", ("--dataset ''", "no such file")),
    Case("a name of 5,000 letters", f"+ --dataset ./{'x' * 5000}", ("no such file",)),
    Case(
        "empty folder",
        "+ --dataset photos",
        ("photos", "no images", "one folder of images per class"),
        lambda: put("photos/.keep"),
    ),
    Case(
        "no images in it",
        "+ --dataset photos",
        ("photos", "no images", "one folder of images per class"),
        file("photos/notes.txt", "hello"),
    ),
    Case(
        "images beside the class folders",
        "+ --dataset photos",
        ("1 image(s) outside of a class folder", "one folder of images per class"),
        all_of(folder, file("photos/loose.jpg", image())),
    ),
    Case(
        "images without class folders",
        "+ --dataset photos",
        ("outside of a class folder", "one folder of images per class"),
        lambda: [put(f"photos/{row}.jpg", image(seed=row)) for row in range(8)],
    ),
    Case(
        "a single class",
        "+ --dataset photos",
        ("1 label", "classification needs 2"),
        lambda: folder(classes=("ant",)),
    ),
    Case(
        "an empty class",
        "+ --dataset photos",
        ("photos/wasp", "no images", "fill or remove it"),
        all_of(folder, file("photos/wasp/.keep")),
    ),
    Case(
        "10,000 empty classes",
        "+ --dataset photos",
        ("photos/c00000", "fill or remove it", "... and 9,900 more"),
        all_of(folder, lambda: [put(f"photos/c{n:05}/.keep") for n in range(10_000)]),
        lines=101,
    ),
    Case(
        "a class in validation alone",
        "+ --dataset all",
        ("'validation'", "wasp"),
        all_of(lambda: folder("all/train"), lambda: folder("all/validation", (*CLASSES, "wasp"))),
    ),
    Case(
        "no training folder",
        "+ --dataset all",
        ("no folder 'train'", "validation"),
        lambda: folder("all/validation"),
    ),
    Case(
        "an empty training folder",
        "+ --dataset all",
        ("all/train", "no images"),
        all_of(lambda: folder("all/validation"), file("all/train/.keep")),
    ),
    Case(
        "a link out of the folder",
        "+ --dataset photos",
        ("photos/ant/out.jpg", "is a link to", "put the file itself there"),
        all_of(
            folder,
            file("elsewhere.jpg", image()),
            link("photos/ant/out.jpg", "../../elsewhere.jpg"),
        ),
        real=True,
    ),
    Case(
        "a link to a system file",
        "+ --dataset photos",
        ("photos/ant/out.jpg", "/etc/passwd", "put the file itself there"),
        all_of(folder, link("photos/ant/out.jpg", "/etc/passwd")),
    ),
    Case(
        "a link to a folder",
        "+ --dataset photos",
        ("photos/wasp", "link to a folder", "put the folder itself there"),
        all_of(folder, lambda: folder("other"), link("photos/wasp", "../other/ant")),
    ),
    Case(
        "a link in a circle",
        "+ --dataset photos",
        ("photos/ant/loop", "put the folder itself there"),
        all_of(folder, link("photos/ant/loop", "..")),
    ),
    Case(
        "a link to nothing",
        "+ --dataset photos",
        ("photos/ant/gone.jpg", "link"),
        all_of(folder, link("photos/ant/gone.jpg", "nothing.jpg")),
    ),
    Case(
        "only images of a format that is not read",
        "+ --dataset photos",
        ("no images", "2 .cr2", "convert them"),
        all_of(file("photos/ant/a.cr2", _HEIC), file("photos/bee/b.cr2", _HEIC)),
        lines=3,
    ),
    Case(
        "classes with blanks and other alphabets, one of them empty",
        "+ --dataset 'my photos'",
        ("my photos/вид пчелы", "fill or remove it"),
        all_of(
            lambda: folder("my photos", ("Äpfel & Birnen", "蜜蜂")),
            file("my photos/вид пчелы/.keep"),
        ),
    ),
    Case(
        "a name that would steer the terminal",
        "+ --dataset photos",
        ("photos/\ufffd[2Jclear", "fill or remove it"),
        all_of(folder, file("photos/\x1b[2Jclear/.keep")),
    ),
    Case(
        "fewer images than a batch",
        "+ --dataset photos --global-batch-size 64 --last-batch drop",
        ("fewer than one global batch of 64", "smaller --global-batch-size"),
        folder,
    ),
    Case(
        "nothing left to train on",
        "+ --dataset photos --val-split 0.99",
        ("--val-split 0.99", "leaves nothing of the 12 rows"),
        folder,
    ),
    Case(
        "no such training split",
        "+ --dataset photos --train-split learn",
        ("--train-split learn", "only train"),
        folder,
    ),
    Case(
        "no such evaluation split",
        "+ --dataset photos --eval-split dev",
        ("--eval-split dev", "only train"),
        folder,
    ),
    Case(
        "a part of a split that is empty",
        "+ --dataset photos --train-split train[90:]",
        ("train[90:]", "empty"),
        folder,
    ),
    Case(
        "no such column",
        "+ --dataset photos --label-column kind",
        ("--label-column kind", "image, label"),
        folder,
    ),
)

FILES = (
    Case(
        "a CSV without a label column",
        "+ --dataset data.csv",
        ("data.csv", "no column of labels", "--label-column", "file, size"),
        table("file,size,colour\nphotos/ant/0.jpg,3,red\nphotos/bee/0.jpg,4,blue\n"),
        real=True,
    ),
    Case(
        "a CSV without an image column",
        "+ --dataset data.csv",
        ("data.csv", "no column of image paths", "--image-column"),
        table("id,label\n1,ant\n2,bee\n"),
        lines=2,
    ),
    Case(
        "a CSV with two label columns",
        "+ --dataset data.csv",
        ("several label columns", "label, class", "--label-column"),
        table("file,label,class\nphotos/ant/0.jpg,ant,1\n"),
    ),
    Case(
        "a CSV with two image columns",
        "+ --dataset data.csv",
        ("several image columns", "left, right", "--image-column"),
        table("left,right,label\nphotos/ant/0.jpg,photos/ant/1.jpg,ant\n"),
    ),
    Case(
        "a column that a CSV lacks",
        "+ --dataset data.csv --label-column kind",
        ("--label-column kind", "file, label"),
        table(rows()),
    ),
    Case(
        "images that a CSV names and nobody has",
        "+ --dataset data.csv",
        ("line 14", "photos/ant/99.jpg", "line 15", "photos/x.jpg", "no such file"),
        table(rows("photos/ant/99.jpg,ant", "photos/x.jpg,bee")),
        real=True,
    ),
    Case(
        "a path out of the folder",
        "+ --dataset data.csv",
        ("../secret.jpg", "outside of"),
        table(rows("../secret.jpg,ant")),
    ),
    Case(
        "an absolute path",
        "+ --dataset data.csv",
        ("/etc/passwd", "outside of"),
        table(rows("/etc/passwd,ant")),
    ),
    Case(
        "a label that is NaN",
        "+ --dataset data.csv",
        ("line 14", "no label"),
        table(rows("photos/ant/0.jpg,NaN")),
    ),
    Case(
        "a label that is missing",
        "+ --dataset data.csv",
        ("line 14", "no label"),
        table(rows("photos/ant/0.jpg,")),
    ),
    Case(
        "a path that is missing",
        "+ --dataset data.csv",
        ("line 14", "no image path"),
        table(rows(",ant")),
    ),
    Case(
        "a line with too many values",
        "+ --dataset data.csv",
        ("line 14", "more values"),
        table(rows("photos/ant/0.jpg,ant,3")),
    ),
    Case(
        "a line with too few values",
        "+ --dataset data.csv",
        ("line 14", "no label"),
        table(rows("photos/ant/0.jpg")),
    ),
    Case(
        "a CSV of one label",
        "+ --dataset data.csv",
        ("1 label", "needs 2"),
        table("file,label\nphotos/ant/0.jpg,a\nphotos/ant/1.jpg,a\n"),
    ),
    Case("an empty CSV", "+ --dataset data.csv", ("data.csv", "no rows"), file("data.csv")),
    Case(
        "a CSV of a head alone",
        "+ --dataset data.csv",
        ("data.csv", "no rows"),
        file("data.csv", "file,label\n"),
    ),
    Case(
        "a CSV that is no UTF-8",
        "+ --dataset data.csv",
        ("data.csv", "utf-8"),
        file("data.csv", "file,label\ncaf\xe9.jpg,a\n".encode("latin-1")),
    ),
    Case(
        "a spreadsheet named CSV",
        "+ --dataset data.csv",
        ("data.csv", "cannot be read"),
        file("data.csv", b"PK\3\4\xff\xfe\0\0"),
    ),
    Case(
        "a quote without an end",
        "+ --dataset data.csv",
        ("data.csv", "cannot be read"),
        table(rows('"photos/ant/0.jpg,ant')),
    ),
    Case(
        "labels that training lacks",
        "+ --dataset tables",
        ("'validation'", "wasp", "--eval-split"),
        all_of(
            lambda: folder("tables/photos"),
            file("tables/train.csv", rows()),
            file("tables/validation.csv", "file,label\nphotos/ant/0.jpg,wasp\n"),
        ),
    ),
    Case(
        "JSON lines that are no JSON",
        "+ --dataset data.jsonl",
        ("data.jsonl", "line 13"),
        table(lines("{file:"), "data.jsonl"),
    ),
    Case(
        "JSON lines that are no objects",
        "+ --dataset data.jsonl",
        ("line 13", "expected an object"),
        table(lines([1, 2]), "data.jsonl"),
    ),
    Case(
        "a label that is a list",
        "+ --dataset data.jsonl",
        ("line 13", "neither text nor"),
        table(lines({"file": "photos/ant/0.jpg", "label": [1]}), "data.jsonl"),
    ),
    Case(
        "a label that is a fraction",
        "+ --dataset data.jsonl",
        ("line 13", "0.5"),
        table(lines({"file": "photos/ant/0.jpg", "label": 0.5}), "data.jsonl"),
    ),
    Case(
        "a label that is true",
        "+ --dataset data.jsonl",
        ("line 13", "True"),
        table(lines({"file": "photos/ant/0.jpg", "label": True}), "data.jsonl"),
    ),
    Case(
        "a label that is null",
        "+ --dataset data.jsonl",
        ("line 13", "no label"),
        table(lines({"file": "photos/ant/0.jpg", "label": None}), "data.jsonl"),
    ),
    Case(
        "a label that is NaN in JSON",
        "+ --dataset data.jsonl",
        ("line 13", "no label"),
        table(lines('{"file": "photos/ant/0.jpg", "label": NaN}'), "data.jsonl"),
    ),
    Case(
        "a path that is a number",
        "+ --dataset data.jsonl",
        ("line 13", "no image path"),
        table(lines({"file": 7, "label": "ant"}), "data.jsonl"),
    ),
    Case(
        "JSON of 100,000 brackets",
        "+ --dataset data.jsonl",
        ("data.jsonl", "cannot be read"),
        file("data.jsonl", "[" * 100_000),
    ),
    Case(
        "no Parquet",
        "+ --dataset data.parquet",
        ("data.parquet", "cannot be read"),
        file("data.parquet", "hello"),
    ),
    Case(
        "an empty Parquet file",
        "+ --dataset data.parquet",
        ("data.parquet", "cannot be read"),
        file("data.parquet"),
    ),
    Case(
        "no Arrow",
        "+ --dataset data.arrow",
        ("data.arrow", "cannot be read"),
        file("data.arrow", "hello"),
    ),
    Case(
        "a truncated Parquet file",
        "+ --dataset data.parquet",
        ("data.parquet", "cannot be read"),
        all_of(
            parquet("data.parquet", {"image": pictures(), "label": [0, 1] * 6}, labelled()),
            cut("data.parquet", -200),
        ),
    ),
    Case(
        "Parquet without images",
        "+ --dataset data.parquet",
        ("no image column", "--image-column", "label, size"),
        parquet("data.parquet", {"label": [0, 1], "size": [3, 4]}),
    ),
    Case(
        "Parquet without labels",
        "+ --dataset data.parquet",
        ("no label column", "--label-column"),
        parquet("data.parquet", {"image": pictures(2), "weight": [0.5, 0.6], "n": [1.5, 2.5]}),
    ),
    Case(
        "Parquet whose labels are fractions",
        "+ --dataset data.parquet --label-column label",
        ("--label-column label", "not class labels"),
        parquet("data.parquet", {"image": pictures(2), "label": [0.5, 1.5]}),
    ),
    Case(
        "Parquet whose images are numbers",
        "+ --dataset data.parquet --image-column n --label-column label",
        ("--image-column n", "not images"),
        parquet("data.parquet", {"n": [1, 2], "label": ["a", "b"]}),
    ),
    Case(
        "Parquet whose images are missing",
        "+ --dataset data.parquet",
        ("there is no image", "--skip-bad-images"),
        parquet("data.parquet", {"image": [*pictures(11), None], "label": [0, 1] * 6}, labelled()),
    ),
    Case(
        "unlabelled rows",
        "+ --dataset data.parquet",
        ("-1", "unlabelled", "--train-split"),
        parquet("data.parquet", {"image": pictures(), "label": [0, -1] * 6}, labelled()),
    ),
    Case(
        "an empty table",
        "+ --dataset data.parquet",
        ("data.parquet", "no rows"),
        parquet("data.parquet", {"image": [], "label": []}, labelled()),
    ),
    Case(
        "no tar",
        "+ --dataset data.tar",
        ("data.tar", "not a readable .tar file"),
        file("data.tar", "hello" * 300),
        lines=1,
    ),
    Case(
        "a truncated tar",
        "+ --dataset data.tar",
        ("data.tar",),
        all_of(shard("data.tar"), cut("data.tar", 3000)),
    ),
    Case(
        "a sample without a label",
        "+ --dataset data.tar",
        ("data.tar", "wasp", "no label"),
        shard("data.tar", ("wasp.jpg", image())),
    ),
    Case(
        "a sample without an image",
        "+ --dataset data.tar",
        ("data.tar", "wasp", "no image"),
        shard("data.tar", ("wasp.cls", b"ant")),
    ),
    Case(
        "a sample with two images",
        "+ --dataset data.tar",
        ("wasp", "several images", "--image-column"),
        shard("data.tar", ("wasp.jpg", image()), ("wasp.png", image("PNG")), ("wasp.cls", b"ant")),
    ),
    Case(
        "a label of a megabyte",
        "+ --dataset data.tar",
        ("wasp", "is no label"),
        shard("data.tar", ("wasp.jpg", image()), ("wasp.cls", b"x" * 1_100_000)),
    ),
    Case(
        "a bad image in a tar",
        "+ --dataset data.tar",
        ("wasp.jpg", "empty", "--skip-bad-images"),
        shard("data.tar", ("wasp.jpg", b""), ("wasp.cls", b"ant")),
    ),
    Case(
        "a shard that is missing",
        "+ --dataset data-{0..2}.tar",
        ("data-2.tar", "is missing"),
        all_of(shard("data-0.tar"), shard("data-1.tar")),
    ),
    Case(
        "a billion shards",
        "+ --dataset data-{0..999999999}.tar",
        ("data-{0..999999999}.tar", "100,000 files"),
    ),
    Case(
        "files of several kinds",
        "+ --dataset data",
        ("one kind", ".arrow and .parquet"),
        all_of(file("data/train.parquet", "x"), file("data/test.arrow", "x")),
    ),
    Case(
        "a file of no split",
        "+ --dataset data",
        ("belongs to no split", "let its name start with train"),
        all_of(file("data/train.parquet", "x"), file("data/more.parquet", "x")),
    ),
    Case(
        "a file of another kind",
        "+ --dataset data.npz",
        ("data.npz", "expected files of one kind", ".parquet"),
        file("data.npz", "x"),
    ),
    Case(
        "a pickle",
        "+ --dataset data.pkl",
        ("data.pkl", "expected files of one kind"),
        file("data.pkl", b"\x80\x04\x95."),
    ),
    Case(
        "a file without a suffix", "+ --dataset data", ("data", "without suffix"), file("data", "x")
    ),
)


def _model(name: str, parts: tuple[str, ...], make: Make | None, **more: object) -> Case:
    return Case(name, "+ --model ./vit --dataset digits", ("--model ./vit", *parts), make, **more)  # type: ignore[arg-type]


def _preset(name: str, flags: str, *parts: str, **more: object) -> Case:
    return Case(name, f"+ --dataset digits {flags}", parts, **more)  # type: ignore[arg-type]


MODELS = (
    _model("no such model", ("no such directory",), None, real=True),
    _model("no configuration", ("no config.json",), file("vit/model.safetensors", "x")),
    _model(
        "no weights",
        ("no *.safetensors", "save it again"),
        file("vit/config.json", '{"model_type": "vit"}'),
        real=True,
    ),
    _model(
        "pickled weights",
        ("pickles are not loaded", "save_pretrained"),
        all_of(model(model__safetensors=None), file("vit/pytorch_model.bin", b"\x80\x04")),
        real=True,
    ),
    _model(
        "code of its own",
        ("'auto_map'", "never run", "plain ViT"),
        model({"auto_map": {"AutoModel": "evil.Evil"}}),
        real=True,
    ),
    _model(
        "attention from elsewhere",
        ("_attn_implementation_internal", "plain ViT"),
        model({"_attn_implementation_internal": "some/kernels"}),
    ),
    _model(
        "quantized by configuration",
        ("quantization_config", "plain ViT"),
        model({"quantization_config": {"quant_method": "bitsandbytes"}}),
    ),
    _model("quantized weights", ("I8", "F32"), lambda: model(weights=quantized())()),
    _model(
        "an adapter",
        ("adapter", "merge"),
        model(adapter_config__json='{"base_model_name_or_path": "some/where"}'),
    ),
    _model(
        "another architecture",
        ("'bert'", "one of these is needed: ViT, DeiT, DINOv2"),
        model({"model_type": "bert"}),
    ),
    _model("no architecture", ("None", "one of these is needed: ViT"), model({"model_type": None})),
    _model(
        "a configuration that is no JSON",
        ("config.json cannot be read",),
        model(config__json="{oops"),
    ),
    _model(
        "a configuration that is empty", ("config.json cannot be read",), model(config__json="")
    ),
    _model("a configuration that is a list", ("not a JSON object",), model(config__json="[1]")),
    _model(
        "a configuration of 100,000 brackets",
        ("config.json cannot be read",),
        model(config__json="[" * 100_000),
    ),
    _model(
        "a configuration that is no UTF-8",
        ("config.json cannot be read",),
        model(config__json=b"\xff\xfe"),
    ),
    _model("a width that is text", ("hidden_size", "'wide'"), model({"hidden_size": "wide"})),
    _model("a width of zero", ("hidden_size", "0"), model({"hidden_size": 0})),
    _model("a width that is true", ("hidden_size", "True"), model({"hidden_size": True})),
    _model("a width of a billion", ("do not fit its config.json",), model({"hidden_size": 10**9})),
    _model(
        "heads that do not divide the width",
        ("not divisible by 3 attention heads",),
        model({"num_attention_heads": 3}),
    ),
    _model(
        "patches that do not divide the image",
        ("image_size 16", "patch_size 5"),
        model({"patch_size": 5}),
    ),
    _model("images of 13 channels", ("num_channels is 13", "RGB"), model({"num_channels": 13})),
    _model(
        "an activation of nobody's", ("hidden_act is selu", "silu"), model({"hidden_act": "selu"})
    ),
    _model(
        "another image size",
        ("position_embeddings is [1, 5, 16], not [1, 17, 16]",),
        model({"image_size": 32}),
        real=True,
    ),
    _model("another patch size", ("do not fit its config.json",), model({"patch_size": 4})),
    _model(
        "more layers than weights",
        ("they have 2 layers, num_hidden_layers is 3",),
        model({"num_hidden_layers": 3}),
    ),
    _model("a billion layers", ("num_hidden_layers",), model({"num_hidden_layers": 10**9})),
    _model(
        "fewer layers than weights",
        ("they have 2 layers, num_hidden_layers is 1",),
        model({"num_hidden_layers": 1}),
    ),
    _model(
        "weights of which some are missing",
        ("layer.0.intermediate.dense.weight is missing",),
        lambda: model(weights=without("layer.0.intermediate"))(),
    ),
    _model(
        "weights that are no safetensors",
        ("model.safetensors cannot be read",),
        model(weights=b"hello, I am no header"),
    ),
    _model("weights that are empty", ("model.safetensors cannot be read",), model(weights=b"")),
    _model(
        "truncated weights",
        ("model.safetensors cannot be read",),
        lambda: model(weights=vit()[1][:-100])(),
    ),
    _model(
        "a header of an exabyte",
        ("model.safetensors cannot be read",),
        model(weights=(2**60).to_bytes(8, "little") + b"{}"),
    ),
    _model(
        "an index that leads out",
        ("'../../secret.safetensors'", "beside it"),
        index("../../secret.safetensors"),
        real=True,
    ),
    _model(
        "an index of an absolute path",
        ("'/etc/x.safetensors'", "beside it"),
        index("/etc/x.safetensors"),
    ),
    _model("an index of pickles", ("'part.bin'", "only .safetensors"), index("part.bin")),
    _model(
        "an index of what is missing", ("part.safetensors is missing",), index("part.safetensors")
    ),
    _model("an index of nothing", ("names no files",), index()),
    _model(
        "an image processor that is no JSON",
        ("image processor",),
        model(preprocessor_config__json="{oops"),
    ),
    _model(
        "a mean of one number",
        ("image_mean is [0.5]", "3 numbers"),
        model(preprocessor_config__json='{"image_mean": [0.5]}'),
    ),
    _model(
        "a deviation of zero",
        ("image_std", "positive"),
        model(preprocessor_config__json='{"image_std": [0.5, 0, 0.5]}'),
    ),
    _model(
        "a filter that is none",
        ("resample is 99", "from 0 to 5"),
        model(preprocessor_config__json='{"resample": 99}'),
    ),
    _preset(
        "a name that is none",
        "--model 'vit micro'",
        "--model vit micro",
        "no such directory",
        "vit-tiny",
    ),
    _preset("a name of 5,000 letters, as a model", f"--model {'x' * 5000}", "no such directory"),
    _preset(
        "a name on the hub, offline",
        "--model some/where",
        "some/where",
        "HF_HUB_OFFLINE",
        "local folder",
    ),
    _preset(
        "keys for a model that has its own",
        "--model ./vit --model-config hidden_size=8",
        "--model-config hidden_size",
        "is for presets",
    ),
    _preset(
        "a key that ViT lacks",
        "--model-config depth=3",
        "--model-config depth=3",
        "no such key",
        "num_hidden_layers",
    ),
    _preset("a key without a value", "--model-config depth", "--model-config", "key=value"),
    _preset(
        "a preset of no width", "--model-config hidden_size=0", "hidden_size=0", "positive integer"
    ),
    _preset(
        "a preset whose heads do not fit",
        "--model-config num_attention_heads=5",
        "64",
        "5 attention heads",
    ),
    _preset(
        "a patch larger than the image",
        "--model-config patch_size=64",
        "image_size 16",
        "patch_size 64",
    ),
    _preset(
        "dropout above 1",
        "--model-config hidden_dropout_prob=1.5",
        "hidden_dropout_prob=1.5",
        "from 0 to below 1",
    ),
    _preset("an activation that is none", "--model-config hidden_act=swoosh", "swoosh", "swish"),
)

HYBRID = "--plugin hybrid"


def _flag(name: str, flags: str, *parts: str, **more: object) -> Case:
    return Case(name, f"+ --dataset digits {flags}", parts, **more)  # type: ignore[arg-type]


def _yaml(name: str, content: bytes | str, *parts: str, **more: object) -> Case:
    return _flag(name, "--config run.yaml", *parts, make=file("run.yaml", content), **more)


_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

CONFIGURATIONS = (
    _flag(
        "tp and heads",
        f"--nproc 3 {HYBRID} --tp 3",
        "4 attention heads, not divisible by --tp 3",
        lines=4,
    ),
    _flag("tp and processes", f"--nproc 3 {HYBRID} --tp 2", "3 processes cannot be divided"),
    _flag(
        "degrees and processes",
        f"--nproc 2 {HYBRID} --pp 2 --tp 2",
        "a multiple of 4 processes",
    ),
    _flag(
        "stages and layers", f"--nproc 8 {HYBRID} --pp 8", "--pp 8 stages for the 4 encoder layers"
    ),
    _flag(
        "one micro-batch", f"--nproc 2 {HYBRID} --pp 2 --num-microbatches 1", "--num-microbatches 2"
    ),
    _flag(
        "micro-batches that do not divide",
        f"--nproc 2 {HYBRID} --pp 2 --microbatch-size 3",
        "--microbatch-size 3",
    ),
    _flag("micro-batches without stages", "--num-microbatches 2", "--num-microbatches", "--pp 2"),
    _flag(
        "a batch that replicas do not divide",
        "--nproc 3",
        "--global-batch-size 4 is not divisible by 3",
    ),
    _flag("accumulation that does not divide", "--grad-accumulation 3", "--grad-accumulation 3"),
    _flag("two batch sizes", "--batch-size 4", "exclude each other"),
    _flag("ZeRO-2 in hybrid", f"--nproc 2 {HYBRID} --zero 2", "use --zero 1, or --plugin zero2"),
    _flag(
        "ZeRO-2 with stages",
        f"--nproc 2 {HYBRID} --pp 2 --zero 2",
        "use --zero 1, or --plugin zero2",
    ),
    _flag("Gemini in fp32", "--plugin gemini --precision fp32", "refuses --precision fp32", "bf16"),
    _flag(
        "ZeRO in hybrid in fp32",
        f"--nproc 2 {HYBRID} --zero 1 --precision fp32",
        "refuses --precision fp32",
        "bf16",
    ),
    _flag(
        "a tp that nothing reads",
        "--nproc 2 --plugin zero1 --tp 2",
        "--tp 2 has no effect with --plugin zero1",
        "--plugin hybrid",
    ),
    _flag(
        "a pp that nothing reads",
        "--nproc 2 --plugin gemini --pp 2",
        "--pp 2 has no effect with --plugin gemini",
    ),
    _flag(
        "a ZeRO stage that nothing reads",
        "--nproc 2 --zero 1",
        "--zero 1 has no effect with --plugin ddp",
    ),
    _flag(
        "a Gemini setting that nothing reads",
        "--gemini-min-chunk-m 3",
        "--gemini-min-chunk-m 3.0 has no effect",
        "drop it",
    ),
    _flag(
        "offloading on a CPU",
        "--plugin gemini --gemini-offload-optim-frac 1",
        "--gemini-offload-optim-frac",
        "--device cpu",
    ),
    _flag(
        "augmentation settings that nothing reads",
        "--randaugment-magnitude 3",
        "--randaugment-magnitude",
        "--auto-augment randaugment",
    ),
    _flag("streaming without the cache", "--streaming --no-cache", "--streaming", "--no-cache"),
    _flag("an unknown flag", "--turbo", "--turbo: no such flag", "--help", real=True),
    _flag("an unknown flag with a value", "--turbo=3", "--turbo=3: no such flag"),
    _flag("an abbreviated flag", "--plu ddp", "--plu", "no such flag"),
    _flag("a stray word", "turbo", "turbo: no such flag"),
    _flag("an unknown plugin", "--plugin fsdp", "--plugin fsdp", "zero2, gemini"),
    _flag("an unknown precision", "--precision fp8", "--precision fp8", "'bf16'"),
    _flag("an unknown device", "--device tpu", "--device tpu", "'cuda'"),
    _flag("a rate that is text", "--lr fast", "--lr fast", "number"),
    _flag("a rate that is NaN", "--lr nan", "--lr nan", "finite"),
    _flag("a rate without end", "--lr inf", "--lr inf", "finite"),
    _flag("a negative rate", "--lr=-1", "--lr -1", "greater than or equal to 0"),
    _flag("no epochs", "--epochs 0", "--epochs 0", "greater than or equal to 1"),
    _flag("a fraction of workers", "--num-workers 1.5", "--num-workers 1.5", "integer"),
    _flag("a seed too large", f"--seed {2**32}", f"--seed {2**32}", "less than"),
    _flag("no processes", "--nproc 0", "--nproc 0", "greater than or equal to 1"),
    _flag("no time", "--timeout 0", "--timeout 0", "greater than 0"),
    _flag(
        "an unknown reference",
        "--check-reference mine",
        "--check-reference",
        "mine",
        "digits",
        lines=2,
    ),
    _flag(
        "references that are missing",
        "--check-reference digits-pp2 --references nowhere.yaml",
        "nowhere.yaml",
    ),
    _flag(
        "a file that is missing",
        "--config nowhere.yaml",
        "--config nowhere.yaml: cannot be read",
        real=True,
    ),
    _flag("a file that is a folder", "--config .", "--config .: cannot be read"),
    _yaml("a file that is binary", b"\xff\xfe\0", "run.yaml", "cannot be read"),
    _yaml("a file that is no YAML", "a: [1, 2", "run.yaml", "not valid YAML"),
    _yaml("a file that is a list", "- a\n- b\n", "run.yaml", "expected 'key: value' lines"),
    _yaml("a file that is empty", "", "run.yaml", "expected 'key: value' lines"),
    _yaml(
        "a file that would run code",
        "lr: !!python/object/apply:os.system ['touch touched']",
        "run.yaml",
        "not valid YAML",
    ),
    _yaml("a file that grows a billionfold", _LAUGHS + "lr: *a11\n", "a0", "--lr", lines=14),
    _yaml("a file of 100,000 brackets", "lr: " + "[" * 100_000, "run.yaml", "not valid YAML"),
    _yaml("an unknown key", "turbo: true\n", "turbo", "no such setting"),
    _yaml("processes in a file", "nproc: 2\n", "nproc", "--nproc N"),
    _yaml("a list for a number", "lr: [1, 2]\n", "--lr", "number"),
    _yaml("text for a switch", "overwrite: perhaps\n", "--overwrite perhaps", "boolean"),
    _yaml("a date for a name", "resume: 2026-01-01\n", "--resume", "string", lines=2),
)

_LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def _launch(name: str, *parts: str, **changes: str | None) -> Case:
    values = {key: value for key, value in (_LAUNCHED | changes).items() if value is not None}
    return _flag(name, "", "environment:", *parts, environment=values)


ENVIRONMENT = (
    Case(
        "RANK alone",
        "+ --dataset digits",
        ("WORLD_SIZE", "MASTER_ADDR", "unset RANK"),
        environment={"RANK": "0"},
        real=True,
    ),
    Case(
        "WORLD_SIZE alone",
        "+ --dataset digits",
        ("RANK", "torchrun or --nproc"),
        environment={"WORLD_SIZE": "2"},
    ),
    _launch("no address", "MASTER_ADDR", "torchrun", MASTER_ADDR=None),
    _launch("a rank that is no number", "RANK", "x", RANK="x"),
    _launch("a world that is no number", "WORLD_SIZE", "x", WORLD_SIZE="x"),
    _launch("a rank outside of the world", "RANK 7", "WORLD_SIZE 2", RANK="7"),
    _launch("a negative rank", "RANK -1", RANK="-1"),
    _launch("no world", "WORLD_SIZE 0", WORLD_SIZE="0"),
    _launch("a port that is no number", "MASTER_PORT", "http", MASTER_PORT="http"),
    _launch("a port that is none", "MASTER_PORT", "70000", MASTER_PORT="70000"),
    _launch(
        "a local rank outside of the machine", "LOCAL_RANK 3", LOCAL_RANK="3", LOCAL_WORLD_SIZE="2"
    ),
    _flag(
        "processes under a launcher",
        "--nproc 2",
        "--nproc cannot be used under torchrun",
        "drop it",
        environment=_LAUNCHED,
    ),
    _flag(
        "more processes than GPUs",
        "--device cuda --nproc 128",
        "--device cuda",
        "for 128 processes",
        "--device cpu",
        real=True,
    ),
    _flag("no GPU", "--device cuda --nproc 64", "--device cuda", "--device cpu"),
    _flag(
        "an output that is a file",
        "--output-dir taken",
        "--output-dir taken",
        "is a file",
        "name a folder",
        make=file("taken"),
        real=True,
    ),
    _flag(
        "an output below a file",
        "--output-dir taken/run",
        "--output-dir taken/run",
        "is a file",
        make=file("taken"),
    ),
    _flag(
        "an output that cannot be made",
        "--output-dir /proc/run",
        "--output-dir /proc/run",
        "cannot be written",
        "name another folder",
    ),
    _flag(
        "an output that holds a run",
        "",
        "--output-dir run holds a run",
        "--resume auto",
        "--overwrite",
        make=all_of(file("run/config.yaml", "plugin: ddp\n"), file("run/metrics.jsonl", "{}")),
        real=True,
    ),
    _flag(
        "an output that another run writes to",
        "--overwrite",
        "--output-dir run",
        "another run",
        "process 4711 on there",
        "name another",
        make=file("run/config.yaml", "plugin: ddp\n"),
        held="run",
        real=True,
    ),
    _flag(
        "continuing a run that another process continues",
        "--resume auto",
        "another run",
        "process 4711",
        make=file("run/config.yaml", "plugin: ddp\n"),
        held="run",
    ),
    _flag("nothing to continue", "--resume last", "--resume last", "nothing to continue from"),
    _flag(
        "a checkpoint that is missing", "--resume ./nowhere", "--resume ./nowhere", "no checkpoint"
    ),
    _flag("the last checkpoint of no run", "--resume best", "--resume best", "no checkpoint"),
    _flag(
        "a cache that is a file", "--cache-dir taken", "taken", "--cache-dir", make=file("taken")
    ),
    _flag("a cache that cannot be made", "--cache-dir /proc/cache", "/proc/cache", "--cache-dir"),
    _flag(
        "a data set on the hub, offline",
        "--dataset some/pictures",
        "some/pictures",
        "HF_HUB_OFFLINE",
        "local folder",
    ),
)


def _command(name: str, argv: str, *parts: str, **more: object) -> Case:
    return Case(name, argv, parts, **more)  # type: ignore[arg-type]


COMMANDS = (
    _command("no such command", "trian", "no command 'trian'", "train", lines=40),
    _command("nothing to evaluate", "eval --device cpu", "no model", "eval RUN"),
    _command(
        "evaluating what is missing", "eval --device cpu ./nowhere", "./nowhere", "no such model"
    ),
    _command("evaluating a preset", "eval --device cpu vit-micro", "vit-micro", "without weights"),
    _command(
        "evaluating a run without a model",
        "eval --device cpu run",
        "run has no model yet",
        "--checkpoint last",
        make=all_of(
            file("run/config.yaml", "plugin: ddp\n"),
            file("run/checkpoints/step-000004/state.json", "{}"),
        ),
    ),
    _command(
        "evaluating a run that has not begun",
        "eval --device cpu run",
        "run has no model yet, and no checkpoint",
        "start the run again",
        make=file("run/config.yaml", "plugin: ddp\n"),
    ),
    _command(
        "predicting with what is missing", "predict ./nowhere a.jpg", "./nowhere", "no such model"
    ),
    _command(
        "predicting no labels",
        "predict ./nowhere a.jpg --top-k 0",
        "--top-k 0",
        "equal to 1",
    ),
    _command("checking what is missing", "check ./nowhere", "nowhere"),
    _command("reporting on what is missing", "report ./nowhere", "nowhere"),
    _command("exporting what is missing", "export ./nowhere out", "./nowhere", "no such model"),
    _command(
        "exporting onto something",
        "export ./nowhere taken",
        "taken",
        make=file("taken/notes.txt", "mine"),
    ),
    _command(
        "exporting a model that leads out",
        "export ./vit out",
        "'../x.safetensors'",
        "beside it",
        make=index("../x.safetensors"),
    ),
    _command(
        "evaluating a pickle",
        "eval --device cpu ./vit --dataset digits",
        "pickles are not loaded",
        make=all_of(model(model__safetensors=None), file("vit/pytorch_model.bin", b"x")),
    ),
)

CATEGORIES = {
    "images": IMAGES,
    "folders": FOLDERS,
    "files": FILES,
    "models": MODELS,
    "configurations": CONFIGURATIONS,
    "environment": ENVIRONMENT,
    "commands": COMMANDS,
}
ALL = {case.name: case for cases in CATEGORIES.values() for case in cases}
