"""The thread of the visitor's ticket: every text is written once, then nothing until the customer writes."""

from __future__ import annotations

from insightdesk_rt.demo.cast import ABOUT_MIA, BOB, TO_MIA
from insightdesk_rt.demo.thread import Thread, script


def test_no_text_is_repeated_while_the_customer_is_silent() -> None:
    """Bob used to repeat the same lines for ever."""
    thread = Thread()
    said = [thread.next() for _ in range(100)]
    texts = [saying.text for saying in said if saying is not None]
    assert sorted(texts) == sorted({*TO_MIA, *ABOUT_MIA}) and thread.over
    assert said[len(texts) :] == [None] * (100 - len(texts))
    assert [saying.text for saying in script() if not saying.note] == list(TO_MIA)


def test_the_customer_gets_an_answer_to_each_message() -> None:
    thread = Thread()
    first = thread.answer()
    assert (first.who, first.text, first.note) == (BOB, TO_MIA[0], False)
    while thread.next() is not None:
        pass
    answers = [thread.answer() for _ in range(2 * len(TO_MIA))]
    assert {answer.text for answer in answers} == set(TO_MIA) and not any(answer.note for answer in answers)
    assert thread.over, "an answer does not restart the script"


def test_the_script_starts_again_when_the_thread_is_truncated() -> None:
    thread = Thread()
    while thread.next() is not None:
        pass
    thread.begin_again()
    first = thread.next()
    assert first is not None and first.text == TO_MIA[0] and not thread.over
