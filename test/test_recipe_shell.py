"""The recipes' shell functions, job runner and progress display."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_hjprune.training import watch as progress
from espnet_hjprune.training.watch import DecodingProgress, Tail, TrainingProgress

ROOT = Path(__file__).resolve().parent.parent
RUN_LOCAL = ROOT / "utils" / "run_local.sh"
SCRIPTS = ROOT / "egs2/TEMPLATE/hjprune1/scripts"
STAMP = "2026-01-02 03:04:05,678 (trainer:811) INFO: "


def run_local(*arguments, **options):
    """Call the job runner."""
    return subprocess.run(
        [RUN_LOCAL, *map(str, arguments)], capture_output=True, text=True, **options
    )


def test_parallel_jobs_have_their_own_logs(tmp_path):
    log = tmp_path / "logs" / "job.JOB.log"
    result = run_local("--gpu", 0, "JOB=1:3", log, "bash", "-c", "echo number JOB; echo e JOB >&2")
    assert result.returncode == 0
    for job in (1, 2, 3):
        text = (tmp_path / "logs" / f"job.{job}.log").read_text()
        assert f"number {job}\ne {job}\n" in text
        assert "# Ended with status 0" in text


def test_a_failed_job_fails_the_whole(tmp_path):
    result = run_local("JOB=1:2", tmp_path / "JOB.log", "bash", "-c", "exit $((JOB - 1))")
    assert result.returncode == 1
    assert "# Ended with status 1" in (tmp_path / "2.log").read_text()


def test_words_stay_together(tmp_path):
    run_local(tmp_path / "log", "printf", "<%s>\n", "two words", "*")
    assert "<two words>\n<*>\n" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("arguments", [[], ["log"], ["--gpu"]])
def test_wrong_calls_are_explained(arguments, tmp_path):
    result = run_local(*arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: run_local.sh:")


def test_tail_gives_complete_lines_once(tmp_path):
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_text("one\ntw")
    assert list(tail.lines()) == ["one"]
    with path.open("a") as file:
        file.write("o\nthree\n")
    assert list(tail.lines()) == ["two", "three"]


def test_training_progress(tmp_path, capsys):
    path = tmp_path / "train.log"
    training = TrainingProgress(path, batches_per_epoch=50)
    assert training.update() == (0, "")
    path.write_text(
        "[host] 2026-01-01 00:00:00,000 (initial_loss:71) INFO: Loss of the first batch: 1\n"
        f"{STAMP}1/3epoch started\n"
        f"{STAMP}1epoch:train:1-10batch: iter_time=0.01, loss_ctc=9.512, loss=9.512, lr0=1e-4\n"
    )
    assert training.update() == (10, "loss_ctc=9.51 loss=9.51")
    assert capsys.readouterr().err == "Loss of the first batch: 1\n"
    with path.open("a") as file:
        file.write(
            f"{STAMP}1epoch results: [train] loss_ctc=8.0, loss=8.0, sparsity=0.1, "
            "time=1 minute and 3 seconds, total_count=50, "
            "[valid] loss_ctc=7.0, cer_ctc=0.5, acc=nan, time=2 seconds, total_count=3\n"
        )
    assert training.update() == (50, "loss_ctc=8 loss=8 sparsity=0.1 valid cer_ctc=0.5")


def test_decoding_progress(tmp_path):
    decoding = DecodingProgress(tmp_path, jobs=2)
    (tmp_path / "decode.1.log").write_text("best hypo: a\nother\nbest hypo: b\n")
    assert decoding.update() == (2, "")
    (tmp_path / "decode.2.log").write_text("best hypo: c\n")
    assert decoding.update() == (3, "")
    with (tmp_path / "decode.2.log").open("a") as log:
        log.write("2026-01-01 (decode:1) INFO: decoded 20 utterances in 1.234 s\n")
    assert decoding.update() == (23, "")


def test_following_ends_with_the_process(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)
    process = subprocess.Popen(["sleep", "2"])
    counts = iter(range(1, 1000))
    begin = time.monotonic()
    progress.follow(lambda: (next(counts), "loss=1"), 10, process.pid, "stage 3", "batch")
    assert 1.5 < time.monotonic() - begin < 4
    process.wait()
    lines = output.getvalue().splitlines()
    assert "batch, about 0:00:0" in lines[1] and lines[1].endswith("loss=1")


# The functions that hjprune.sh sources

PRELUDE = f"""set -euo pipefail
. {ROOT}/utils/common.sh
for part in options jobs stamps decoding; do . {SCRIPTS}/$part.sh; done
python=(./python)
"""
# Stands in for Python: waits for a process as recipe.watch does, and notes all other calls.
PYTHON = """#!/usr/bin/env bash
if [ "$2" = espnet_hjprune.bin.recipe.watch ]; then
    printf '%s\\n' "${@:5}" >watch.args
    while kill -0 "$4" 2>/dev/null; do sleep 0.02; done
else
    printf '%s\\n' "$@" >python.args
