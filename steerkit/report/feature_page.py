"""One feature as an HTML page."""

from __future__ import annotations

from steerkit.report.feature import FeatureView
from steerkit.report.page import page


def feature_page(view: FeatureView) -> str:
    """The view as a self-contained HTML page."""
    return page("feature.html", view=view)
