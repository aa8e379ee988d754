"""The names of the files in a run directory."""

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
#: Which images the run is trained and evaluated on, and where they were.
DATA = "data.json"
#: What a checkpoint lacks to be a model: its configuration with the labels, its image processor.
BASE = "base"
#: The settings of each part of the run, one line each.
SEGMENTS = "segments.jsonl"
METRICS = "metrics.jsonl"
PREDICTIONS = "predictions.parquet"
THUMBNAILS = "thumbnails"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
MODEL = "model"
#: Of a run with --lora-rank: what peft loads beside the model that training began with.
ADAPTER = "adapter"
REPORT = "report.html"
#: SHA-256 of the finished model's files and of the predictions.
SUMS = "SHA256SUMS"
#: Links in CHECKPOINTS to two of them, and what --resume and --checkpoint call them.
LAST, BEST = "last", "best"