fi
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty directory to work in, with a stand-in for Python."""
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(script, *arguments, status=0, prelude=PRELUDE):
    """Run a script after the functions are sourced."""
    result = subprocess.run(
        ["bash", "-c", prelude + script, "test", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == status, result.stderr
    return result


def wait_for(condition):
    """Wait until something is true."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# utils/common.sh

TABLE = """define_options "./x [--stage 1..7]" <<'END'
General
  --stage 1       first stage
  --nj ""         jobs; empty: all of them
Other
  --score_types "wer cer"     what is
                  counted by --nothing at all
  --model valid.loss.ave.pth  a model
END
renamed_options=([criterion]=stage [old_name]=model)
parse_options "$@"
printf '%s\\0' "${stage}" "${nj}" "${score_types}" "${model}" "${option_names[*]}"
"""
DEFAULTS = ["1", "", "wer cer", "valid.loss.ave.pth", "stage nj score_types model", ""]


def parse(*arguments):
    """The values that a few options get."""
    return shell(TABLE, *arguments).stdout.split("\0")


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ([], {}),
        (["--stage", "3", "--nj", "two words"], {0: "3", 1: "two words"}),
        (["--score-types", "ter", "--model="], {2: "ter", 3: ""}),
        (["--model=a=b --c", "--score_types=$(date)"], {3: "a=b --c", 2: "$(date)"}),
        (["--stage", "--nj", "--nj", ""], {0: "--nj", 1: ""}),
        (["--stage", "1", "--stage", "2"], {0: "2"}),
    ],
)
def test_options_are_parsed(arguments, changed):
    assert parse(*arguments) == [
        changed.get(number, value) for number, value in enumerate(DEFAULTS)
    ]


def test_what_an_option_is_called_now_is_said():
    printed = shell(TABLE, "--criterion", "7", "--old-name=m").stdout
    assert "--criterion is called --stage now" in printed
    assert "--old-name is called --model now" in printed
    values = printed.rpartition("now\n")[2].split("\0")
    assert (values[0], values[3]) == ("7", "m")


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")))
def test_any_value_survives(value):
    assert parse("--nj", value, f"--model={value}")[1::2] == [value, value, ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nothing", "1"], "there is no option --nothing; --help lists the options"),
        (["--no=1"], "there is no option --no; --help lists the options"),
        (["--option_names", "1"], "there is no option --option_names"),
        (["--", "1"], "there is no option --;"),
        (["--=1"], "there is no option --;"),
        (["--stage nj", "1"], "there is no option --stage nj;"),
        (["--stage"], "the option --stage needs a value"),
        (["--stage", "1", "stop"], "the argument 'stop' is not expected; options are given as"),
        (["-x"], "the argument '-x' is not expected"),
        ([""], "the argument '' is not expected"),
    ],
)
def test_wrong_options_are_explained(arguments, message):
    result = shell(TABLE, *arguments, status=2)
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1 and not result.stdout


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_prints_the_table(option):
    printed = shell(TABLE, "--stage", "2", option).stdout
    table = TABLE[TABLE.index("General") : TABLE.index("END\nrenamed")]
    assert printed == f"Usage: ./x [--stage 1..7]\n\n{table}"


@pytest.mark.parametrize(
    ("arguments", "after"),
    [
        ([], False),
        (["--nj", "1"], True),
        (["--stage", "1"], False),
        (["--nj", "1", "--stage", "2"], False),
        (["--stage", "1", "--model", "m", "--nj", "2", "--model", "m"], True),
        (["--nj", "1", "--criterion", "2"], False),
    ],
)
def test_the_later_of_two_options_is_known(arguments, after):
    last = shell(TABLE + "given_after nj stage && echo yes || echo no", *arguments).stdout
    assert last.rpartition("\0")[2] == ("yes\n" if after else "no\n")


def test_ends_with_one_sentence(place):
    assert shell("die some words", status=1).stderr == "error: some words\n"
    assert shell("die_of_usage some words", status=2).stderr == "error: some words\n"
    sentence = "error: no thing is missing; make it\n"
    assert shell('need "no thing" "make it"', status=1).stderr == sentence
    shell('need python "make it"; need . "make it"')
    wrong = shell("a=true; b=True; check_flags a b", status=2)
    assert wrong.stderr == "error: --b must be true or false, not 'True'\n"


def test_log_lines_look_like_espnets():
    printed = shell("work() { log two  words; }; work", prelude=PRELUDE).stdout
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d \(.*:\d+:work\) two words\n", printed)


# scripts/options.sh


def test_options_are_completed_by_a_command(place):
    script = """
        option_names=(a b c)
        a= b="x  y" c='$(date)'
        answer() { printf '%s\\n' "$@" >given; printf 'a=1=2 \\nnew= x  \\nb=\\n'; }
        complete_options answer --first
        printf '<%s>' "${a}" "${b}" "${c}" "${new}"
    """
    assert shell(script).stdout == "<1=2 ><><$(date)>< x  >"
    assert (place / "given").read_text() == "--first\na=\nb=x  y\nc=$(date)\n"


