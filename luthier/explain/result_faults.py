"""What the data and the scores of a run say: classes, lengths, vocabulary, calibration, size of the test."""

from __future__ import annotations

import math

from luthier.explain.finding import Finding
from luthier.explain.rates import scaled_rate
from luthier.explain.story import Score, Story, as_score, lookup
from luthier.explain.wording import count, percent

MOST_UNKNOWN = 0.05
MOST_CUT = 0.05
LONGEST_READ = 512
LARGEST_RATIO = 10
WIDEST_INTERVAL = 0.10
GOOD_INTERVAL = 0.05


def worse_than_untuned(story: Story) -> list[Finding]:
    """See rows, all or a slice, on which the untuned model was better: tuning took away what it knew."""
    pairs = _before_and_after(story)
    lost = [f"{name}: {percent(old.value)} untuned, {percent(new.value)} tuned" for name, old, new in pairs if new.high < old.value]
    if not lost:
        return []
    says = "Part of what the model knew was lost in tuning: on some rows it did better before. Smaller steps keep more of it."
    return [Finding("worse-than-untuned", says, "; ".join(lost), *scaled_rate(story, 0.5, "half of now"))]


def _before_and_after(story: Story) -> list[tuple[str, Score, Score]]:
    """Return the accuracy untuned and tuned of all rows and of each slice, where both were measured."""
    base, slices = lookup(story.sheet, "baseline"), story.sheet.get("slices") or {}
    pairs = [("all rows", as_score(lookup(base, "scores", "accuracy")), story.score("accuracy"))]
    for name, facts in slices.items():
        pairs.append((f"“{name}”", as_score(lookup(base, "slices", name, "accuracy")), as_score(lookup(facts, "accuracy"))))
    return [(name, old, new) for name, old, new in pairs if old and new]


def unbalanced_classes(story: Story) -> list[Finding]:
    """See rare classes that are told apart worse than the common ones."""
    classes = {name: number for name, number in story.classes().items() if number > 0}
    if len(classes) < 2 or story.setting("loss.class_weights", "none") != "none":
        return []
    rarest, commonest = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
    ratio = classes[commonest] / classes[rarest]
    accuracy, macro = story.score("accuracy"), story.score("f1_macro")
    harmless = accuracy and macro and accuracy.value - macro.value < 0.03
    if ratio < LARGEST_RATIO or harmless:
        return []
    says = f"The classes are unbalanced: the model sees “{commonest}” far more often than “{rarest}” and learns the rare ones less well."
    evidence = f"{count(classes[commonest])} training rows against {count(classes[rarest])}, {ratio:.0f} to 1"
    if accuracy and macro:
        evidence += f"; accuracy {percent(accuracy.value)}, but F1 over the classes {percent(macro.value)}"
    return [Finding("unbalanced-classes", says, evidence, _loss_change(story, "class_weights=balanced"), "rare classes count more")]


def truncated_rows(story: Story) -> list[Finding]:
    """See many rows whose end the model never reads."""
    cut = {split: int(number or 0) for split, number in (lookup(story.data, "tokens", "truncated") or {}).items()}
    rows = sum(story.num_rows(split) for split in cut)
    share = sum(cut.values()) / rows if rows else 0.0
    if share <= MOST_CUT or story.setting("data.long_texts") == "windows":
        return []
    limit = int(lookup(story.data, "tokens", "max_length") or 0)
    says = "Many texts are longer than the model reads: what stands at their end has no part in the answer."
    evidence = f"{count(sum(cut.values()))} of {count(rows, 'row')} cut at {count(limit, 'token')} ({percent(share, 0)})"
    if isinstance(story.setting("data.max_length"), int) and 0 < limit <= LONGEST_READ // 2:
        hint = f"now {limit}; slower. Or data.long_texts=windows"
        return [Finding("truncated-rows", says, evidence, f"data.max_length={2 * limit}", hint)]
    return [Finding("truncated-rows", says, evidence, "data.long_texts=windows", "reads the whole text in overlapping parts; slower")]


def unknown_tokens(story: Story) -> list[Finding]:
    """See text that the tokenizer cannot spell."""
    where, share = max(story.unknown_shares().items(), key=lambda item: item[1], default=("", 0.0))
    if share <= MOST_UNKNOWN:
        return []
    says = "The tokenizer does not know many of the characters: they all become the same [UNK], and their meaning is lost."
    evidence = f"{percent(share)} of the tokens are unknown ({where})"
    if story.setting("model.extend_vocabulary") is False:
        return [Finding("unknown-tokens", says, evidence, "model.extend_vocabulary=true", "adds the characters of the training rows")]
    return [Finding("unknown-tokens", says, evidence, "model.path=bert-base-multilingual-cased", "or another model made for this language")]


def poor_calibration(story: Story) -> list[Finding]:
    """See probabilities that do not mean what they say."""
    error = story.score("ece")
    num_rows = story.num_measured
    if error is None or error.value <= max(0.05, 1 / math.sqrt(max(num_rows, 1))):
        return []
    smoothing = story.setting("loss.label_smoothing", 0.0)
    evidence = f"stated and true probability differ by {percent(error.value)} on average, over {count(num_rows, 'row')}"
    if _confidence_gap(story) < 0:
        says = "The model is too modest: it is right more often than its probabilities say."
        change = ("loss.label_smoothing=0", f"now {smoothing:g}") if smoothing else (None, "")
        return [Finding("poor-calibration", says, evidence, *change)]
    says = "The model is too sure of itself: it is right less often than its probabilities say. Do not read them as chances."
    if story.setting("loss.type", "cross-entropy") != "cross-entropy" or story.sheet.get("multi_label"):
        return [Finding("poor-calibration", says, evidence, None, "fewer epochs or more dropout make it less sure")]
    more = _loss_change(story, f"label_smoothing={min(smoothing + 0.1, 0.3):g}")
    return [Finding("poor-calibration", says, evidence, more, f"now {smoothing:g}")]


def _loss_change(story: Story, change: str) -> str:
    """Return a change of the loss section; where the recipe leaves the loss to the task, the loss is named first."""
    if story.setting("loss.type"):
        return f"loss.{change}"
    return f"loss={'binary-cross-entropy' if story.sheet.get('multi_label') else 'cross-entropy'} loss.{change}"


def _confidence_gap(story: Story) -> float:
    """Return mean confidence minus accuracy over the reliability bins; positive where the model is too sure."""
    bins = [item for item in story.sheet.get("reliability") or [] if item.get("count")]
    return sum(float(item["count"]) * ((item.get("confidence") or 0) - (item.get("accuracy") or 0)) for item in bins)


def small_test(story: Story) -> list[Finding]:
    """See scores that rest on too few rows to be told apart."""
    score = story.score("accuracy")
    if score is None or score.high - score.low <= WIDEST_INTERVAL:
        return []
    num_rows, width = story.num_measured, score.high - score.low
    says = "The test is small for what is read from it: another draw of rows could give a rather different score."
    evidence = f"{count(num_rows, 'row')}; accuracy anywhere from {percent(score.low)} to {percent(score.high)}"
    wanted = 100 * math.ceil(num_rows * (width / GOOD_INTERVAL) ** 2 / 100)
    aim = f"about {count(wanted, 'row')} would bring it to ±{GOOD_INTERVAL * 50:g} points" if num_rows else ""
    share = story.setting("data.split.test")
    if story.setting("data.test") is None and isinstance(share, (int, float)) and 0 < share < 0.3:
        return [Finding("small-test", says, evidence, "data.split.test=0.3", f"now {share:g}")]
    return [Finding("small-test", says, evidence, None, aim)]
