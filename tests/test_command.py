"""The first ten minutes with the `spl` command: help, mistakes, classes, configurations, completion and log files."""

import inspect
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import own_modules
import pytest
import yaml
from commands import SMALL, command
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel
from torch import nn

from spl import criteria, data, initializers, isometry, networks, updates
from spl.cli import configs
from spl.cli.fit import parsers_of_fit
from spl.cli.flags import _announce_dropped
from spl.cli.help import _CLASSES, _TRAINER, page
from spl.cli.jsonargparse_private import flags, listed_classes
from spl.cli.progress import LogProgress, progress_bar
from spl.criteria import schedules
from spl.pruning import patterns, scopes

ROOT = Path(__file__).parents[1]
QUICK = ["--config", "quickstart", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUICK += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--spectrum.examples", "5"]
QUICK += ["--pruning.batches", "2"]
FITS = ("fit", "diagnose", "validate", "test", "predict")


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def parsers():
    return parsers_of_fit()


def configuration(*words):
    """Return what --print_config prints for quickstart and these flags."""
    ended = command("fit", "--config", "quickstart", *words, "--print_config")
    assert ended.code == 0, ended
    return yaml.safe_load(ended.output)


def refused(*words):
    """Return the one line on stderr of a command that ends with status 2."""
    ended = command(*words)
    assert (ended.code, ended.output) == (2, ""), ended
    assert ended.errors.count("\n") == 1, ended.errors
    assert ended.errors.startswith("spl: error: ")
    return ended.errors.removeprefix("spl: error: ").strip()


# Help


@pytest.mark.parametrize("name", FITS)
def test_help_is_one_page_of_80_columns(name, parsers):
    ended = command(name, "--help")
    assert ended.code == 0
    lines = ended.output.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 80
    assert "--help_all" in lines[-1]
    shown = re.findall(r"^  (--\S+)", ended.output, re.MULTILINE)
    assert len(shown) == len(set(shown)) > 50
    assert set(shown) - set(flags(parsers[name])) <= {"--data.batch_size"}  # an argument of the class


def test_help_shows_all_flags_of_our_groups_and_their_defaults(parsers):
    shown = dict(re.findall(r"^  --(\S+)\s((?:.*\n {10})*.*)", page("fit", "x"), re.MULTILINE))
    own = [flag[2:] for flag in flags(parsers["fit"]) if re.match(r"--(model|pruning|moving|spectrum)\.", flag)]
    assert len(own) > 25
    assert set(own) <= set(shown)
    defaults = parsers["fit"].get_defaults()
    for flag in own:
        told = re.search(r"\(default: ([^)]*)\)", " ".join(shown[flag].split()))
        value = defaults.get(flag)
        if isinstance(value, bool | None):
            assert told is None or yaml.safe_load(told[1]) == value, flag
        else:
            name = value if isinstance(value, str | int | float) else getattr(value, "__name__", None)
            name = value["class_path"] if name is None else name
            assert told is not None, flag
            assert told[1] == str(name).rpartition(".")[2] or told[1] == str(name), flag


@pytest.mark.parametrize(
    ("flag", "modules", "kind"),
    [
        ("model.network", [networks], nn.Module),
        ("model.initializer", [initializers], initializers.Initializer),
        ("pruning.criterion", [criteria], criteria.Criterion),
        ("pruning.scope", [scopes], scopes.Scope),
        ("pruning.pattern", [patterns], patterns.Pattern),
        ("pruning.schedule", [schedules], schedules.Schedule),
        ("pruning.isometry", [isometry], isometry.Correction),
        ("moving.update", [updates], updates.Update),
    ],
)
def test_help_names_the_classes_that_there_are(flag, modules, kind):
    names = set(re.findall(r"[A-Z]\w+", _CLASSES[flag])) - {"Net", "Module"}
    there = {
        name for module in modules for name, v in vars(module).items() if inspect.isclass(v) and issubclass(v, kind)
    }
    assert names <= there
    offered = {path.rpartition(".")[2] for path in listed_classes(kind) if not path.startswith("test_")}
    bases = {"FullyConnected", "DefaultIsometry", "Rectangles", "Elementwise", "LayerDensities", "DropAndGrow"}
    assert offered - names <= bases


def test_help_names_the_arguments_of_the_trainer():
    assert set(_TRAINER) <= set(inspect.signature(Trainer).parameters)


def test_help_waits_for_nothing():
    code = (
        "import resource, sys; from spl.__main__ import main\ntry: main(['fit', '--help'])\nexcept SystemExit: pass\n"
    )
    code += "print('torch' in sys.modules, resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    torch_is_there, seconds = ended.stderr.split()
    assert torch_is_there == "False"
    assert float(seconds) < 0.5


def test_all_flags_are_listed_without_the_modules_of_torch():
    ended = command("fit", "--help_all")
    assert ended.code == 0
    assert "\nTrainer of Lightning:\n" in ended.output
    assert "--trainer.sync_batchnorm" in ended.output
    assert "VGG16" in ended.output
    assert "torch.nn.ReLU" not in ended.output
    assert "ReLU6" not in ended.output
    assert len(ended.output.splitlines()) < 800


def test_help_about_a_class():
    ended = command("fit", "--pruning.criterion.help", "PHEW")
    assert ended.code == 0
    assert "--pruning.criterion.seed" in ended.output


# Mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fitt"], "There is no command fitt: did you mean fit?"),
        (["xyz"], "There is no command xyz: `spl --help` lists all."),
        (["configs", "all"], "`spl configs` takes no arguments, got all."),
        (
            ["fit", *QUICK, "--pruning.sparsty", "0.9"],
            "--pruning.sparsty is not a flag of spl fit: did you mean --pruning.sparsity?",
        ),
        (
            ["fit", *QUICK, "--pruing.sparsity=0.9"],
            "--pruing.sparsity is not a flag of spl fit: did you mean --pruning.sparsity?",
        ),
        (["fit", *QUICK, "--sparsity", "0.9"], "--sparsity is not a flag of spl fit: did you mean --pruning.sparsity?"),
        (
            ["fit", *QUICK, "--trainer.max_epoch", "3"],
            "--trainer.max_epoch is not a flag of spl fit: did you mean --trainer.max_epochs?",
        ),
        (["fit", *QUICK, "--zzz", "3"], "--zzz is not a flag of spl fit: `spl fit --help_all` lists all."),
        (
            ["fit", *QUICK, "stray"],
            "stray belongs to no flag of spl fit: flags begin with --. `spl fit --help_all` lists all.",
        ),
        (
            ["fit", *QUICK, "--pruning.criterion", "SynFlo"],
            "--pruning.criterion: there is no class SynFlo: did you mean SynFlow?",
        ),
        (["fit", *QUICK, "--model.network", "MLPP"], "--model.network: there is no class MLPP: did you mean MLP?"),
        (["fit", *QUICK, "--model.network", "vgg"], "--model.network: there is no class vgg: did you mean VGG16?"),
        (
            ["fit", *QUICK, "--model.network", "spl.networks.ResNt"],
            "--model.network: there is no ResNt in spl.networks: did you mean ResNet?",
        ),
        (
            ["fit", *QUICK, "--model.network", "nowhere.Net"],
            "--model.network: there is no module nowhere with a class Net: correct the path, or install its package.",
        ),
        (["fit", *QUICK, "--data", "MNISTSampl"], "--data: there is no class MNISTSampl: did you mean MNISTSample?"),
        (
            ["fit", *QUICK, "--model.network.dpth", "3"],
            "--model.network: MLP has no argument dpth: did you mean depth?",
        ),
        (
            ["fit", *QUICK, "--pruning.criterion", "RedrawnWeights"],
            "--pruning.criterion: RedrawnWeights needs more: give --pruning.criterion.criterion and "
            "--pruning.criterion.initializer.",
        ),
        (
            ["fit", *QUICK, "--pruning.criterion.seed", "3"],
            "--pruning.criterion.seed has no class to belong to: give --pruning.criterion first.",
        ),
        (["fit", *QUICK, "--pruning.sparsity", "much"], "--pruning.sparsity: expected float, got 'much'."),
        (["fit", *QUICK, "--pruning.batches", "few"], "--pruning.batches: expected int or null, got 'few'."),
        (
            ["fit", *QUICK, "--pruning.batch_norm", "evl"],
            "--pruning.batch_norm: expected one of eval, batch, got 'evl': did you mean eval?",
        ),
        (
            ["fit", *QUICK, "--model", "json.JSONDecoder"],
            "--model: json.JSONDecoder is not a subclass of LightningModule.",
        ),
        (
            ["fit", *QUICK, "--model", "own"],
            "--model: own is neither a file nor the path of a class, such as package.Class.",
        ),
        (
            ["fit"],
            "Something is missing: give --model.network and --data, or a configuration that has them, such as --config "
            "quickstart.",
        ),
        (
            ["fit", *QUICK, "--config", "{trainer: {max_epoch: 3}}"],
            "trainer.max_epoch in the configuration is not an option of spl fit: did you mean trainer.max_epochs?",
        ),
        (
            ["fit", *QUICK, "--config", "{pruning: {criterion: {class_path: SynFlo}}}"],
            "--pruning.criterion: there is no class SynFlo: did you mean SynFlow?",
        ),
        (
            ["fit", "--config", "quikstart"],
            "There is no file quikstart, and no configuration of this name: did you mean quickstart?",
        ),
        (["reproduce", "fg2"], "There is no 'fg2' in the paper: did you mean fig2?"),
        (["reproduce", "fig2", "--budgt", "smoke"], "--budgt is not a flag of spl reproduce: did you mean --budget?"),
        (
            ["reproduce", "fig2", "--budget", "smok"],
            "--budget: expected one of smoke, short, paper, got 'smok': did you mean smoke?",
        ),
        (["summary", "--ckpt_pth", "x"], "--ckpt_pth is not a flag of spl summary: did you mean --ckpt_path?"),
        (["summary"], "Something is missing: give --ckpt_path."),
        (
            ["export", "--ckpt_path", "x", "--to", "onx", "--output", "y"],
            "--to: expected one of dense, csr, 2:4, compact, onnx, sparse, got 'onx': did you mean onnx?",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(words, message):
    assert refused(*words) == message


def test_a_wrong_path_of_a_configuration_is_corrected_by_the_files_there():
    Path("configs").mkdir()
    Path("configs/mine.yaml").write_text("name: mine")
    assert refused("fit", "--config", "configs/mne.yaml").endswith("did you mean configs/mine.yaml?")


# Classes


def test_a_short_name_that_others_have_too_is_ours():
    import torchvision  # noqa: F401 (it has an MLP and a ResNet)

    assert configuration("--model.network", "ResNet")["model"]["network"]["class_path"] == "spl.networks.ResNet"
    assert configuration("--model.network", "MLP")["model"]["network"]["class_path"] == "spl.networks.MLP"


def test_a_short_name_that_others_have_too_is_that_of_torch():
    pytest.importorskip("bitsandbytes")  # it has an SGD

    assert configuration("--model.optimizer", "SGD")["model"]["optimizer"]["class_path"] == "torch.optim.SGD"
    assert (
        configuration("--model.optimizer", "Lion8bit")["model"]["optimizer"]["class_path"]
        == "bitsandbytes.optim.Lion8bit"
    )


def test_a_short_name_that_only_others_have_needs_its_path():
    pytest.importorskip("bitsandbytes")
    import pytorch_optimizer  # noqa: F401 (both have a Lion)

    told = refused("fit", "--config", "quickstart", "--model.optimizer", "Lion")
    assert re.match(r"--model.optimizer: several packages have a class Lion: give its path, [\w. ]+\.$", told)
    assert "pytorch_optimizer.Lion" in told
    assert "bitsandbytes.optim.Lion" in told


def test_a_package_that_cannot_be_imported_is_left_alone(tmp_path, monkeypatch):
    package = tmp_path / "half_imported"
    package.mkdir()
    (package / "__init__.py").write_text("import half_imported.layers\nraise RuntimeError('no driver')")
    (package / "layers.py").write_text("from torch import nn\nclass Layer(nn.Module): ...")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="no driver"):
        import half_imported  # noqa: F401 (leaves its module half_imported.layers behind)
    assert configuration("--model.network", "MLP")["model"]["network"]["class_path"] == "spl.networks.MLP"
    assert "there is no class MLQ" in refused("fit", "--config", "quickstart", "--model.network", "MLQ")


def defaults(kind):
    signature = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in signature if p.default is not p.empty}


