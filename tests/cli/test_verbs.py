from linmap.cli import main


def test_compare(ruler, capsys):
    assert main(["compare", "ruler"]) == 0
    assert main(["tour", "--systems", "ruler"]) == 0
