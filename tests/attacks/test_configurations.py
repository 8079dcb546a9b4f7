"""YAML and words of the command line: no tag is followed, nothing hangs, and messages can be printed."""

import re
from pathlib import Path

import pytest
from commands import command

from attacks import QUICK, refused
from attacks.test_stray_files import CONFIGS

YAML = {
    **{name: (text, "error: ") for name, text in CONFIGS.items() if text is not None},
    "laughs": (CONFIGS["laughs"], "it has more than 100,000 values"),
    "itself": (CONFIGS["itself"], "the alias a is not defined before it is used"),
    "digits": (CONFIGS["digits"], "limit|digits"),
    "bytes": (CONFIGS["bytes"], "is no text in UTF-8"),
    "surrogates": ("name: \udcff".encode("utf8", "surrogatepass"), "is no text in UTF-8"),
    "long hexadecimal": (b"seed_everything: 0x" + b"f" * 5000, "seed_everything is a number of 20000 bits"),
    "deep block": (b"".join(b" " * i + b"- \n" for i in range(200)), "more than 100 levels"),
    "wide": (b"a: [" + b"1," * 100_001 + b"]", "more than 100,000 values"),
    "a tag of a name": (b"name: !!python/name:os.system x", "could not determine a constructor"),
    "a new object": (b"name: !!python/object/new:os.mkdir [canary]", "could not determine a constructor"),
    "a function": (b"trainer: {callbacks: [{class_path: os.mkdir, init_args: {path: canary}}]}", "error: "),
    "a logger": (b"trainer: {logger: {class_path: os.mkdir, init_args: {path: canary}}}", "error: "),
    "a null byte": (b'name: "a\\0b"', r"name is 'a\\x00b', which cannot name a folder"),
    "an escape": (b'name: "\\e[2J"', r"name is '\\x1b\[2J', which cannot name a folder"),
    "a folder above": (b"name: ../../x", r"name is '\.\./\.\./x', and a run's logs stay in lightning_logs"),
    "an absolute folder": (b"name: /tmp/x", "and a run's logs stay in lightning_logs"),
    "a long name": (b"name: " + b"x" * 5000, "name is 'x{50,}, which cannot name a folder"),
    "a file as a folder": (b"trainer: {default_root_dir: /dev/null/x}", "Not a directory: /dev/null/x"),
    "an escaping checkpoint": (b'ckpt_path: "\\e[31mx"', r"There is no checkpoint \\x1b\[31mx"),
}


@pytest.mark.parametrize(("text", "match"), YAML.values(), ids=YAML)
def test_a_hostile_configuration_is_refused(text, match):
    Path("hostile.yaml").write_bytes(text)
    ended = command("fit", *QUICK, "--config", "hostile.yaml")
    assert ended.code == 2, ended
    assert ended.errors.count("error: ") == 1
    assert not [c for c in ended.errors if not (c.isprintable() or c == "\n")]
    message = ended.errors[ended.errors.index("error: ") :]
    assert re.search(match, message), message
    assert not Path("lightning_logs").exists()


ESCAPE, LONG = "\x1b[2J", "x" * 5000
WORDS = [
    (["summary", "--ckpt_path", ESCAPE], r"There is no checkpoint \\x1b\[2J"),
    (["summary", "--ckpt_path", LONG], r"File name too long: x+… \(500\d characters\): it cannot be used"),
    (["summary", "--ckpt_path", "a\0b"], r"There is no checkpoint a\\x00b"),
    (["summary", "--ckpt_path", "\udcff"], "There is no checkpoint"),
    (["export", "--ckpt_path", "x", "--to", "sparse", "--output", LONG], "File name too long"),
    (["fit", *QUICK, "--ckpt_path", ESCAPE], r"There is no checkpoint \\x1b\[2J"),
    (["fit", *QUICK, "--name", "a/../../../b"], "a run's logs stay in lightning_logs"),
    (["fit", *QUICK, "--trainer.default_root_dir", LONG], "File name too long"),
    (["fit", *QUICK, "--trainer.default_root_dir", "/proc/x"], "No such file or directory: /proc/x"),
    (["fit", *QUICK, "--data", "MNIST", "--data.root", LONG, "--data.download", "false"], "File name too long"),
    (["fit", *QUICK, "--model.network", ESCAPE], r"\\x1b\[2J|Parser key"),
    (["test", *QUICK, "--ckpt_path", "best"], "Give --ckpt_path the path of a checkpoint"),
    (["reproduce", ESCAPE], r"There is no '\\x1b\[2J' in the paper"),
    (["reproduce", "fig2", "--output", "/dev/null/x", "--jobs", "0"], "jobs must be at least 1"),
    ([ESCAPE], "error: "),
]


@pytest.mark.parametrize(("words", "match"), WORDS, ids=range(len(WORDS)))
def test_hostile_words_are_refused_in_one_printable_line(words, match):
    refused(match, *words)