def test_the_status_of_the_command_is_passed_on():
    script = "option_names=(a); a=1; no() { echo a=2; return 2; }; complete_options no; echo on"
    assert shell(script, status=2).stdout == ""


def test_words_are_split(place):
    script = """
        a=" one  two * " b= c='\\x "y z"' d="python3 -X dev"
        split_words a b c d
        echo "${#a[@]} ${#b[@]} ${#c[@]}"
        printf '<%s>' "${a[@]}" "${c[@]}" "${d}" "${d[@]}"
    """
    words = '<one><two><*><\\x><"y><z"><python3><python3><-X><dev>'
    assert shell(script).stdout == f"3 0 3\n{words}"


# scripts/stamps.sh

MAKE = """
    dir=$1
    shift
    if unfinished "${dir}" "$@"; then
        echo MADE
        echo "$*" >>"${dir}/made"
        finish "${dir}"
    fi
"""


def test_finished_work_is_skipped(place):
    assert "MADE" in shell(MAKE, "exp/a", "x", "y z").stdout
    stamp = (place / "exp/a/.done").read_text()
    again = shell(MAKE, "exp/a", "x", "y z").stdout
    assert "exp/a is finished already; skipping (remove exp/a/.done to repeat it)" in again
    assert "MADE" not in again and (place / "exp/a/.done").read_text() == stamp
    (place / "exp/a/.done").unlink()
    assert "MADE" in shell(MAKE, "exp/a", "x", "y z").stdout
    assert (place / "exp/a/made").read_text() == "x y z\nx y z\n"
    assert (place / "exp/a/.done").read_text() != stamp
    assert not (place / "exp/.replaced").exists()


def test_interrupted_work_goes_on_in_its_directory(place):
    shell("unfinished exp/a x; echo 1 >exp/a/checkpoint; exit 0")
    assert "MADE" in shell(MAKE, "exp/a", "x").stdout
    assert (place / "exp/a/checkpoint").exists()


@pytest.mark.parametrize("other", [["x", "z"], ["x"], ["x y"], ["x", "y", ""]])
@pytest.mark.parametrize("finished", [True, False])
def test_what_other_inputs_made_is_set_aside(place, other, finished):
    shell(MAKE, "exp/a", "x", "y")
    if not finished:
        (place / "exp/a/.done").unlink()
    printed = shell(MAKE, "exp/a", *other).stdout
    # A last input that is empty leaves no trace.
    if other == ["x", "y", ""]:
        assert "other options or inputs" not in printed
        return
    assert "exp/a was made with other options or inputs; moving it to exp/.replaced/a." in printed
    (aside,) = (place / "exp/.replaced").iterdir()
    assert (aside / "made").read_text() == "x y\n"
    assert (place / "exp/a/made").read_text() == " ".join(other) + "\n"


TRAIN_LONGER = """
    dir=$1 epochs=$2
    shift 2
    if unfinished_training "${dir}" "${epochs}" "$@"; then
        echo TRAINED
        echo "${epochs} $*" >>"${dir}/checkpoint.pth"
        [ "${killed:-no}" = yes ] || finish "${dir}"
    fi
"""
GOES_ON = "exp/a goes on where it was, to 5 epochs instead of 3"


@pytest.mark.parametrize("killed", ["yes", "no"])
def test_a_training_with_more_epochs_goes_on(place, killed):
    shell(f"killed={killed}{TRAIN_LONGER}", "exp/a", 3, "x", "y z", "")
    printed = shell(TRAIN_LONGER, "exp/a", 5, "x", "y z", "").stdout
    assert GOES_ON in printed and "TRAINED" in printed
    assert (place / "exp/a/checkpoint.pth").read_text() == "3 x y z \n5 x y z \n"
    assert "skipping" in shell(TRAIN_LONGER, "exp/a", 5, "x", "y z", "").stdout
    assert not (place / "exp/.replaced").exists()


@pytest.mark.parametrize(
    ("first", "change", "second"),
    [
        ([3, "x", "y"], ":", [5, "x", "z"]),
        ([3, "x", "y"], ":", [5, "x"]),
        ([3, "x", "y"], ":", [5, "x", "y", "5"]),
        ([3, "x", "y"], ":", [2, "x", "y"]),
        # Without a checkpoint there is nothing to go on from.
        ([3, "x", "y"], "rm exp/a/checkpoint.pth", [5, "x", "y"]),
        # A directory that was made by other means.
        ([3, "x", "y"], "printf 'x\\ny\\n' >exp/a/.options", [5, "x", "y"]),
    ],
)
def test_a_training_with_other_options_or_fewer_epochs_starts_over(place, first, change, second):
    shell(TRAIN_LONGER + change, "exp/a", *first)
    printed = shell(TRAIN_LONGER, "exp/a", *second).stdout
    assert "made with other options or inputs; moving it to exp/.replaced/a." in printed
    assert "goes on" not in printed and "TRAINED" in printed
    words = " ".join(map(str, second))
    assert (place / "exp/a/checkpoint.pth").read_text() == f"{words}\n"