BEFORE = """
model: {network: {class_path: MLP, init_args: {activation: relu}}}
data: {class_path: MNISTSample, init_args: {batch_size: 7}}
pruning:
  criterion: {class_path: Random, init_args: {seed: 3}}
  isometry: {class_path: ApproximateIsometry, init_args: {gain: 2.0}}
  pattern: {class_path: NM, init_args: {n: 1}}
"""


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("model.network", networks.LeNet300),
        ("data", data.MNIST),
        ("pruning.scope", scopes.SmartRatio),
        ("pruning.pattern", patterns.TransposableNM),
        ("pruning.isometry", isometry.EOI),
        ("pruning.criterion", criteria.PHEW),
    ],
)
def test_another_class_starts_from_its_own_defaults(group, kind):
    Path("before.yaml").write_text(BEFORE)
    found = configuration("--config", "before.yaml", f"--{group}", kind.__name__)
    for name in group.split("."):
        found = found[name]
    assert found["class_path"].endswith(f".{kind.__name__}")
    for name, value in defaults(kind).items():
        assert found["init_args"][name] == value or str(found["init_args"][name]) == str(value)


def test_the_optimizer_starts_from_its_own_defaults():
    words = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.5", "--model.optimizer", "Adam"]
    assert configuration(*words)["model"]["optimizer"]["init_args"]["lr"] == 0.001


