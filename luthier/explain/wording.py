"""Numbers as a person reads them."""

from __future__ import annotations

from luthier.explain.story import Score

SPACE = "\u00a0"  # a number and its unit stay on one line
NONE = "–"
IN_PERCENT = ("accuracy", "precision", "recall", "f1", "exact")
NAMES = {
    **{"loss": "Loss (nats per token)", "mcc": "MCC", "auroc": "AUROC", "ece": "Calibration error (ECE)", "f1": "F1"},
    **{"mse": "Mean squared error", "mae": "Mean absolute error", "rmse": "Root mean squared error", "bleu": "BLEU", "chrf": "chrF"},
    **{"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "mrr": "MRR", "auc": "AUC", "qwk": "Quadratic weighted kappa"},
    "exact_match": "Exact match",
}


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share of 1 as a percentage; what is not quite 100 never reads as 100."""
    if share is None:
        return NONE
    if share < 1 and round(share * 100, digits) >= 100:
        return f">{SPACE}{100 - 10**-digits:.{digits}f}{SPACE}%"
    return f"{share * 100:.{digits}f}{SPACE}%"


def points(difference: float) -> str:
    """Write a difference of two shares in percentage points, with its sign."""
    return f"{difference * 100:+.1f}".replace("-", "−")


def count(number: float | None, noun: str = "") -> str:
    """Write a whole number with thousands apart, and a noun in the right number."""
    if number is None:
        return NONE
    plural = noun if number == 1 or not noun else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,.0f}" + (f"{SPACE}{plural}" if noun else "")


def plain(value: float | None) -> str:
    """Write a number of unknown size with four significant digits at most."""
    return NONE if value is None else f"{value:.4g}"


def rate(value: float) -> str:
    """Write a learning rate as a recipe takes it: `5e-05`."""
    return f"{float(f'{value:.2g}'):g}"


def duration(seconds: float | None) -> str:
    """Write a time in the two units that matter."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    if seconds < 60:
        return f"{seconds:.0f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def size(num_bytes: float | None) -> str:
    """Write an amount of memory or disk."""
    if num_bytes is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f}{SPACE}{unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f}{SPACE}GiB"


def metric_name(metric: str) -> str:
    """Write a score key as words: `f1_macro` is `F1, macro`."""
    base, _, depth = metric.partition("@")
    if depth:
        return f"{'nDCG' if base == 'ndcg' else NAMES.get(base, base.capitalize())}@{depth}"
    if metric in NAMES:
        return NAMES[metric]
    name, _, kind = metric.partition("_")
    if kind in ("accuracy", "f1", "precision", "recall"):
        return f"{name.capitalize()} {'F1' if kind == 'f1' else kind}"
    return NAMES.get(name, name.capitalize()) + (f", {kind}" if kind else "")


def metric_value(metric: str, value: float | None) -> str:
    """Write a score in the form its metric is usually read in."""
    if is_share(metric):
        return percent(value)
    return NONE if value is None else f"{value:.3f}".replace("-", "−")


def is_share(metric: str) -> bool:
    """Return whether a score is a share of 1 that is read as a percentage."""
    return metric.split("@")[0].partition("_")[0] in IN_PERCENT or metric.rpartition("_")[2] in IN_PERCENT


def interval(metric: str, score: Score) -> str:
    """Write the interval of a score; nothing where it has none."""
    if score.low == score.high == score.value:
        return NONE
    return f"{metric_value(metric, score.low).removesuffix(f'{SPACE}%')}–{metric_value(metric, score.high)}"


def cut(text: str, longest: int = 400) -> str:
    """Return the beginning of a long text, saying how much more there is."""
    return text if len(text) <= longest else f"{text[:longest]} … ({count(len(text) - longest)} more characters)"


def p_value(value: float | None) -> str:
    """Write the p-value of a test; very small ones as a bound."""
    if value is None:
        return ""
    return f"p{SPACE}<{SPACE}0.001" if value < 0.001 else f"p{SPACE}={SPACE}{value:.3f}"
