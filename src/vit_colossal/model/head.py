"""Whether a pretrained model's classifier is kept: its rows go with the names of its labels.

A classifier of the same number of outputs is not one for the same labels, nor in the same order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from vit_colossal.model.weights_fit import stored_shapes
from vit_colossal.plan.model_spec import ModelSpec, stored_labels

_LOOSELY = ", whatever their case, blanks, hyphens and form of Unicode"
#: Between words, and what nobody sees.
_IGNORED = re.compile(r"[\s_\-\u200b\u200c\u200d\u2060\ufeff]+")


@dataclass(frozen=True)
class Head:
    """What becomes of the classifier.

    Attributes:
        rows: for each label, the row of the stored classifier; None is a new classifier.
        note: the same, for a person; empty where nothing was stored.
    """

    rows: tuple[int, ...] | None
    note: str


def match_head(spec: ModelSpec, labels: tuple[str, ...]) -> Head:
    """Find the stored classifier's rows for these labels; all of them, or none.

    Names are compared as they are, else without regard to case, blanks, hyphens, underscores and
    the form of Unicode, where that is unambiguous. Of labels that are known in part, or of which
    more are known than are needed, none is kept: what one row says is only true beside the others.

    Args:
        spec: the model.
        labels: of the data.

    Raises:
        ModelError: the model's files cannot be read.
    """
    if not spec.pretrained:
        return Head(None, "")
    shapes = stored_shapes(spec.name, spec.family)
    shape = shapes.get(f"{spec.family.head}.weight")
    if shape is None:
        return Head(None, f"classifier: new, as the model brings none{_instead(spec, shapes)}")
    if reason := misfit(spec, shapes):
        return Head(None, f"classifier: new: {reason}")
    old = stored_labels(spec.name)
    if old is None or len(old) != shape[0]:
        named = f"names {len(old)}" if old else "does not name them"
        return Head(None, f"classifier: new: it has {shape[0]} outputs, config.json {named}")
    return _matched(old, labels)


def misfit(spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Why a stored classifier is none that reads the model's features; empty if it is one.

    Args:
        spec: the model.
        shapes: of the stored weights, by published name.
    """
    weight, bias = (f"{spec.family.head}.{part}" for part in ("weight", "bias"))
    rows, features = shapes[weight][0] if shapes[weight] else 0, spec.shape.features
    if shapes[weight] != (rows, features):
        return f"{weight} is {list(shapes[weight])}, the model gives {features} features"
    if shapes.get(bias, (rows,)) != (rows,):
        return f"{bias} is {list(shapes[bias])}, {weight} has {rows} rows"
    return ""


def _instead(spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The stored weights that lie outside of the backbone: heads of another form or name."""
    prefix = f"{spec.family.backbone}."
    if not any(name.startswith(prefix) for name in shapes):
        return ""
    others = [name for name in shapes if not name.startswith(prefix)]
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f" of that name: {', '.join(others[:3])}{more} not used" if others else ""


def _matched(old: tuple[str, ...], labels: tuple[str, ...]) -> Head:
    if old == labels:
        return Head(
            tuple(range(len(labels))), "classifier: kept, as the model has the data's labels"
        )
    for spelling, how in ((str, ""), (_loose, _LOOSELY)):
        there, wanted = [spelling(label) for label in old], [spelling(label) for label in labels]
        if len(set(there)) == len(old) and sorted(there) == sorted(wanted):
            rows = tuple(there.index(label) for label in wanted)
            moved = ", and put in their order" if rows != tuple(range(len(rows))) else ""
            return Head(rows, f"classifier: kept, matched by the names of its labels{how}{moved}")
    if all(re.fullmatch(r"LABEL_\d+", label) for label in old):
        return Head(None, f"classifier: new: the model does not name its {len(old)} labels")
    note = f"classifier: new: the model's {len(old)} labels ({_some(old)}) are not the data's"
    return Head(None, f"{note} {len(labels)} ({_some(labels)})")


def _loose(label: str) -> str:
    return _IGNORED.sub("", unicodedata.normalize("NFC", label)).casefold()


def _some(labels: tuple[str, ...]) -> str:
    more = ", ..." if len(labels) > 3 else ""
    return ", ".join(repr(label[:40]) for label in labels[:3]) + more