def test_arguments_after_another_class_count():
    network = configuration("--model.network", "ResNet", "--model.network.in_channels", "1")["model"]["network"]
    assert network["init_args"]["in_channels"] == 1


def test_the_class_of_the_configuration_keeps_its_arguments():
    for name in ("MLP", "spl.networks.MLP", "spl.networks.fully_connected.MLP"):
        network = configuration("--model.network", name)["model"]["network"]
        assert (network["init_args"]["depth"], network["init_args"]["activation"]) == (7, "tanh")
    assert configuration("--model.network.depth", "3")["model"]["network"]["init_args"]["width"] == 100


def test_a_second_configuration_with_another_class_starts_from_its_defaults():
    second = "{model: {network: {class_path: MLP, init_args: {depth: 4}}}}"
    network = configuration("--config", "{model: {network: {class_path: VGG16}}}", "--config", second)["model"]
    assert network["network"]["init_args"] == defaults(networks.MLP) | {"depth": 4}


def test_flags_that_a_later_class_drops_are_told():
    ended = command("fit", "--config", "quickstart", "--data.batch_size", "7", "--data", "MNIST", "--print_config")
    assert ended.errors == (
        "spl: --data.batch_size no longer counts, because --data MNIST after it starts from the defaults of MNIST.\n"
    )


