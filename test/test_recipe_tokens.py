"""Token lists and shapes, compared with ESPnet's own modules."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_hjprune.bin.recipe import shapes, token_list
from espnet_hjprune.data import datadir, tokens
from espnet_hjprune.errors import HJPruneError
from espnet_hjprune.synthetic.grammar import COMMANDS

TEXTS = {f"utt{index:03d}": COMMANDS.sentence(97 * index) for index in range(200)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A formatted data directory of 200 utterances of 1 to 3 s, without audio."""
    directory = tmp_path / "dump/raw/train"
    datadir.write_table(directory / "text", TEXTS)
    lengths = {utt_id: 16000 + 160 * index for index, utt_id in enumerate(TEXTS)}
    datadir.write_table(directory / "utt2num_samples", lengths)
    return directory


def make_tokens(data: Path, token_type: str) -> tuple[Path, Path]:
    """The token list and the bpe model, made by the command."""
    output, prefix = data.parents[2] / "tokens" / "tokens.txt", data.parents[2] / "tokens" / "bpe"
    options = ["--text", str(data / "text"), "--token_type", token_type, "--output", str(output)]
    token_list.main([*options, "--nbpe", "50", "--bpemodel_prefix", str(prefix)])
    return output, prefix.with_suffix(".model")


def espnet_tokenizer(token_type: str, model: Path):
    """ESPnet's tokenizer of the same type."""
    if token_type == "char":
        from espnet2.text.char_tokenizer import CharTokenizer

        return CharTokenizer()
    if token_type == "word":
        from espnet2.text.word_tokenizer import WordTokenizer

        return WordTokenizer()
    from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer

    return SentencepiecesTokenizer(str(model))


@pytest.mark.parametrize("token_type", tokens.TOKEN_TYPES)
def test_tokens_and_shapes_are_espnets(token_type: str, data: Path) -> None:
    path, model = make_tokens(data, token_type)
    vocabulary = tokens.read_token_list(path)
    assert len(set(vocabulary)) == len(vocabulary)
    output = data.parents[2] / "stats/train"
    options = ["--data_dir", str(data), "--token_list", str(path), "--token_type", token_type]
    shapes.main([*options, "--bpemodel", str(model), "--out_dir", str(output)])
    expected = espnet_tokenizer(token_type, model)
    text_shape = datadir.read_table(output / f"text_shape.{token_type}")
    for utt_id, text in TEXTS.items():
        line = expected.text2tokens(text)
        assert set(line) <= set(vocabulary)
        assert text_shape[utt_id] == f"{len(line)},{len(vocabulary)}"
    assert (output / "speech_shape").read_text() == (data / "utt2num_samples").read_text()


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_splitting_any_text_is_espnets(text: str) -> None:
    for token_type in ("char", "word"):
        expected = espnet_tokenizer(token_type, Path()).text2tokens(text)
        assert tokens.build_tokenizer(token_type)(text) == expected


def test_char_list_is_ordered_by_frequency(tmp_path: Path) -> None:
    datadir.write_table(tmp_path / "text", {"a": "BB A", "b": "B C", "c": "B A"})
    options = ["--text", str(tmp_path / "text"), "--token_type", "char"]
    token_list.main([*options, "--output", str(tmp_path / "tokens.txt")])
    lines = (tmp_path / "tokens.txt").read_text().split("\n")
    assert lines == ["<blank>", "<unk>", "B", "<space>", "A", "C", "<sos/eos>", ""]


def test_bpe_list_has_the_models_order(data: Path) -> None:
    import sentencepiece

    path, model = make_tokens(data, "bpe")
    processor = sentencepiece.SentencePieceProcessor(str(model))
    pieces = [processor.id_to_piece(index) for index in range(3, processor.get_piece_size())]
    assert tokens.read_token_list(path) == ["<blank>", "<unk>", *pieces, "<sos/eos>"]


def test_too_many_pieces_are_one_sentence(data: Path, tmp_path: Path) -> None:
    options = ["--text", str(data / "text"), "--token_type", "bpe", "--nbpe", "5000"]
    with pytest.raises(HJPruneError, match=r"--nbpe 5000 .*Vocabulary size too high") as info:
        token_list.main([*options, "--output", str(tmp_path / "tokens.txt")])
    assert "\n" not in str(info.value)
    assert not (tmp_path / "tokens.txt").exists()
    assert not list(tmp_path.glob("*.model"))


def test_blank_transcripts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a HELLO\nb\n")
    with pytest.raises(HJPruneError, match=r"utterance b of .*text has no transcript"):
        tokens.read_texts(tmp_path / "text")


def test_missing_files_are_one_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(HJPruneError, match="sentencepiece model None does not exist"):
        tokens.build_tokenizer("bpe")
    options = ["--data_dir", str(data), "--token_type", "char", "--out_dir", str(tmp_path / "x")]
    with pytest.raises(HJPruneError, match=r"nothing\.txt does not exist"):
        shapes.main([*options, "--token_list", str(tmp_path / "nothing.txt")])
    (tmp_path / "cut.txt").write_text("<blank>\n<unk>\nA\n")
    with pytest.raises(HJPruneError, match=r"cut\.txt does not begin with"):
        shapes.main([*options, "--token_list", str(tmp_path / "cut.txt")])
    assert not (tmp_path / "x").exists()


def test_unknown_tokens_are_mentioned(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, _ = make_tokens(data, "word")
    datadir.write_table(data / "text", TEXTS | {"utt000": "BIN BLUE AT B ZERO TOMORROW"})
    options = ["--data_dir", str(data), "--token_list", str(path), "--token_type", "word"]
    shapes.main([*options, "--out_dir", str(data / "stats")])
    assert "has 1 tokens that" in caplog.text
    assert "'TOMORROW'" in caplog.text
