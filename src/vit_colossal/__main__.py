"""``python -m vit_colossal``."""

from vit_colossal.cli import start

if __name__ == "__main__":
    start()
