"""The command line as a whole: help, unknown commands, completion, what is imported."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmx.cli.commands import COMMANDS, available, command, find, unknown
from lmx.cli.completion import candidates
from lmx.cli.main import run
from tests.support import CONF

ROOT = Path(__file__).parents[2]


def lmx(*words: str, cwd: Path | None = None, **environment: str):
    return subprocess.run(
        [sys.executable, "-m", "lmx", *words],
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--help"], {}),
        (["train", "--help"], {}),
        (["train", "model.n_layer=3"], {}),
        (["train", "--cfg", "job", "--resolve"], {}),
        (["trian"], {}),
        (["-sc", "query=bash"], {"COMP_LINE": "lmx train model.n"}),
    ],
)
def test_nothing_of_jax_is_imported_for_answers_about_configuration(words, environment, tmp_path):
    code = (
        "import sys\nfrom lmx.cli.main import run\n"
        f"code = run({words!r})\n"
        "heavy = {'jax', 'numpy', 'optax', 'grain', 'orbax', 'matplotlib', 'tensorboardX'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.rstrip().endswith("HEAVY []")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["trainer.profile.start=2", "trainer.profile.steps=1"], "  profile:\n    start: 2\n    steps: 1\n"),
        (["mesh.axes={data:2,context:2}"], "  axes:\n    data: 2\n    context: 2\n"),
        (["mesh.axes.context=2"], "    context: 2\n"),
    ],
)
def test_a_key_that_no_file_sets_needs_no_sign(words, shown, tmp_path):
    done = lmx("train", "--cfg", "job", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


def test_help_of_the_front_page_needs_next_to_nothing():
    code = "import sys\nfrom lmx.cli.main import run\nrun(['--help'])\n"
    code += "assert not {'hydra', 'pydantic', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_front_page_names_every_command(capsys):
    assert run(["--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for name, entry in available().items():
        assert name in page
        assert entry.summary in page


@pytest.mark.parametrize("name", sorted(available()))
def test_every_command_has_its_parts(name):
    this = command(name)
    assert this.name == name
    assert this.summary == COMMANDS[name].summary
    assert (ROOT / "conf" / f"{this.primary}.yaml").is_file()
    assert this.schema_class().model_fields


@pytest.mark.parametrize("name", sorted(available()))
def test_every_command_has_a_page(name):
    from lmx.cli.help import command_page

    page = command_page(command(name))
    assert page.startswith(f"lmx {name}: ")
    assert max(len(line) for line in page.splitlines()) <= 110


def test_the_page_of_train_shows_groups_options_and_five_examples():
    from lmx.cli.help import command_page

    page = command_page(command("train"))
    for group in (
        "model",
        "optimizer",
        "schedule",
        "mesh",
        "data",
        "tokenizer",
        "trainer",
        "checkpoint",
        "logging",
    ):
        assert f"\n  {group}\n" in page
        for path in (ROOT / "conf" / group).glob("[!_]*.yaml"):
            assert re.search(rf"[ \n]{path.stem}[ ,\n]", page)
    assert len(command("train").examples) == 5


def test_unknown_commands_name_the_nearest():
    done = lmx("trian", "model=gpt2")
    assert done.returncode == 2
    assert done.stderr.startswith("lmx: there is no command 'trian'\n    try: lmx train model=gpt2\n")
    assert "try: lmx train model=gpt2" in unknown(["model=gpt2"])
    assert "which of prepare, inspect?" in unknown(["data"])
    assert find(["launch", "statsu"])[0] is None
    assert "try: lmx launch status" in unknown(["launch", "statsu"])
    assert find(["launch", "model=tiny"]) == ("launch", ["model=tiny"])
    assert "try: lmx data inspect" in unknown(["data", "inpect"])


def test_commands_of_two_words_are_found():
    assert find(["data", "inspect", "step=3"]) == ("data inspect", ["step=3"])
    assert find(["train"]) == ("train", [])
    assert find(["zzz"]) == (None, [])


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    shell = f"{sys.executable} -m lmx train --help | head -1"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lmx tra", ["train "]),
        ("lmx data ", ["prepare ", "inspect "]),
        ("lmx train mod", ["model.", "model="]),
        ("lmx train trainer=", ["trainer=debug ", "trainer=default "]),
        ("lmx train model=_", []),
        ("lmx train model=gpt2 optimizer=mu", ["optimizer=muon "]),
        ("lmx train output=", ["output=json ", "output=text "]),
        ("lmx train model.tie_embeddings=f", ["model.tie_embeddings=false "]),
        ("lmx train trainer.global_b", ["trainer.global_batch_size="]),
        ("lmx train --cf", ["--cfg "]),
        ("lmx train -m trainer.compute_dtype=bf", ["trainer.compute_dtype=bfloat16 "]),
    ],
)
def test_completion(line, expected):
    assert candidates(line) == expected


def test_completion_of_run_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/a", "runs/b", "sweeps/s/0", "elsewhere/c"):
        Path(folder).mkdir(parents=True)
        Path(folder, "config.yaml").write_text("{}")
    Path("runs/notes").mkdir()
    assert candidates("lmx train resume=") == ["resume=runs/a ", "resume=runs/b ", "resume=sweeps/s/0 "]
    assert candidates("lmx train resume=sw") == ["resume=sweeps/s/0 "]
    assert candidates("lmx generate from=else") == []
    assert candidates("lmx generate from=elsewhere/") == ["from=elsewhere/c "]


def test_completion_works_in_bash(tmp_path):
    script = tmp_path / "try.sh"
    script.write_text(
        f'lmx() {{ {sys.executable} -m lmx "$@"; }}\n'
        'eval "$(lmx --completion bash)"\n'
        "try() { COMP_LINE=$1; COMP_POINT=${#1}; COMPREPLY=(); _lmx_complete; printf '%s\\n' \"${COMPREPLY[*]}\"; }\n"
        "try 'lmx tra'\n"
        "try 'lmx train optimizer=ada'\n"
        "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}\n"
        "try 'lmx train optimizer=ada'\n"
    )
    done = subprocess.run(
        ["bash", str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:3] == [
        "train ",
        "adafactor  adamw ",
        "optimizer=adafactor  optimizer=adamw ",
    ]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not on this machine")
def test_completion_works_in_fish(tmp_path):
    (tmp_path / "books").mkdir()
    script = (
        f"function lmx; {sys.executable} -m lmx $argv; end; lmx --completion fish | source; "
        "for line in 'lmx tra' 'lmx train optimizer=ada' 'lmx train data.path=boo'; complete -C $line; end"
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        "train",
        "optimizer=adafactor",
        "optimizer=adamw",
        "data.path=books/",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell, capsys):
    assert run(["--completion", shell]) == 0
    first = capsys.readouterr().out
    assert f"query={shell}" in first
    assert run(["-sc", f"install={shell}"]) == 0
    assert capsys.readouterr().out == first


def test_an_unknown_shell_is_refused(capsys):
    assert run(["--completion", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_lmx_schema_writes_a_schema_for_every_group(tmp_path):
    done = lmx("schema", f"to={tmp_path}/schemas", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = {path.stem for path in (tmp_path / "schemas").glob("*.json")}
    assert {
        "train",
        "model",
        "optimizer",
        "schedule",
        "mesh",
        "data",
        "tokenizer",
        "trainer",
        "experiment",
    } <= written
    assert [p.name for p in tmp_path.iterdir()] == ["schemas"]


def test_a_large_group_is_a_list_of_names_on_the_page_and_described_on_its_own():
    from lmx.cli.help import command_page

    page, own = command_page(command("train")), command_page(command("train"), ["--help", "model"])
    assert "llama3_8b" in page
    assert "8.03B parameters" not in page
    assert "8.03B parameters" in own
    assert "schedule" not in own
    assert len(page.splitlines()) < 260


@pytest.mark.parametrize("path", sorted(CONF.glob("*/[!_]*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_option_says_what_it_is(path):
    from lmx.config.files import description_of_file

    assert description_of_file(path)


def test_a_run_can_be_named_by_its_place_alone():
    for name in ("generate", "chat", "eval", "export"):
        assert command(name).with_implied(["runs/RUN", "which=best"]) == ["from=runs/RUN", "which=best"]
    left_out = ["from=a", "temperature", "2"]
    assert command("generate").with_implied(left_out) == left_out