def test_two_runs_keep_apart_where_one_has_more_epochs(place):
    shell(TRAIN_LONGER, "exp/a", 3, "x")
    before = (place / "exp/a/.done").read_text()
    with recipe_with_job("exp/b") as (run, _):
        (place / "exp/b/.running").rename(place / "exp/a/.running")
        refused = shell(TRAIN_LONGER, "exp/a", 5, "x", status=1)
        assert f"another run (process {run.pid}) is at work in exp/a" in refused.stderr
    assert (place / "exp/a/.done").read_text() == before


def test_settings_are_all_but_the_number_of_epochs(place):
    def settings_of(text):
        (place / "a.yaml").write_text(text)
        return shell("settings_checksum a.yaml").stdout

    plain = settings_of("a: 1\nb: {max_epoch: 3}\n")
    for line in ("max_epoch: 3", "max_epoch:  40 # long"):
        assert settings_of(f"a: 1\n{line}\nb: {{max_epoch: 3}}\n") == plain, line
    others = (
        "a: 2\nb: {max_epoch: 3}\n",
        "a: 1\nb: {max_epoch: 4}\n",
        "a: 1\nmax_epoch: &epochs 3\nb: {max_epoch: 3}\n",
        "a: 1\nmax_epochs: 3\nb: {max_epoch: 3}\n",
    )
    assert len({plain, *map(settings_of, others)}) == 1 + len(others)


def test_a_place_that_cannot_be_written_is_no_finished_work(place):
    (place / "exp").write_text("a file")
    result = shell(MAKE + "echo on", "exp/a", "x", status=1)
    assert "error: exp/a cannot be made or written to" in result.stderr
    assert "on" not in result.stdout.split()
    shell(MAKE, "dir/a", "x")
    (place / "dir/.replaced").write_text("a file")
    result = shell(MAKE, "dir/a", "y", status=1)
    assert "error: dir/a cannot be moved to dir/.replaced/a." in result.stderr


def make_data(place, audio="a.wav"):
    """A data directory of two utterances."""
    (place / "data").mkdir()
    for name in ("a.wav", "b c.wav", "x.ark"):
        (place / name).write_text("RIFF")
    (place / "data/wav.scp").write_text(f"u1 {audio}\nu2  b c.wav\n")
    (place / "data/text").write_text("u1 A\nu2 B\n")


def test_checksums_see_what_changes(place):
    make_data(place)
    sums = set()

    def changed():
        before = len(sums)
        sums.add(shell("checksum data/*; data_checksum data").stdout.split("\n")[1])
        return len(sums) > before

    assert changed()
    assert not changed()
    for name in ("text", "segments", "utt2spk", "transcript", "wav.scp"):
        with (place / "data" / name).open("a") as file:
            file.write(f"u3 {name}\n")
        assert changed(), name
    os.utime(place / "b c.wav", (1, 1))
    assert changed()
    (place / "a.wav").write_text("RIFFRIFF")
    os.utime(place / "a.wav", (1, 1))
    assert changed()
    (place / "a.wav").write_text("RIFF")
    os.utime(place / "a.wav", (1, 1))
    assert changed()
    (place / "a.wav").unlink()
    assert changed()
    (place / "data/other").write_text("x")
    assert not changed()


def test_checksums_see_archives_and_links(place):
    make_data(place, audio="x.ark:3")
    first = shell("data_checksum data").stdout
    os.utime(place / "x.ark", (1, 1))
    second = shell("data_checksum data").stdout
    assert first != second
    (place / "b c.wav").rename(place / "real")
    (place / "b c.wav").symlink_to("real")
    os.utime(place / "real", (2, 2))
    assert shell("data_checksum data").stdout not in (first, second)


def test_checksums_of_files(place):
    (place / "one").write_text("1")
    (place / "two").write_text("2")
    sums = [shell(f"checksum {files}").stdout for files in ("one", "two", "one two", "two one")]
    assert len(set(sums)) == 4
    assert "data_checksum" not in shell("data_checksum nothing").stderr


def test_places_of_the_corpora(place, monkeypatch):
    (place / "db.sh").write_text(
        "# CORPUS=no\nCORPUS=${CORPUS:-downloads}\nOTHER_2=${OTHER_2:-}\nlower=1\n"
    )
    for name in ("CORPUS", "OTHER_2"):
        monkeypatch.delenv(name, raising=False)
    assert shell("corpus_places").stdout == "CORPUS=downloads\nOTHER_2=\n"
    monkeypatch.setenv("CORPUS", "/else where")
    monkeypatch.setenv("OTHER", "x")
    script = "corpus_places; echo ${lower:-none}"
    assert shell(script).stdout == "CORPUS=/else where\nOTHER_2=\nnone\n"
    (place / "db.sh").write_text("# Nothing\n")
    assert shell("corpus_places").stdout == ""


# scripts/jobs.sh

