"""What an 8-bit file is checked for beside its metric."""

from deploy.export.comparison import Comparison
from deploy.export.int8 import check_limits, summary
from deploy.options import Budget
from tests.deploy.quantize.test_report_card import card_of
from tests.refusals import refuses

COMPARISON = Comparison(
    num_images=2, max_difference=0.3, largest=4.0, agreement=0.9, exact=None, batches=(1,)
)


def test_only_limits_that_are_set_apply():
    check_limits(COMPARISON, Budget())
    check_limits(COMPARISON, Budget(max_difference=0.3, agreement=0.9))
    refuses(lambda: check_limits(COMPARISON, Budget(agreement=0.95)), "0.900000", "budget.agreement=0.95")
    refuses(lambda: check_limits(COMPARISON, Budget(max_difference=0.2)), "0.3", "budget.max_difference=0.2")


def test_the_summary_names_the_limits():
    assert summary(card_of(), COMPARISON, Budget(agreement=0.8)).splitlines() == [
        "miou on val: 71.25 in float32, 70.00 in 8 bits (-1.25 points; at most 1.5 may be lost)",
        "8-bit file and PyTorch (budget.agreement=0.8):",
        *COMPARISON.text().splitlines(),
    ]
    assert "(no budget: 8 bits change" in summary(card_of(), COMPARISON, Budget())
