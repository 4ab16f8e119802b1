"""Pictures with axes, for papers and slides: accuracy of several methods over what they removed."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import RunFolderError
from edgeprune.records import Curve, CurvePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = {
    "param_ratio": "share of the parameters removed",
    "mac_ratio": "share of the multiply-adds removed",
    "latency_ratio": "share of the time saved, measured",
}
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
        points = [point for curve in curves for point in curve.points]
        shown = [share for share in SHARES if all(_share(point, share) is not None for point in points)]
        figure = Figure(figsize=(5.5 * len(shown), 4.5), layout="constrained")
        ((first, *_),) = all_axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)
        for axes, share in zip(all_axes[0], shown, strict=True):
            _draw(axes, curves, share)
        first.set_ylabel("top-1 accuracy" if curves[0].metric == "top-1" else curves[0].metric)
        first.legend(fontsize="small")
        paths = []
        for kind in FORMATS:
            content = BytesIO()
            figure.savefig(
                content, format=kind, dpi=DOTS_PER_INCH, metadata={"Date": None} if kind == "svg" else None
            )
            paths.append(_write(folder / f"{name}.{kind}", content.getvalue()))
    return tuple(paths)


def _share(point: CurvePoint, name: str) -> float | None:
    if name != "latency_ratio":
        return float(getattr(point, name))
    return None if point.latency_ratio is None else 1 - point.latency_ratio.value


def _draw(axes: Axes, curves: Sequence[Curve], name: str) -> None:
    for number, curve in enumerate(curves):
        dense = curve.dense_accuracy
        points = sorted((_share(point, name) or 0.0, point.accuracy) for point in curve.points)
        shares, accuracies = zip((0.0, dense), *points, strict=True)
        axes.plot(
            shares, accuracies, marker=MARKS[number % len(MARKS)], markersize=4, label=_plain(curve.label)
        )
    axes.set_xlabel(SHARES[name])
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=min(0, axes.get_xlim()[0]) if name == "latency_ratio" else 0)
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