# A job that says who it is and waits; its directories are among its arguments, as in the recipes.
WAITS = "bash -c 'echo $$ >job.pid; sleep 60; :' job"


@contextmanager
def recipe_with_job(*dirs):
    """A run of the recipe that waits for its job; gives the run and the job's number."""
    for name in dirs:
        Path(name).mkdir(parents=True)
    script = f'start_job "$@" -- {WAITS} "$@"; wait_job --title x'
    command = ["bash", "-c", PRELUDE + script, "./hjprune.sh", *dirs]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, start_new_session=True, **quiet)
    try:
        wait_for(lambda: Path("job.pid").exists() and Path("job.pid").read_text())
        yield run, int(Path("job.pid").read_text())
    finally:
        run.kill()
        run.wait()
        for group in (run.pid, int(Path("job.pid").read_text())):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def test_a_job_leaves_a_note_while_it_runs(place):
    script = """
        mkdir a "b c"
        start_job a "b c" -- bash -c 'cat a/.running "b c/.running"; echo $$; exit 3'
        status=0
        wait_job --title "two words" || status=$?
        echo "$$ ${status} <${job_group}>"
        ls -A a "b c"
    """
    lines = shell(script).stdout.split("\n")
    group, recipe = lines[0].split(" ")
    assert lines == [f"{group} {recipe}"] * 2 + [group, f"{recipe} 3 <>", "a:", "", "b c:", ""]
    assert (place / "watch.args").read_text() == "--title\ntwo words\n"


def test_arguments_of_a_job_stay_together(place):
    script = """start_job -- printf '<%s>' "a b" '*' '' '$x'; wait_job"""
    assert shell(script).stdout == "<a b><*><><$x>"


@pytest.mark.parametrize("name", ["exp/a", "c++ [x]/a_(0.4)"])
def test_the_job_of_a_killed_run_is_stopped(place, name):
    with recipe_with_job(name, "second") as (run, job):
        note = f"{job} {run.pid}\n"
        assert [Path(d, ".running").read_text() for d in (name, "second")] == [note] * 2
        run.kill()
        run.wait()
        assert progress.is_running(job)
        for number, directory in enumerate((name, "second")):
            printed = shell(MAKE, directory, "x").stdout
            stopped = f"Stopping the job that an interrupted run left behind in {directory}"
            assert (stopped in printed) == (number == 0)
            assert "MADE" in printed
            assert not Path(directory, ".running").exists()
        assert not progress.is_running(job)


def test_two_runs_keep_apart(place):
    with recipe_with_job("exp/a") as (run, job):
        refused = shell(MAKE, "exp/a", "x", status=1)
        sentence = f"another run (process {run.pid}) is at work in exp/a; wait for it or stop it"
        assert refused.stderr == f"error: {sentence}\n"
        assert progress.is_running(job) and Path("exp/a/.running").exists()
        assert not Path("exp/a/.options").exists()


def test_a_run_that_is_stopped_stops_its_job(place):
    with recipe_with_job("exp/a") as (run, job):
        run.terminate()
        assert run.wait(timeout=10) == 130
        wait_for(lambda: not progress.is_running(job))
        # The next run makes nothing of the note.
        assert "Stopping" not in shell(MAKE, "exp/a", "x").stdout
        assert not Path("exp/a/.running").exists()


@pytest.mark.parametrize("note", ["{group} 4194999", "{group}", "", "x y z", "\n"])
def test_other_processes_are_left_alone(place, note):
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    Path("exp/a").mkdir(parents=True)
    Path("exp/a/.running").write_text(note.format(group=other.pid))
    printed = shell(MAKE, "exp/a", "x").stdout
    assert "MADE" in printed and "Stopping" not in printed
    assert other.poll() is None and not Path("exp/a/.running").exists()
    other.kill()
    other.wait()


TRAIN = f"""
    train_cmd="{RUN_LOCAL} --mem 1G" cuda_cmd="{RUN_LOCAL} --gpu_type a"
    mkdir -p exp/a
    run_training "stage 3: x" exp/a bash -c 'echo "$@"; exit "${{wanted:-0}}"' train "a b"
    echo done
"""


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_training_logs_beside_its_results(place, gpus):
    printed = shell(f"ngpu={gpus} num_nodes=1\n{TRAIN}").stdout
    assert "stage 3: x: the log is exp/a/train.log\n" in printed and printed.endswith("done\n")
    log = (place / "exp/a/train.log").read_text()
    assert "\na b\n# Ended with status 0" in log
    watched = ["--title", "stage 3: x", "--log", "exp/a/train.log", "--steps", "exp/a/steps.json"]
    assert (place / "watch.args").read_text() == "\n".join(watched) + "\n"
    shell(f"ngpu={gpus} num_nodes=1\n{TRAIN}")
    assert (place / "exp/a/train.1.log").read_text() == log


