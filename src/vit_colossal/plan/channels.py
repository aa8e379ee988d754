"""How many channels an image may have: the one place that decides."""

from __future__ import annotations

#: What images of so many channels are in Pillow, 8 bits each: its modes that can be resized as
#: transformers' image processors do it.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def channels_problem(channels: int) -> str:
    """What to do where images of so many channels are not read; empty where they are."""
    if channels in MODES:
        return ""
    kinds = ", ".join(f"{count} ({mode})" for count, mode in MODES.items())
    return (
        f"num_channels is {channels}: images are read in {kinds} channels of 8 bits: take a model "
        "of so many, and images of the bands that matter"
    )


def colour_problem(channels: int, auto_augment: str | None) -> str:
    """What to do where torchvision's policies cannot change such images; empty where they can."""
    if auto_augment is None or channels in (1, 3):
        return ""
    return (
        f"--auto-augment {auto_augment}: its colours are of 1 or 3 channels, num_channels is "
        f"{channels}: drop it"
    )


def channel_notes(channels: int, auto_augment: str | None) -> list[str]:
    """What a person should know of images that are not read in RGB."""
    if channels == 3:
        return []
    note = f"num_channels is {channels}: images are read in Pillow's mode {MODES[channels]}"
    idle = f"; --auto-augment {auto_augment} cannot change the saturation of grey images"
    return [note + (idle if channels == 1 and auto_augment else "")]
