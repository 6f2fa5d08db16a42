"""Word, character and token error counts of a decoded set, by NIST's sclite."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_hjprune.atomic import scratch_directory
from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.data.tokens import TOKEN_TYPES, Tokenizer, build_tokenizer
from espnet_hjprune.errors import HJPruneError

SCORE_TYPES = ("wer", "cer", "ter")
_REPOSITORY = Path(__file__).resolve().parents[2]
# In a trn file "@" is an empty word, "{a / b}" an alternation, ";" starts a tag inside a word, a
# backslash escapes what follows, and a line that begins with ";;" or "**" is a comment. Full-width
# twins keep such text countable.
_TRN_SYNTAX = str.maketrans("@{};*\\", "＠｛｝；＊＼")  # noqa: RUF001
_SUM_ROW = re.compile(r"^\s*\|\s*Sum\s*\|\s*(\d+)\s+(\d+)\s*\|" + r"\s*(\d+)" * 6 + r"\s*\|", re.M)


@dataclass(frozen=True)
class ErrorCounts:
    """Counts of one scored set, in utterances (``*sentences``) and tokens (the rest)."""

    sentences: int
    words: int
    correct: int
    substitutions: int
    deletions: int
    insertions: int
    wrong_sentences: int

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def error_rate(self) -> float:
        """Errors per reference token, in percent; may exceed 100."""
        return self.percent(self.errors)

    def percent(self, count: int) -> float:
        """``count`` tokens as a percentage of the reference tokens."""
        return 100.0 * count / self.words

    @property
    def sentence_error_rate(self) -> float:
        """Utterances with at least one error, in percent."""
        return 100.0 * self.wrong_sentences / self.sentences


def find_sctk(name: str) -> list[str]:
    """Return the command that starts a program of SCTK, such as sclite.

    It is looked for on the PATH, as Debian's ``sctk NAME``, and in tools/.

    Raises:
        HJPruneError: it is not installed.
    """
    if program := shutil.which(name):
        return [program]
    if program := shutil.which("sctk"):
        return [program, name]
    for pattern in (f"sctk*/bin/{name}", f"bin/{name}"):
        for path in sorted((_REPOSITORY / "tools").glob(pattern)):
            return [str(path)]
    raise HJPruneError(
        f"{name} was not found on the PATH, as 'sctk {name}' or in tools/; "
        "install the Debian package sctk, or build SCTK into tools/sctk"
    )


def scoring_tokenizer(
    score_type: str, token_type: str | None = None, bpemodel: str | Path | None = None
) -> Tokenizer:
    """Return the function that splits a transcript into the tokens to be counted.

    Args:
        score_type: ``wer`` counts words, ``cer`` characters with ``<space>`` between words, and
            ``ter`` the model's own tokens.
        token_type: the model's token type (``char``, ``bpe`` or ``word``), needed for ``ter``.
        bpemodel: the sentencepiece model, needed for ``ter`` with ``bpe``.

    Raises:
        HJPruneError: an unknown type, or a missing option or sentencepiece model.
    """
    unit = {"wer": "word", "cer": "char", "ter": token_type}.get(score_type)
    if unit is None:
        raise HJPruneError(f"--type {score_type} needs --token_type {', '.join(TOKEN_TYPES)}")
    split = build_tokenizer(unit, bpemodel)
    if unit == "char":
        # Any white space between words counts as one character.
        return lambda text: split(" ".join(text.split()))
    return split


def trn_line(tokens: Iterable[str], speaker: str, utterance: str) -> str:
    """Return ``tokens<TAB>(speaker-utterance)``, with characters that sclite interprets replaced.

    Raises:
        HJPruneError: a parenthesis in the speaker or utterance id, which the format cannot hold.
    """
    if re.search(r"[()]", speaker + utterance):
        raise HJPruneError(
            f"utterance '{utterance}' of speaker '{speaker}' has a parenthesis in its id, "
            "which sclite cannot read; rename it"
        )
    return f"{' '.join(tokens).translate(_TRN_SYNTAX)}\t({speaker}-{utterance})\n"


def parse_result(path: str | Path) -> ErrorCounts:
    """Read the totals from what ``sclite -o all`` printed.

    Raises:
        HJPruneError: the file is missing or has no table of totals.
    """
    try:
        found = _SUM_ROW.search(Path(path).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        raise HJPruneError(f"{path} does not exist; run stage 7 to score that set") from None
    if not found:
        raise HJPruneError(f"{path} has no table of totals by sclite; delete it and rerun stage 7")
    snt, wrd, corr, sub, dele, ins, _, wrong = map(int, found.groups())
    return ErrorCounts(snt, wrd, corr, sub, dele, ins, wrong)


def score_set(
    reference: Mapping[str, str],
    hypothesis: Mapping[str, str],
    utt2spk: Mapping[str, str],
    tokenize: Tokenizer,
    out_dir: str | Path,
) -> ErrorCounts:
    """Score one set and write ``ref.trn``, ``hyp.trn`` and ``result.txt`` into ``out_dir``.

    An utterance that the hypothesis lacks counts as one without any words. The case of ASCII
    letters does not count, as :func:`.fold_case` says. The three files are moved in once all are
    complete, ``result.txt`` last, so that it stands for a scored set.

    Args:
        reference: transcript of each utterance; it decides which utterances are scored.
        hypothesis: recognised text of each utterance.
        utt2spk: speaker of each utterance.
        tokenize: splits a transcript into the tokens to be counted.
        out_dir: the directory to write to, made if needed.

    Raises:
        HJPruneError: sclite is missing or fails, an utterance has no speaker or no transcript, or
            the hypothesis belongs to another set.
    """
    sclite = find_sctk("sclite")
    strangers = sorted(hypothesis.keys() - reference.keys())
    if strangers:
        raise HJPruneError(
            f"the hypothesis has {len(strangers)} utterances that the reference lacks, "
            f"for example '{strangers[0]}'; give the --ref of the decoded set"
        )
    homeless = sorted(reference.keys() - utt2spk.keys())
    if homeless:
        raise HJPruneError(f"--utt2spk has no speaker for utterance '{homeless[0]}'; add it")

    tokens = {utterance: tokenize(text) for utterance, text in reference.items()}
    n_words = sum(map(len, tokens.values()))
    if not n_words:
        raise HJPruneError("--ref has no words at all; give the transcripts of the decoded set")
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    # An earlier result must not be taken for that of this hypothesis.
    (out_dir / "result.txt").unlink(missing_ok=True)
    with scratch_directory(out_dir / ".sclite") as work:
        ref, hyp, result = (work / name for name in ("ref.trn", "hyp.trn", "result.txt"))
        with ref.open("w", encoding="utf-8") as ref_trn, hyp.open("w", encoding="utf-8") as hyp_trn:
            for utterance in sorted(reference):
                speaker = utt2spk[utterance]
                ref_trn.write(trn_line(tokens[utterance], speaker, utterance))
                recognised = tokenize(hypothesis.get(utterance, ""))
                hyp_trn.write(trn_line(recognised, speaker, utterance))
        # Run beside the files: sclite prints the hypothesis's path as the system's name.
        command = [*sclite, "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
        command += ["-i", "rm", "-o", "all", "stdout"]
        done = subprocess.run(command, cwd=work, capture_output=True)
        if done.returncode:
            reason = done.stderr.decode("utf-8", "replace").strip().split("\n")[0]
            raise HJPruneError(f"sclite failed on {out_dir} ({reason}); check the utterance ids")
        result.write_bytes(done.stdout)
        counts = parse_result(result)
        if (counts.sentences, counts.words) != (len(reference), n_words):
            raise HJPruneError(
                f"sclite read {counts.sentences} utterances and {counts.words} tokens of "
                f"{len(reference)} and {n_words} in {out_dir}; check the text for odd characters"
            )
        for path in (ref, hyp, result):
            path.replace(out_dir / path.name)
    return counts


def score_files(
    ref: str | Path,
    hyp: str | Path,
    utt2spk: str | Path,
    tokenize: Tokenizer,
    out_dir: str | Path,
) -> tuple[ErrorCounts, int]:
    """Score Kaldi-style text files with :func:`score_set`.

    Returns:
        The counts, and how many utterances the hypothesis lacked.

    Raises:
        HJPruneError: as :func:`score_set`, or a file that is missing or malformed.
    """
    reference, hypothesis = read_table(ref), read_table(hyp)
    counts = score_set(reference, hypothesis, read_table(utt2spk), tokenize, out_dir)
    return counts, len(reference.keys() - hypothesis.keys())