@pytest.mark.parametrize(("ngpu", "num_nodes"), [(2, 1), (0, 2), (1, 2)])
def test_several_gpus_or_machines_need_espnets_launcher(place, ngpu, num_nodes):
    shell(f"ngpu={ngpu} num_nodes={num_nodes}\n{TRAIN}")
    assert (place / "python.args").read_text().removesuffix("\n").split("\n") == [
        "-m", "espnet2.bin.launch", "--cmd", f"{RUN_LOCAL} --gpu_type a --name a",
        "--log", "exp/a/train.log", "--ngpu", str(ngpu), "--num_nodes", str(num_nodes),
        "--init_file_prefix", "exp/a/.dist_init_", "--multiprocessing_distributed", "true", "--",
        "bash", "-c", 'echo "$@"; exit "${wanted:-0}"', "train", "a b",
    ]  # fmt: skip


def test_a_failed_training_ends_with_its_last_lines(place):
    result = shell(f"ngpu=0 num_nodes=1\nexport wanted=3\n{TRAIN}", status=1)
    assert "done" not in result.stdout
    last = "a b\nerror: the job ended without saying why (log: exp/a/train.log)\n"
    assert result.stderr.endswith(last)
    assert not (place / "exp/a/.running").exists()


def test_a_command_that_is_missing_ends_with_a_sentence(place):
    script = TRAIN.replace(str(RUN_LOCAL), "./queue.pl")
    result = shell(f"ngpu=0 num_nodes=1\n{script}", status=1)
    assert "queue.pl" in result.stderr
    sentence = "error: the job ended without saying why (log: exp/a/train.log)"
    assert result.stderr.endswith(f"{sentence}\n")


def test_logs_are_numbered_from_the_newest(place):
    for text in ("one", "two", "three", "four"):
        (place / "train.log").write_text(text)
        shell("rotate_log ./train.log")
    shell("rotate_log ./train.log")
    kept = {path.name: path.read_text() for path in place.glob("train*")}
    names = ("train.1.log", "train.2.log", "train.3.log", "train.4.log")
    assert kept == dict(zip(names, ("four", "three", "two", "one"), strict=True))
    # Where the user has removed some, the older ones stay as they are.
    (place / "train.2.log").unlink()
    (place / "train.log").write_text("five")
    shell("rotate_log ./train.log")
    kept = {path.name: path.read_text() for path in place.glob("train*")}
    assert kept == dict(zip(names, ("five", "four", "two", "one"), strict=True))


TRACEBACK = """error: an old one
Traceback (most recent call last):
  File "x.py", line 3, in <module>
espnet_hjprune.errors.HJPruneError: a.yaml: the option: is wrong; mend it
# Ended with status 1 at some time
"""


@pytest.mark.parametrize(
    ("log", "shown", "reason"),
    [
        ("# cmd\nwords\nerror: a: b\nmore\n", "", "a: b"),
        (TRACEBACK, "", "a.yaml: the option: is wrong; mend it"),
        (TRACEBACK.replace("HJPrune", "Usage"), "", "a.yaml: the option: is wrong; mend it"),
        ("x\nKeyError: 1\n# Ended with\n", "x\nKeyError: 1\n", ""),
        ("asr_train.py: error: argument --x: bad\n# Ended with\n", "", "argument --x: bad"),
        ("".join(f"{i}\n" for i in range(20)), "".join(f"{i}\n" for i in range(5, 20)), ""),
        ("an error: in a line\n", "an error: in a line\n", ""),
        ("\0bytes\nerror: x\n", "", "x"),
        ("# Ended with\n", "", ""),
        ("", "", ""),
        (None, "", ""),
    ],
)
def test_the_reason_is_found_in_the_log(place, log, shown, reason):
    if log is not None:
        (place / "x.log").write_text(log)
    result = shell("die_with_log x.log", status=1)
    reason = reason or "the job ended without saying why"
    assert result.stderr == f"{shown}error: {reason} (log: x.log)\n"


def python_log(source, after="# Ended with status 1 at some time\n"):
    """A log of what Python itself prints when it ends with an exception."""
    printed = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert printed.returncode != 0
    return f"# Started\nerror: an earlier one\nwords\n{printed.stderr}{after}"


LOADER = """
import torch
class Data(torch.utils.data.Dataset):
    def __len__(self): return 2
    def __getitem__(self, index): return {}[index]
if __name__ == "__main__":
    list(torch.utils.data.DataLoader(Data(), num_workers=1))
"""
LATER = "x.py:254: UserWarning: leaked\n  warnings.warn('a: b')\n# Ended with status 1\n"


