"""Converts a GGUF file once to a model folder in the user's cache, which vLLM loads like any other."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from prep.errors import PrepError
from prep.files import user_cache
from prep.phrases.gguf_header import check_header
from prep.phrases.models import NO_MODEL_NEEDED, Model


def unpacked(model: Model) -> Model:
    """``model``, with the folder of a GGUF file's weights instead of the file."""
    file = Path(model.source)
    if file.suffix != ".gguf":
        return model
    return replace(model, source=str(folder_of(file, model.commit.removeprefix("sha256:"))))


def folder_of(file: Path, digest: str) -> Path:
    """The folder with the dequantised weights and the tokenizer of a GGUF file with this SHA-256.

    It is ``$XDG_CACHE_HOME/pcnet-prep/gguf/<digest>`` (float16), written once: to a temporary folder beside
    it, which is then renamed, so that processes that convert at the same time do no harm. Raises PrepError
    without the packages ``gguf`` and ``accelerate``, and for a file that transformers cannot convert.
    """
    base = user_cache() / "pcnet-prep" / "gguf"
    folder = base / digest[:32]
    if (folder / "config.json").is_file():
        return folder
    base.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=base, prefix=".making-"))
    try:
        _convert(file, made)
        made.rename(folder)
    except ImportError as error:
        raise PrepError(
            f"{file} cannot be converted: {error}.".replace("..", "."),
            f"Run pip install 'pcnet-prep[gguf]'. {NO_MODEL_NEEDED}",
        ) from error
    except OSError as error:
        if not (folder / "config.json").is_file():  # no other process was faster
            raise _unusable(file, error) from error
    except Exception as error:  # what a damaged or unknown file raises depends on the version
        raise _unusable(file, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _unusable(file: Path, error: Exception) -> PrepError:
    reason = (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300].rstrip(".")
    return PrepError(
        f"{file} cannot be converted ({reason}).",
        "Check the disk space of the cache folder; if it is enough, use a model folder in Hugging Face's "
        f"layout. {NO_MODEL_NEEDED}",
    )


def _convert(file: Path, folder: Path) -> None:
    """Write the model in ``file`` to ``folder``, dequantised to float16, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_header(file)
    where, name = str(file.parent), file.name
    loaded = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, dtype=torch.float16, trust_remote_code=False
    )
    config = loaded.config
    # The loaded model remembers that it was quantised, and would be saved as such.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(loaded)(config).to(torch.float16)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, gguf_file=name, trust_remote_code=False).save_pretrained(folder)
