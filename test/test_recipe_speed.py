"""Speed perturbation."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_hjprune.data.datadir import read_table
from espnet_hjprune.data.speed import perturb_speed
from espnet_hjprune.errors import HJPruneError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A second of 400 Hz, and a broken file."""
    directory = tmp_path / "train"
    directory.mkdir()
    tone = 0.5 * np.sin(2 * np.pi * 400 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "tone.flac", tone, 16000)
    (tmp_path / "broken.flac").write_text("no audio")
    lines = f"a {tmp_path}/tone.flac\nb {tmp_path}/broken.flac\n"
    (directory / "wav.scp").write_text(lines)
    (directory / "text").write_text("a ONE\nb TWO\n")
    (directory / "utt2spk").write_text("a s\nb s\n")
    return directory


def test_copies_are_shorter_or_longer_and_higher_or_lower(data: Path, tmp_path: Path):
    output = tmp_path / "train_sp"
    assert perturb_speed(data, output, [0.9, 1.0, 1.1], nj=1) == 4
    wav_scp = read_table(output / "wav.scp")
    assert wav_scp["a"] == str(tmp_path / "tone.flac")
    for factor in (0.9, 1.1):
        samples, rate = soundfile.read(wav_scp[f"sp{factor}-a"])
        assert rate == 16000 and len(samples) == pytest.approx(16000 / factor, abs=2)
        frequency = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
        assert frequency == pytest.approx(400 * factor, abs=2)
    assert read_table(output / "text")["sp1.1-a"] == "ONE"
    assert read_table(output / "utt2spk")["sp1.1-a"] == "sp1.1-s"
    assert "sp1.1-b" not in wav_scp and "b" in wav_scp


def test_odd_factors_are_refused(data: Path, tmp_path: Path):
    with pytest.raises(HJPruneError, match=r"factor 3.0 is not between"):
        perturb_speed(data, tmp_path / "out", [1.0, 3.0])
    assert not (tmp_path / "out").exists()