def test_nothing_is_told_where_nothing_is_dropped(capsys):
    _announce_dropped(
        ["fit", "--data", "MNIST", "--data.batch_size", "7"], [("spl.data.MNISTSample", "spl.data.MNIST")]
    )
    _announce_dropped(["fit", "--data.batch_size", "7", "--data", "MNISTSample"], [])
    assert capsys.readouterr().err == ""


# Configurations


def test_configurations_go_by_their_names_in_any_folder():
    for name in ("quickstart", "cifar10/resnet20_cs_ai", "mnist/tanh_vs_cs"):
        printed = command("fit", "--config", name, "--print_config")
        path = command("fit", "--config", ROOT / "configs" / f"{name}.yaml", "--print_config")
        assert printed.code == 0
        assert yaml.safe_load(printed.output) == yaml.safe_load(path.output)
    assert command("fit", "--config=quickstart", "-c", "options/bf16", "--print_config").code == 0


def test_a_file_in_the_folder_counts_first():
    Path("quickstart").write_text("name: mine")
    ended = command("fit", "--config", ROOT / "configs/quickstart.yaml", "--config", "quickstart", "--print_config")
    assert yaml.safe_load(ended.output)["name"] == "mine"


def test_later_configurations_and_flags_win():
    assert configuration("--config", "options/bf16")["trainer"]["precision"] == "bf16-mixed"
    assert configuration("--config", "options/bf16", "--trainer.precision", "64")["trainer"]["precision"] == 64


