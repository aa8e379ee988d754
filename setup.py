"""Package metadata; the settings of the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# ColossalAI 0.5.0 pins torch<=2.5.1 and transformers==4.51.3; datasets' newest releases want a
# huggingface-hub that this transformers does not run with, hence the bound on it.
REQUIREMENTS = [
    "colossalai==0.5.0",
    "torch>=2.4,<=2.5.1",
    "torchvision>=0.19,<0.21",
    "transformers==4.51.3",
    "datasets>=4,<6",
    "huggingface-hub>=0.30,<1",
    "safetensors>=0.4.3",
    "pydantic>=2.10,<3",
    "pydantic-settings>=2.12,<3",
    "pyyaml>=6",
    "numpy>=1.26",
    "pillow>=10.3",
    "accelerate>=1.0,<2",
    "filelock>=3.12",
    "jinja2>=3.1",
    "markupsafe>=2.1",
    "matplotlib>=3.8",
    "packaging>=23",
    "psutil>=5.9",
    "pyarrow>=17",
    "scikit-learn>=1.4",
    "scipy>=1.11",
    "shtab>=1.7",
    "tensorboard>=2.16",
    "tqdm>=4.66",
]
# The last two are for MLflow's local database; a tracking server needs neither.
MLFLOW = ["mlflow-skinny>=2.17", "sqlalchemy>=2", "alembic>=1.13"]
TRACKERS = {"wandb": ["wandb>=0.18"], "mlflow": MLFLOW}
ONNX = ["onnx>=1.15", "onnxruntime>=1.17"]
TEST = [
    *("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100", "playwright>=1.48"),
    *(name for names in TRACKERS.values() for name in names),
    *ONNX,
]
DEV = ["ruff>=0.8", "mypy>=1.11", "types-PyYAML", "types-psutil"]

setup(
    name="vit_colossal",
    version="0.1.0",
    description="Fine-tune Vision Transformers with any ColossalAI plugin, with the same result",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"vit_colossal": ["references.yaml", "report/page.*"]},
    install_requires=REQUIREMENTS,
    extras_require={**TRACKERS, "onnx": ONNX, "test": TEST, "dev": TEST + DEV},
    entry_points={"console_scripts": ["vit-colossal = vit_colossal.cli:main"]},
)
