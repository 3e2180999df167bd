"""Which document a window is from, which decides what is independent of what."""

from eval.windows import cut
from tests.eval.conftest import Scripted


class Documents(Scripted):
    """Documents of these lengths, each of one letter of its own."""

    def __init__(self, *lengths: int) -> None:
        super().__init__()
        self.lengths = lengths

    def _own_text(self) -> tuple[str, list[str]]:
        return "letters", [chr(ord("a") + number) * length for number, length in enumerate(self.lengths)]

    def document(self, token: int) -> int:
        return [self.encode(chr(ord("a") + number))[0] for number in range(len(self.lengths))].index(token)


def test_windows_inside_documents_name_theirs() -> None:
    subject = Documents(20, 3, 41, 10)
    windows = cut(subject, 11, 6)
    assert windows.protocol["documents_joined"] is False
    assert windows.documents == [0, 0, 2, 2, 2, 2]
    windows = cut(subject, 11, 7)
    assert windows.documents == [0, 0, 2, 2, 2, 2, 3]
    assert windows.documents == [subject.document(int(row[1])) for row in windows.tokens]


def test_windows_of_joined_documents_name_the_one_they_begin_in() -> None:
    """0 0 0 0 | 1 1 1 1 1 1 1 1 1 | 2 2: a token between two documents belongs to the second."""
    subject = Documents(4, 9, 2)
    windows = cut(subject, 4, 5, bos=False, least=9)
    assert windows.protocol["documents_joined"] is True
    assert windows.tokens.shape == (4, 4)
    assert windows.documents == [0, 1, 1, 1]
    assert windows.protocol["document_of_window"] == windows.documents
    windows = cut(subject, 5, 5, bos=False, least=9)
    assert windows.documents == [0, 1, 1]
