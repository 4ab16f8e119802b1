"""Pictures with axes, for papers and slides: accuracy of several methods over what they removed."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import RunFolderError
from edgeprune.records import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
DOTS_PER_INCH = 150
MARKS = "osD^vP*Xhd<>p"


def draw_curves(curves: Sequence[Curve], folder: Path, *, name: str = "sweep") -> tuple[Path, ...]:
    """Draw accuracy over the shares of parameters and of multiply-adds removed, as PNG and SVG.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name}):  # the same bytes for the same curves
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, curves, "param_ratio", "share of the parameters removed")
        _draw(right, curves, "mac_ratio", "share of the multiply-adds removed")
        left.set_ylabel("top-1 accuracy")
        left.legend(fontsize="small")
        paths = []
        for kind in FORMATS:
            content = BytesIO()
            figure.savefig(
                content, format=kind, dpi=DOTS_PER_INCH, metadata={"Date": None} if kind == "svg" else None
            )
            paths.append(_write(folder / f"{name}.{kind}", content.getvalue()))
    return tuple(paths)


def _draw(axes: Axes, curves: Sequence[Curve], share: str, label: str) -> None:
    for number, curve in enumerate(curves):
        dense = sum(curve.dense) / len(curve.dense)
        points = sorted((getattr(point, share), point.accuracy) for point in curve.points)
        shares, accuracies = zip((0.0, dense), *points, strict=True)
        axes.plot(
            shares, accuracies, marker=MARKS[number % len(MARKS)], markersize=4, label=_plain(curve.label)
        )
    axes.set_xlabel(label)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)


def _plain(text: str) -> str:
    """A name of the user's own may hold what matplotlib reads as mathematics."""
    return text.replace("$", r"\$")


def _write(path: Path, content: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as err:
        raise RunFolderError(
            f"{path}: cannot be written ({err.strerror}); make room or choose another output folder."
        ) from err
    return path
