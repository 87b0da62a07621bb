"""Choosing by hand: which saved model to load, what to do with it, and in which forms to save one.

    from multiframe_ckpt.interactive import choose

    def load(checkpoint, choice):
        checkpoint.restore(model=model, optimizer=optimizer if choice.action == "continue" else None)

    choice = choose("runs", load=load)      # asks in a terminal, takes defaults where there is none
    if choice.action != "use":
        train(epochs=choice.epochs or 10, learning_rate=choice.learning_rate)

``multiframe-ckpt choose`` is the same as a command. Every question has a flag that answers it; a script offers the same
flags with :func:`add_answer_arguments`.
"""

from .answers import Answers, add_answer_arguments
from .choosing import Choice, choose, choose_among, read_whole
from .dialogue import Ask, Dialogue, Say, ask_terminal, say_line
from .finding import SavedModel, find_models, pick
from .saving import SavedCopies, save_by_hand, save_copies
from .showing import listing

__all__ = [
    "Answers",
    "Ask",
    "Choice",
    "Dialogue",
    "SavedCopies",
    "SavedModel",
    "Say",
    "add_answer_arguments",
    "ask_terminal",
    "choose",
    "choose_among",
    "find_models",
    "listing",
    "pick",
    "read_whole",
    "save_by_hand",
    "save_copies",
    "say_line",
]