def test_parts_of_configurations_go_by_their_names():
    found = configuration("--model.network", "network/vgg16", "--data", "data/mnist")
    assert found["model"]["network"]["class_path"] == "spl.networks.VGG16"
    assert found["data"]["class_path"] == "spl.data.MNIST"


def test_configurations_are_listed_with_a_line_each():
    ended = command("configs")
    assert ended.code == 0
    lines = dict(re.findall(r"^  (\S+)  +(\S.*)$", ended.output, re.MULTILINE))
    assert (
        set(lines)
        == set(configs.names())
        == {str(path.relative_to(ROOT / "configs").with_suffix("")) for path in (ROOT / "configs").rglob("*.yaml")}
    )
    assert lines["quickstart"].startswith("Prune 90 %")
    assert str(ROOT / "configs") in ended.output


# A module of one's own


pytestmark = pytest.mark.filterwarnings("ignore:You passed in a .val_dataloader. but have no")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Put the module `own` in the current folder."""
    shutil.copy(own_modules.__file__, "own.py")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_a_module_of_ones_own_is_pruned_and_trained_and_its_run_repeated():
    ended = command("fit", *QUICK, "--model", "own.Module", "--model.width", 30)
    assert ended.code == 0, ended
    assert "network.1.weight" in ended.output
    run = Path("lightning_logs/quickstart/version_0")
    assert yaml.safe_load((run / "config.yaml").read_text())["model"] == {
        "class_path": "own.Module",
        "init_args": {"width": 30},
    }
    record = yaml.safe_load((run / "pruning.yaml").read_text())
    again = command("fit", "--config", run / "config.yaml")
    assert again.code == 0, again
    assert yaml.safe_load(Path("lightning_logs/quickstart/version_1/pruning.yaml").read_text()) == record


@pytest.mark.usefixtures("own")
def test_a_classifier_that_makes_its_network_itself():
    ended = command("fit", *QUICK, "--model", "own.Whole", "--model.width", 12, "--test_after_fit", "true")
    assert ended.code == 0, ended
    assert "accuracy/test" in ended.output
    said = command("summary", "--ckpt_path", "lightning_logs/quickstart/version_0/checkpoints/last.ckpt")
    assert said.code == 2
    assert "does not say how to build its network" in said.errors


@pytest.mark.usefixtures("own")
def test_a_module_with_data_and_without_forward():
    ended = command("fit", "--model", "own.WithData", "--trainer.max_epochs", 1, "--trainer.accelerator", "cpu",
                    "--pruning.sparsity", 0.5)  # fmt: skip
    assert ended.code == 0, ended
    assert "Jacobian" not in ended.output
    assert "error" in ended.output  # of the test after fit


@pytest.mark.usefixtures("own")
def test_what_a_module_of_ones_own_predicts_is_its_own():
    ended = command("predict", *QUICK, "--model", "own.Module")
    assert ended.code == 2
    assert "call trainer.predict(model, data) in Python" in ended.errors


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["Module", "WithData"])
def test_a_diagnosis_is_of_a_classifier(name):
    ended = command("diagnose", *QUICK, "--model", f"own.{name}")
    assert ended.code == 2
    assert f"spl diagnose measures a SparseClassifier, got {name}" in ended.errors


@pytest.mark.usefixtures("own")
def test_a_mistake_in_the_name_of_a_module():
    assert refused("fit", *QUICK, "--model", "own.Modul") == "--model: there is no Modul in own: did you mean Module?"


# Completion


def test_completion_without_shtab_says_what_to_install(monkeypatch):
    monkeypatch.setattr("spl.cli.completion.find_spec", lambda name: None)
    assert "pip install shtab" in refused("--print_completion", "bash")


def test_completion_of_another_shell_is_refused():
    assert refused("--print_completion", "fish") == "--print_completion takes one of bash, zsh, tcsh, got fish."
    assert refused("--print_completion") == "--print_completion takes one of bash, zsh, tcsh, got nothing."


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("shtab"), reason="shtab is not installed")
def test_bash_completes_commands_flags_and_classes():
    ended = command("--print_completion", "bash")
    assert ended.code == 0
    Path("completion.bash").write_text(ended.output)
    tried = """
    source completion.bash
    complete -p spl
    try() {
        COMP_WORDS=(spl "$@"); COMP_CWORD=$#; COMPREPLY=()
        _shtab_spl spl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; echo "${COMPREPLY[@]}"
    }
    try re; try conf; try fit --pruning.sp; try fit --pruning.criterion Syn; try fit --model.network V
    try export --to on
    """
    found = subprocess.run(["bash", "-c", tried], capture_output=True, text=True, check=True).stdout.splitlines()
    words = [line for line in found if line]
    assert words[1:] == ["reproduce", "configs", "--pruning.sparsity", "SynFlow", "VGG16", "onnx"]
    assert parsers_of_fit()["fit"].get_defaults().trainer.accelerator == "auto"  # parsers that are kept are as before


# Log files


def test_a_file_gets_one_line_in_thirty_seconds(capsys):
    now = 0.0

    class Slow(BoringModel):
        def on_train_batch_start(self, *_):
            nonlocal now
            now += 7.0

    options = dict.fromkeys(("logger", "enable_model_summary", "enable_checkpointing"), False)
    bar = LogProgress(clock=lambda: now)
    trainer = Trainer(callbacks=[bar], max_epochs=2, limit_train_batches=10, limit_val_batches=2, accelerator="cpu",
                      num_sanity_val_steps=2, **options)  # fmt: skip
    trainer.fit(Slow())
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 0: 5 of 10 batches, step 5, 0:00:35",
        "Epoch 0: 10 of 10 batches, step 10, 0:01:10",
        "Epoch 1: 5 of 10 batches, step 15, 0:01:45",
        "Epoch 1: 10 of 10 batches, step 20, 0:02:20",
        "Epoch 1: 10 of 10 batches, step 20, 0:02:20",
    ]
    trainer.test(Slow(), verbose=False)
    assert "batches" not in capsys.readouterr().out


def test_long_evaluations_are_counted(capsys):
    now = 0.0

    class Slow(BoringModel):
        def on_test_batch_start(self, *_):
            nonlocal now
            now += 40.0

    options = dict.fromkeys(("logger", "enable_model_summary", "enable_checkpointing"), False)
    bar = LogProgress(clock=lambda: now)
    Trainer(callbacks=[bar], limit_test_batches=2, accelerator="cpu", **options).test(Slow(), verbose=False)
    assert capsys.readouterr().out.splitlines() == ["Test: 1 batches", "Test: 2 batches"]


def test_a_terminal_gets_a_bar(monkeypatch):
    assert isinstance(progress_bar(), LogProgress)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert type(progress_bar()).__name__ == "TQDMProgressBar"


def test_a_fit_writes_few_lines_to_a_file():
    words = [word if word != "false" else "true" for word in map(str, SMALL)]
    ended = command("fit", *words, "--trainer.max_epochs", 3)
    assert ended.code == 0
    assert ended.output.count("Epoch") == 1
    assert "\r" not in ended.output
