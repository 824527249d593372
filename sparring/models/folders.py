"""From what the user named to a place where a model is: a folder, a finished run, or a hub id."""

import hashlib
import json
import os
from pathlib import Path

from sparring.core.errors import ModelError, did_you_mean

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
ADAPTER = "adapter_config.json"


def resolve(path: str) -> str:
    """Turn what the user named into a folder or a hub id: a run folder stands for the model in it.

    Raises ModelError when there is no such folder, naming the nearest one.
    """
    here = Path(path).expanduser()
    if (here / "run.yaml").is_file():
        if not (here / "model").is_dir():
            raise ModelError(
                f"{path}: this run has no finished model yet; finish it with `sparring train --resume --run {path}`"
            )
        return str(here / "model")
    if here.is_dir():
        return str(here)
    if here.exists():
        raise ModelError(f"{path}: a model is a folder, this is a file")
    if _may_be_a_hub_id(path):
        return path
    parent = here.parent if here.parent.is_dir() else Path(".")
    folders = [str(p) for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")]
    raise ModelError(f"{path}: no such model folder; {did_you_mean(path, folders)}")


def base_of(folder: str) -> tuple[str, str | None]:
    """The base model and, when the folder holds an adapter, the adapter's folder.

    Raises ModelError when the adapter does not say which model it belongs to, or that model is gone.
    """
    file = Path(folder) / ADAPTER
    if not file.is_file():
        return folder, None
    try:
        base = json.loads(file.read_text())["base_model_name_or_path"]
        found = resolve(base)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file}: does not say which model the adapter belongs to (base_model_name_or_path)"
        ) from error
    except ModelError as error:
        raise ModelError(f"{file}: the model that the adapter belongs to is not there ({error})") from error
    if not (Path(folder) / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder}: the adapter's weights are missing (adapter_model.safetensors)")
    return found, folder


def check_config(folder: str, said: str) -> None:
    """Raise ModelError unless a local folder says what its model is; hub ids pass."""
    here = Path(folder)
    if not here.is_dir():
        return
    if not (here / "config.json").is_file():
        names = sorted(p.name for p in here.iterdir())[:6]
        raise ModelError(f"{said}: no config.json in this folder, so it holds no model; it has {names or 'no files'}")
    try:
        json.loads((here / "config.json").read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{said}: its config.json is damaged ({error})") from error


def has_weights(folder: str) -> bool:
    """Whether a model can be loaded from here: a local folder with weights in the safe format, or a hub id."""
    here = Path(folder)
    return not here.is_dir() or any((here / name).is_file() for name in WEIGHTS)


def has_tokenizer(folder: str) -> bool:
    """Whether a tokenizer can be loaded from here: a local folder with its files, or a hub id."""
    here = Path(folder)
    return not here.is_dir() or any((here / name).is_file() for name in TOKENIZERS)


def check_folder(folder: str, said: str) -> None:
    """Raise ModelError unless a local folder holds a model in the safe format; hub ids pass."""
    check_config(folder, said)
    if not has_weights(folder):
        raise ModelError(
            f"{said}: no safetensors weights here (model.safetensors); other formats can run code when they are "
            "loaded and are refused"
        )


def whole_path(place: str) -> str:
    """A folder by its absolute path, so that it is found from anywhere; a hub id as it is."""
    return str(Path(place).resolve()) if Path(place).is_dir() else place


def hash_file(file: Path) -> str:
    """Hash a file as sha256sum does, without holding it."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def hash_files(folder: str) -> str | None:
    """Hash the files of weights in a local folder, and those that its adapter hangs on; None for a hub id."""
    if not Path(folder).is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        digest.update(f"{path.name}\0{hash_file(path)}\n".encode())
    below, adapter = base_of(folder)
    if adapter is not None:
        digest.update((hash_files(below) or below).encode())
    return digest.hexdigest()


def _may_be_a_hub_id(path: str) -> bool:
    if not path or path.startswith((".", "/", "~")) or (os.path.sep != "/" and os.path.sep in path):
        return False
    if path.count("/") == 1:
        return not Path(path).parent.is_dir()
    return "/" not in path and _is_cached(path)


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)
