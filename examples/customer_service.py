"""Sort customer messages by what they want, and hand the doubtful ones to a person.

Tunes the embedded model on the embedded data: works offline.

    python examples/customer_service.py
"""

from __future__ import annotations

import luthier

SURE_ENOUGH = 0.7
MESSAGES = [
    "my parcel was due on Monday, any news?",
    "I'd like my money back for the lamp, when does it arrive?",
    "你好，我忘记密码了，登录不上去",
    "椅子收到的时候腿是断的",
    "hmm ok then",
]


def tuned() -> luthier.Run:
    """Tune the model, showing one line every 50 steps."""
    training = luthier.ticks(
        data={
            "train": "package:support_intents/train.csv",
            "test": "package:support_intents/test.csv",
            "text": "text",
            "label": "intent",
            "slice_by": "language",
        },
    )
    for tick in training:
        if tick.step % 50 == 0:
            print(f"step {tick.step} of {tick.total_steps}: loss {tick.loss:.3f}")
    return training.run


def main() -> None:
    """Tune, say how good it is, and sort the messages."""
    run = tuned()
    accuracy = run.scores["test"]["accuracy"]
    print(f"right on {accuracy['value']:.1%} of the test texts ({accuracy['low']:.1%} to {accuracy['high']:.1%})")
    print(f"report: {run.folder.report}\n")
    for message, answer in zip(MESSAGES, run.predict(MESSAGES), strict=True):
        sure = answer.probabilities[answer.label]
        queue = answer.label if sure >= SURE_ENOUGH else "a person looks"
        print(f"{sure:4.0%}  {queue:<16} {message}")


if __name__ == "__main__":
    main()
