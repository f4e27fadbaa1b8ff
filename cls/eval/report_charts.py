"""The sections of classification's reports: classes, confusions, and calibration."""

from cls.eval.calibration import calibration
from cls.eval.evaluator import MAX_LISTED, ClassificationEvaluator
from engine.html.charts import bar_chart, heat_map, histogram, line_chart
from engine.html.page import Page
from engine.plots import percent_of_rows

_MOST_CONFUSIONS = 20


def add_classification(page: Page, evaluator: ClassificationEvaluator) -> None:
    """Add the classes (of many, those with the lowest accuracy), the confusions, and the calibration."""
    names, results, totals = evaluator.classes.names, evaluator.compute(), evaluator.confusion.sum(1)
    rows = [
        (name, 100 * results[f"accuracy/{name}"], int(total))
        for name, total in zip(names, totals, strict=True)
    ]
    few = len(rows) <= MAX_LISTED
    intro = "" if few else f"The {MAX_LISTED} classes with the lowest accuracy, of {len(rows)}."
    shown = rows if few else sorted((row for row in rows if row[2]), key=lambda row: row[1])[:MAX_LISTED]
    page.section("Classes", intro)
    page.chart(
        bar_chart(
            [row[0] for row in shown], {"": [row[1] for row in shown]}, title="Accuracy per class", unit="%"
        )
    )
    if few:
        page.chart(
            heat_map(
                percent_of_rows(evaluator.confusion),
                title="Confusion matrix, % of the label's images",
                row_labels=names,
                column_labels=names,
                row_title="label",
                column_title="prediction",
            )
        )
    page.table(["class", "accuracy %", "images"], [(name, f"{score:.2f}", n) for name, score, n in shown])
    if confusions := evaluator.confused(_MOST_CONFUSIONS):
        page.table(["label", "predicted as", "images"], confusions, "The most frequent confusions")
    _add_calibration(page, evaluator)


def _add_calibration(page: Page, evaluator: ClassificationEvaluator) -> None:
    records = evaluator.records()
    result = calibration(records.of_prediction, records.predicted == records.label)
    page.section(
        "Calibration",
        f"Expected calibration error (ECE): {result.ece:.1%}, the mean gap between predicted probability and "
        "accuracy. Above the diagonal, the network is underconfident; below it, overconfident.",
    )
    page.chart(
        line_chart(
            {"this network": list(zip(result.probability.tolist(), result.accuracy.tolist(), strict=True))},
            title="Reliability diagram",
            x_label="predicted probability",
            y_label="accuracy",
            x_range=(0, 1),
            y_range=(0, 1),
            guides={"perfectly calibrated": [(0.0, 0.0), (1.0, 1.0)]},
        )
    )
    page.chart(
        histogram(
            records.of_prediction.tolist(),
            title="Distribution of predicted probabilities",
            x_label="predicted probability",
            y_label="images",
            x_range=(0, 1),
        )
    )
