"""What `trainables` may import: no Ray and no Optuna anywhere but in ray_train, and no torch for a configuration."""

import re
import subprocess
import sys
from pathlib import Path

from tests.trainables.pictures import write_folders, write_parquets


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_module_imports_without_ray_and_optuna():
    run(
        "import importlib, pkgutil, sys\n"
        "for name in ('ray', 'optuna', 'tuner'):\n"
        "    sys.modules[name] = None\n"
        "import trainables\n"
        "names = [module.name for module in pkgutil.walk_packages(trainables.__path__, 'trainables.')]\n"
        "assert len(names) > 25, names\n"
        "for name in names:\n"
        "    if name != 'trainables.ray_train':\n"
        "        importlib.import_module(name)\n"
    )


def test_a_configuration_and_its_data_are_checked_without_torch():
    run(
        "import sys\n"
        "for name in ('torch', 'torchvision', 'sklearn', 'pyarrow', 'ray', 'optuna'):\n"
        "    sys.modules[name] = None\n"
        "from trainables.config import discovery, trial as config\n"
        "from trainables.data.check import check_data\n"
        "check_data(config.parse({}))\n"
        "for name in discovery.names('data.sets'):\n"
        "    trial = config.parse({'data': {'name': name, 'root': 'nowhere'}})\n"
        "    try:\n"
        "        check_data(trial)\n"
        "    except ValueError:\n"
        "        continue\n"
        "    assert name == 'digits', name\n"
    )


def test_images_and_labels_are_looked_at_without_torch(tmp_path: Path):
    write_parquets(tmp_path / "parquet", [23, 17], 5)
    write_folders(tmp_path / "imagefolder", 40)
    (tmp_path / "list.txt").write_text("1\n3\n")
    run(
        "import sys\n"
        "for name in ('torch', 'torchvision', 'sklearn', 'ray', 'optuna'):\n"
        "    sys.modules[name] = None\n"
        "from trainables.config import trial as config\n"
        "from trainables.data.check import check_data\n"
        "for name in ('parquet', 'imagefolder'):\n"
        f"    data = {{'name': name, 'root': '{tmp_path}/' + name, 'image_size': 6}}\n"
        f"    data['labels'] = {{'file': '{tmp_path}/list.txt'}}\n"
        "    check_data(config.parse({'data': data, 'train': {'batch_size': 4, 'shard_size': 2}}))\n"
    )


def test_a_configuration_imports_nothing_above_it():
    """Files of other rooms are loaded by their names, as plugins, and no module of `config` names one."""
    named = re.compile(r"^\s*(?:from|import) trainables\.(?!config\b)", re.MULTILINE)
    room = Path(__file__).parents[2] / "trainables" / "config"
    modules = [*room.rglob("*.py")]
    assert len(modules) > 15
    assert not [module.name for module in modules if named.search(module.read_text())]
