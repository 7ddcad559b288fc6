"""What a command says: by choice more, or less."""


def test_quiet_leaves_results_and_mistakes(redline, edits_file, tmp_path):
    out = tmp_path / "labels.jsonl"
    status, printed, err = redline("label", edits_file, "--tokenizer", "whitespace", "--out", out)
    assert (status, printed) == (0, "")
    assert "30 records" in err
    status, printed, err = redline("label", edits_file, "--tokenizer", "whitespace", "--out", out, "-q")
    assert (status, printed, err) == (0, "", "")
    missing = tmp_path / "missing.jsonl"
    status, _, err = redline("label", missing, "--tokenizer", "whitespace", "--out", out, "-q")
    assert status == 2
    assert "missing.jsonl" in err
    assert "Traceback" not in err


def test_verbose_shows_where_a_mistake_was_found(redline, tmp_path):
    missing, out = tmp_path / "missing.jsonl", tmp_path / "labels.jsonl"
    status, _, err = redline("label", missing, "--tokenizer", "whitespace", "--out", out, "-v")
    assert status == 2
    assert "Traceback" in err
    assert err.count("redline: ") == 1
