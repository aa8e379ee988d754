"""Package metadata; the settings of the tools are in pyproject.toml."""

from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

# Not ColossalAI: pip would obey its pins, of torch 2.5.1 and transformers 4.51.3. It is installed
# by a second line, `pip install --no-deps colossalai==0.5.0`; src/vit_colossal/runtime has its
# version and says which of its requirements are not met, on purpose. The oldest datasets, pillow,
# pyarrow, filelock and jinja2 are the releases that fixed known advisories.
REQUIREMENTS = [
    "torch>=2.11,<2.15",
    "torchvision>=0.26,<0.30",
    "transformers>=5.18,<6",
    "datasets>=5.1,<6",
    "huggingface-hub>=1.33,<3",
    "accelerate>=1.10,<2",
    "safetensors>=0.8",
    "pydantic>=2.12,<3",
    "pydantic-settings>=2.12,<3",
    "pyyaml>=6.0.2",
    "numpy>=2.1",
    "pillow>=12.3",
    "filelock>=3.20.3",
    "jinja2>=3.1.6",
    "markupsafe>=3",
    "matplotlib>=3.10",
    "packaging>=24",
    "psutil>=6",
    "pyarrow>=23.0.1",
    "scikit-learn>=1.6",
    "scipy>=1.14.1",
    "shtab>=1.11",
    "tensorboard>=2.18",
    "tqdm>=4.66.3",
]
# What ColossalAI imports; click and fabric are for `colossalai run`.
COLOSSALAI_IMPORTS = [
    *("peft>=0.18", "bitsandbytes>=0.48", "einops>=0.8", "galore_torch>=1.0", "rich>=13.9"),
    *("click>=8.4.2", "fabric>=3.2"),
]
# The last two are for MLflow's local database; a tracking server needs neither.
MLFLOW = ["mlflow-skinny>=2.17", "sqlalchemy>=2", "alembic>=1.13"]
TRACKERS = {"wandb": ["wandb>=0.18"], "mlflow": MLFLOW}
# A decoder without an encoder: what is bundled is under the LGPL.
HEIC = ["pi-heif>=1.1"]
ONNX = ["onnx>=1.17", "onnxscript>=0.7", "onnxruntime>=1.20"]
TEST = [
    *("pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100"),
    "playwright>=1.48",
    *(name for names in TRACKERS.values() for name in names),
    *ONNX,
    *HEIC,
]
DEV = ["ruff>=0.8", "mypy>=1.11", "types-PyYAML", "types-psutil"]

VERSION = run_path("src/vit_colossal/version.py")["__version__"]

setup(
    name="vit_colossal",
    version=VERSION,
    description="Fine-tune Vision Transformers with any ColossalAI plugin, with the same result",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "vit_colossal": [
            "rundir/references.yaml",
            "runtime/colossalai.txt",
            "report/page.*",
            "report/runs.*",
        ]
    },
    install_requires=REQUIREMENTS + COLOSSALAI_IMPORTS,
    extras_require={**TRACKERS, "onnx": ONNX, "heic": HEIC, "test": TEST, "dev": TEST + DEV},
    entry_points={"console_scripts": ["vit-colossal = vit_colossal.cli:start"]},
)