@pytest.mark.parametrize(
    ("source", "after", "reason"),
    [
        (
            "'3e-4' <= 0",
            LATER,
            "TypeError: '<=' not supported between instances of 'str' and 'int'",
        ),
        ("assert 1 > 2", "", "AssertionError"),
        ("raise ValueError('no\\n\\n  more words')", "", "ValueError: no"),
        ("raise ValueError('no:\\n\\tone\\n\\t two\\n')", "", "ValueError: no: one two"),
        ("raise ValueError('\\n\\nall words')", LATER, "ValueError: all words"),
        (
            "import json; json.loads('x')",
            "",
            "json.decoder.JSONDecodeError: Expecting value: line 1",
        ),
        ("try: {}[1]\nexcept KeyError: [][2]", "", "IndexError: list index out of range"),
        ("try: {}[1]\nexcept KeyError as e: raise OSError('why') from e", "", "OSError: why"),
        ("raise ValueError('long ' * 99)", "", f"{('ValueError: ' + 'long ' * 99)[:281]}..."),
        (LOADER, "", "KeyError: 0"),
    ],
)
def test_the_reason_of_a_traceback_is_its_last_line(place, source, after, reason):
    for prefix in ("", "[rank1]: "):
        log = python_log(source, after)
        log = "".join(f"{prefix}{line}" for line in log.splitlines(keepends=True))
        (place / "x.log").write_text(log)
        said = shell("die_with_log x.log", status=1).stderr
        assert said.startswith(f"error: the job ended with {reason}"), log
        assert said.endswith(" (log: x.log)\n") and said.count("\n") == 1


KILLED = "error: the system killed the job, as it does where memory runs out; make batches smaller"


def test_a_killed_job_is_told_from_one_that_fails(place):
    script = TRAIN.replace("exit ", "kill -9 $$; ")
    result = shell(f"ngpu=0 num_nodes=1\n{script}", status=1)
    assert result.stderr.splitlines()[-1].startswith(KILLED)
    assert "# Ended with status 137" in (place / "exp/a/train.log").read_text()
    # As Kaldi's scripts note it, and where the script that notes it is killed too.
    for line in ("# Ended (code 137) at", "# Ended (signal 9) at"):
        (place / "x.log").write_text(f"Traceback (most recent call last):\nKeyError: 1\n{line}\n")
        assert shell("die_with_log x.log 1", status=1).stderr.startswith(KILLED)
    (place / "x.log").write_text("words\n")
    assert shell("die_with_log x.log 137", status=1).stderr.startswith(KILLED)
    (place / "x.log").write_text("# Ended (signal 15)\n")
    assert "without saying why" in shell("die_with_log x.log 143", status=1).stderr
    result = shell("mkdir a; run_job a bash -c 'kill -9 $$'; echo on", status=1)
    assert result.stderr.endswith(
        "error: the system killed the job of a, as it does where memory runs out\n"
    )
    assert "on" not in result.stdout
    assert shell("mkdir -p a; run_job a bash -c 'exit 3'; echo on", status=3).stdout == ""


# scripts/decoding.sh

SETTINGS = f"""
    raw_dir=raw test_sets=(one two) inference_asr_model=m.pth decode_tag=decode decoder=batched
    inference_config=decode.yaml inference_args=(--ngram=lm.arpa --beam 3) score_types=(wer cer)
    inference_nj=3 gpu_inference=false decode_cmd={RUN_LOCAL} cuda_cmd="{RUN_LOCAL} --gpu_type a"
"""
# Notes what it is given, and "recognises" its utterances.
WORKER = """#!/usr/bin/env bash
echo "${OMP_NUM_THREADS} $*" >"args.$1"
for set in one two; do
    [ ! -e "exp/decode/${set}/logdir/keys.$1.scp" ] ||
        sed "s/^/$1 ${set} /" "exp/decode/${set}/logdir/keys.$1.scp" >>"decoded.$1"
done
[ ! -e fail ] || [ "$1" != "$(cat fail)" ] || { echo "error: no luck"; exit 1; }
"""


@pytest.fixture
def trained(place):
    """A model, and two test sets of five and two utterances."""
    for name, count in (("one", 5), ("two", 2)):
        (place / "raw" / name).mkdir(parents=True)
        lines = [f"{name}{number} {name}.wav\n" for number in range(count)]
        (place / "raw" / name / "wav.scp").write_text("".join(lines))
        (place / "raw" / name / "text").write_text("".join(lines))
        (place / f"{name}.wav").write_text("RIFF")
    (place / "exp").mkdir()
    for name in ("exp/m.pth", "exp/.done", "lm.arpa", "words.txt"):
        (place / name).write_text("1")
    (place / "decode.yaml").write_text("search: beam\nlexicon: words.txt  # words\n")
    (place / "worker").write_text(WORKER)
    (place / "worker").chmod(0o755)
    return place


LIST = f"""{SETTINGS}
    list_undecoded exp >log
    echo "${{decode_exps[*]}} ${{decode_data[*]}} ${{decode_dirs[*]}}"
"""
ALL = "exp exp raw/one raw/two exp/decode/one exp/decode/two\n"
ONE = "exp raw/one exp/decode/one\n"


def test_what_is_decoded_is_left_out(trained):
    assert shell(LIST).stdout == ALL
    shell("finish exp/decode/two")
    assert shell(LIST).stdout == ONE
    shell("finish exp/decode/one")
    assert shell(LIST).stdout.strip() == ""


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ("echo 2 >lm.arpa", ALL),
        ("echo 2 >words.txt", ALL),
        ("echo 2 >exp/.done", ALL),
        ("echo nbest: 2 >>decode.yaml", ALL),
        ("inference_args+=(--nbest 2)", ALL),
        ("decoder=espnet", ALL),
        ("score_types=(wer)", ALL),
        ("echo one9 x >>raw/one/text", ONE),
        ("touch -d yesterday one.wav", ONE),
        ("inference_nj=1", "\n"),
    ],
)
def test_other_inputs_decode_again(trained, change, left):
    shell(LIST + "for dir in exp/decode/*; do finish $dir; done")
    listed = shell(LIST.replace("list_undecoded", f"{change}; list_undecoded")).stdout
    assert listed.split() == left.split()


def test_missing_models_and_sets_are_named(trained):
    (trained / "raw/two/wav.scp").unlink()
    sentence = "error: raw/two/wav.scp is missing; run stage 2 first\n"
    assert shell(LIST, status=1).stderr == sentence
    (trained / "exp/m.pth").unlink()
    sentence = "error: exp/m.pth is missing; choose another --inference_asr_model\n"
    assert shell(LIST, status=1).stderr == sentence


def decode(indices="0 1", status=0, settings=""):
    """Decode with a stand-in."""
    script = f"{LIST}{settings}\nrun_decoding exp/decode/logdir {indices} -- ./worker JOB 'a b'"
    return shell(f"{script}; echo done", status=status)


def decoded(place):
    """Jobs of every utterance."""
    lines = "".join(path.read_text() for path in place.glob("decoded.*")).split("\n")[:-1]
    jobs = {}
    for job, name, utterance, _ in (line.split(" ") for line in lines):
        jobs.setdefault((name, utterance), []).append(int(job))
    return jobs


@pytest.mark.parametrize(("jobs", "expected"), [(1, 1), (2, 2), (3, 2), (9, 2)])
def test_every_utterance_is_decoded_once(trained, jobs, expected):
    assert decode(settings=f"inference_nj={jobs}").stdout.endswith("done\n")
    found = decoded(trained)
    assert set(found) == {(n, f"{n}{i}") for n, c in (("one", 5), ("two", 2)) for i in range(c)}
    assert all(len(numbers) == 1 for numbers in found.values())
    used = {number for numbers in found.values() for number in numbers}
    assert used == set(range(1, expected + 1))
    for name in ("one", "two"):
        assert {number for (n, _), (number,) in found.items() if n == name} == used
    words = "1 a b --ngpu 0 --config decode.yaml --ngram=lm.arpa --beam 3\n"
    assert (trained / "args.1").read_text() == f"1 {words}"
    watched = f"--title decoding --decode_logs exp/decode/logdir --jobs {expected} --utterances 7"
    assert (trained / "watch.args").read_text().split() == watched.split()
    assert not list(trained.glob("exp/**/.running"))


def test_one_set_is_decoded_by_as_many_jobs_as_it_allows(trained):
    decode(indices="0", settings="gpu_inference=true")
    assert len(decoded(trained)) == 5
    assert "--ngpu 1 " in (trained / "args.3").read_text()
    assert not (trained / "exp/decode/two/logdir").exists()


def test_keys_of_an_earlier_decoding_are_gone(trained):
    decode(settings="inference_nj=2")
    for path in trained.glob("decoded.*"):
        path.unlink()
    decode(settings="inference_nj=1")
    assert sorted(p.name for p in trained.glob("exp/decode/one/logdir/*")) == ["keys.1.scp"]
    assert len(list(trained.glob("exp/decode/logdir/decode.*.log"))) == 1


def test_a_failed_job_gives_its_sentence(trained):
    (trained / "fail").write_text("2")
    result = decode(status=1)
    assert result.stderr == "error: no luck (log: exp/decode/logdir/decode.2.log)\n"
    assert "done" not in result.stdout.split()
    assert not list(trained.glob("exp/**/.running"))


def test_a_decoding_without_logs_ends_with_a_sentence(trained):
    result = decode(status=1, settings="decode_cmd=./queue.pl")
    assert result.stderr.endswith("\n")
    assert "error: the job ended without saying why" in result.stderr


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12))
def test_utterances_are_dealt_out(tmp_path_factory, count, jobs):
    jobs = min(jobs, count)
    directory = tmp_path_factory.mktemp("deal")
    lines = [f"u{number} a b\u2028c.wav" for number in range(count)]
    (directory / "wav.scp").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (directory / "logdir").mkdir()
    (directory / "logdir/keys.99.scp").write_text("old")
    shell('split_keys "$1/wav.scp" "$1/logdir" "$2"', directory, jobs)
    parts = [directory / f"logdir/keys.{job}.scp" for job in range(1, jobs + 1)]
    assert set((directory / "logdir").iterdir()) == set(parts)
    dealt = [part.read_text(encoding="utf-8").removesuffix("\n").split("\n") for part in parts]
    assert sorted(line for part in dealt for line in part) == sorted(lines)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
