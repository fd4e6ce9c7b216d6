"""The arrows between the parts point one way, and ground truth stays out of training's reach."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import parsed

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [*sorted((ROOT / "prep").rglob("*.py")), *sorted((ROOT / "pcnet").rglob("*.py"))]
# `python -m prep` is an entry point like `pcnet-prep`: it stands above `cli`, and nothing imports it.
SOURCES = [ROOT / "cli.py", *(path for path in PACKAGES if path.name != "__main__.py")]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imports(path: Path) -> set[str]:
    """Every module and library that a file imports, inside functions too, type-only imports left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        plain = isinstance(node, ast.If) and isinstance(node.test, ast.Name | ast.Attribute)
        if plain and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            # `from package import module` loads the module; the package's own imports are lazy (PEP 562).
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else node.module for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(parsed(path))
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}
STAGES_DO_WITHOUT = (
    "prep.cache.store",
    "prep.cache.answers",
    "prep.cache.writer",
    "prep.engine",
    "prep.datasets",
    "ray",
)


def reachable(start: str) -> set[str]:
    """The project modules that importing and running ``start`` can load."""
    seen, queue = set(), [start]
    while queue:
        name = queue.pop()
        if name in seen or name not in IMPORTS:
            continue
        seen.add(name)
        queue.extend(IMPORTS[name])
    return seen


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


# From the bottom up: a part may import parts of the layers before its own, and itself.
LAYERS = {
    "prep": [
        ("errors", "records", "devices", "moved", "display"),
        ("inputs", "allocator"),
        ("files", "hints", "images", "pictures", "torchscript", "weights"),
        ("hub",),
        ("stage",),
        ("masks",),
        ("cache",),
        ("engine", "datasets"),
        ("phrases", "proposals", "pages"),
        ("scores", "concepts", "released", "exports", "audit", "demo", "machine", "loaders"),
        ("commands",),
    ],
    "pcnet": [
        ("data", "maps", "metrics", "config"),
        ("losses",),
        ("recipes",),
        ("model",),
        ("evaluation", "training"),
        ("report",),
        ("commands",),
    ],
}


@pytest.mark.parametrize("program", LAYERS)
def test_parts_import_lower_layers_only(program: str) -> None:
    rank = {part: at for at, parts in enumerate(LAYERS[program]) for part in parts}
    arrows = {
        (name, target)
        for name, targets in IMPORTS.items()
        for target in targets
        if name.startswith(program + ".") and target.startswith(program + ".")
    }
    assert {name.split(".")[1] for name in MODULES if name.startswith(program + ".")} == set(rank)
    upwards = {
        (name, target)
        for name, target in arrows
        if (own := name.split(".")[1]) != (other := target.split(".")[1]) and rank[other] >= rank[own]
    }
    assert upwards == set()


def test_there_are_no_import_circles() -> None:
    """Modules that reach each other, imports inside functions included: none but a module and itself."""
    reached = {name: reachable(name) for name in IMPORTS}
    pairs = [(a, b) for a in reached for b in reached[a] if a < b and a in reached[b]]
    assert pairs == []
    assert [name for name, targets in IMPORTS.items() if name in targets] == []


@pytest.mark.parametrize(
    ("importer", "forbidden"),
    [
        ("prep", ("pcnet", "cli")),
        (
            "pcnet",
            ("cli", "prep.phrases.job", "prep.proposals.stage", "prep.engine.local", "prep.engine.runner"),
        ),
        ("prep.phrases", ("prep.proposals", "prep.scores", "prep.datasets", "prep.pages")),
        ("prep.proposals", ("prep.phrases", "prep.scores", "prep.pages")),
        ("prep.scores", ("prep.phrases", "prep.pages", "prep.datasets")),
        ("prep.concepts", ("prep.phrases", "prep.scores", "prep.pages", "prep.datasets")),
        ("prep.concepts.stage", STAGES_DO_WITHOUT),
        ("prep.proposals.stage", STAGES_DO_WITHOUT),
        ("prep.phrases.stage", STAGES_DO_WITHOUT),
        ("prep.scores.stage", STAGES_DO_WITHOUT),
        ("prep.cache", ("prep.engine", "prep.datasets", "torch", "ray")),
        ("prep.engine", ("prep.datasets", "prep.phrases", "prep.proposals", "torch")),
        ("prep.masks", ("prep.cache", "torch", "ray")),
        ("prep.datasets", ("prep.engine", "torch", "ray")),
        ("prep.pages", ("torch", "ray")),
        ("prep.exports", ("torch", "ray", "prep.engine", "prep.proposals", "prep.scores", "prep.released")),
        (
            "pcnet.training",
            ("pcnet.evaluation", "pcnet.report", "prep.datasets", "prep.exports", "prep.pages", "prep.demo"),
        ),
        ("prep.loaders", ("ray", "prep.engine", "prep.datasets", "prep.proposals", "prep.phrases")),
        *(
            (f"pcnet.{part}", ("prep.commands",))
            for part in ("data", "model", "training", "evaluation", "report")
        ),
        (
            "pcnet.model",
            (
                "pcnet.evaluation",
                "pcnet.training",
                "pcnet.report",
                "prep.datasets",
                "prep.pages",
                "prep.demo",
            ),
        ),
        ("pcnet.data", ("pcnet.evaluation", "pcnet.model", "pcnet.training", "prep.datasets", "prep.pages")),
        ("pcnet.evaluation", ("pcnet.training", "pcnet.report")),
    ],
)
def test_arrows_point_one_way(importer: str, forbidden: tuple[str, ...]) -> None:
    """However many files lie between."""
    starts = [name for name in MODULES if within(name, importer)]
    assert starts
    found = {
        f"{start} reaches {target}"
        for start in starts
        for name in reachable(start)
        for target in {name, *IMPORTS[name]}
        if any(within(target, package) for package in forbidden)
    }
    assert found == set()


def test_only_the_engine_imports_ray() -> None:
    users = {name for name, targets in IMPORTS.items() if any(t.split(".")[0] == "ray" for t in targets)}
    assert users == {"prep.engine.ray_pool", "prep.engine.ray_connect"}


def test_ground_truth_is_reached_by_evaluation_and_pages_alone() -> None:
    readers = (
        "prep.datasets.truth", "prep.demo", "prep.exports", "prep.pages", "pcnet.evaluation", "pcnet.report",
    )  # fmt: skip
    # The commands that call them. `train` hands a validator to the trainer, which itself reaches none.
    callers = ("cli", "prep.commands.export", "prep.commands.look", "pcnet.commands")
    allowed = (*readers, *callers)
    users = [name for name in MODULES if "prep.datasets.truth" in reachable(name)]
    assert users
    assert [name for name in users if not any(within(name, package) for package in allowed)] == []


@pytest.mark.parametrize(
    "start",
    [
        "pcnet.training.trainer",
        "pcnet.training.distill",
        "pcnet.data.table",
        "pcnet.data.target_masks",
        "pcnet.losses",
        "pcnet.model.pcnet",
    ],
)
def test_training_reaches_no_ground_truth(start: str) -> None:
    assert start in IMPORTS
    assert [n for n in reachable(start) if within(n, "prep.datasets") or within(n, "pcnet.evaluation")] == []


@pytest.mark.parametrize(
    ("call", "place"),
    [("Image.open", "prep/images.py"), (".frPyObjects", "prep/datasets/segmentation.py")],
)
def test_images_and_segmentations_are_read_in_one_place(call: str, place: str) -> None:
    users = set()
    for path in SOURCES:
        if call.rpartition(".")[2] not in path.read_text(encoding="utf-8"):
            continue
        calls = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call))
        if any(f".{ast.unparse(node.func)}".endswith(call) for node in calls):
            users.add(path.relative_to(ROOT).as_posix())
    assert users == {place}


WRITERS = {
    "write_text", "write_bytes", "touch", "save", "savez", "savez_compressed", "savetxt", "tofile",
    "write_table", "ParquetWriter", "save_file", "save_pretrained", "to_parquet", "to_csv", "to_json_file",
    "copy2", "copyfile", "copytree", "urlretrieve", "extractall", "extract", "SummaryWriter",
}  # fmt: skip
MEMORY = ("BytesIO()", "io.BytesIO()", "pa.BufferOutputStream()")
# Files that are written under their own name, and why this is safe.
WRITTEN_IN_PLACE = {
    "prep/cache/lock.py: os.open(path, os.O_RDWR | os.O_CLOEXEC)": "asks for the lock of a file",
    "prep/commands/init.py: open(file, 'x', encoding='utf-8')": "refuses a name that exists, links included",
    "prep/phrases/gguf.py: plain.save_pretrained(folder)": "a new folder, renamed when it is whole",
    "prep/phrases/gguf.py: AutoTokenizer.from_pretrained(where, gguf_file=name, "
    "trust_remote_code=False).save_pretrained(folder)": "the same folder",
    "pcnet/training/boards.py: SummaryWriter(str(folder / 'tensorboard'), purge_step=start + 1, "
    "flush_secs=10)":
    "TensorBoard makes a file of a new name for each run",
}  # fmt: skip


def writes_in_place(text: str) -> set[str]:
    """The calls of a source file that write a file by its name, not to a stream of `prep.files.replacing`."""
    tree = ast.parse(text)
    # Memory, and what `with replacing(...) as file`, `with output.open(...) as file` or a caller gives.
    streams = {"files", "writer.files", "self.files"}  # a store's, whose own method writes whole files
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            if ast.unparse(node.context_expr).partition("(")[0].rpartition(".")[2] in ("replacing", "open"):
                streams.add(node.optional_vars.id)
        elif isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) == "BinaryIO":
            streams.add(node.arg)
        elif (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value) in MEMORY
        ):
            streams.update(ast.unparse(target) for target in node.targets)
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name not in WRITERS | {"open", "ZipFile"}:
            continue
        given = [ast.unparse(argument) for argument in node.args]
        given += [ast.unparse(keyword.value) for keyword in node.keywords]
        if name in ("open", "ZipFile"):
            modes = [text for text in given if text[:1] in "'\"" and set(text.strip("'\"")) <= set("rwaxbt+")]
            writing = any(set(mode) & set("wax+") for mode in modes)
            writing |= any(flag in " ".join(given) for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND"))
        else:
            writing = not streams & set(given)
            # Not a function or a method of our own.
            writing &= name != "save" or (bool(given) and isinstance(node.func, ast.Attribute))
        if writing:
            found.add(ast.unparse(node))
    return found


def test_only_one_module_writes_files_under_their_own_name() -> None:
    """All others use its functions, so that no reader sees half a file and no link is followed."""
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {call}"
        for path in SOURCES
        if path != ROOT / "prep" / "files.py"
        for call in writes_in_place(path.read_text(encoding="utf-8"))
    }
    assert found == set(WRITTEN_IN_PLACE)


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "path.open('ab')",
        "open(path, mode='r+')",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "path.write_text(text)",
        "path.write_bytes(b'')",
        "image.save(path)",
        "image.save(path, format='PNG')",
        "torch.save(state, path)",
        "np.save(path, array)",
        "np.savez(path, a=array)",
        "pq.write_table(table, path)",
        "shutil.copyfile(a, b)",
        "path.touch()",
        "zipfile.ZipFile(path, 'w')",
    ],
)
def test_a_write_under_a_final_name_is_found(line: str) -> None:
    assert len(writes_in_place(line)) == 1
    stream = "with replacing(path) as file:\n    "
    assert not writes_in_place("open(path)\nstore.save()\n" + stream + "torch.save(state, file)")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(parsed(path))
    assert docstring
    assert docstring.split("\n\n")[0].endswith(".")


def test_importing_the_programs_loads_nothing_heavy() -> None:
    code = (
        "import sys, cli\n"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'numba', 'skimage', 'pyarrow', 'numpy', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


MAX_FILE, MAX_FUNCTION = 300, 50
# Kernels that are compiled as one piece.
LONGER_FILES: set[str] = set()
LONGER_FUNCTIONS = {"prep/proposals/sam/kernels_gpu.py:_measure"}


def test_files_and_functions_are_short() -> None:
    files, functions = set(), set()
    for path in SOURCES:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        if len(text.splitlines()) > MAX_FILE:
            files.add(name)
        functions |= {
            f"{name}:{node.name}"
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION
        }
    assert files == LONGER_FILES
    assert functions == LONGER_FUNCTIONS


def test_the_entry_point_is_short() -> None:
    assert len((ROOT / "cli.py").read_text(encoding="utf-8").splitlines()) <= 150


# Lines with `Any` or its alias `Untyped` outside imports: modules' attributes that are imported when they are
# first used, parsed command lines, JSON whose form is not known yet, and items of any stage.
MOST_ANY = 80


def test_few_lines_use_any() -> None:
    lines = [line for path in SOURCES for line in path.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if re.search(r"\b(Any|Untyped)\b", line) and "import" not in line]
    assert len(found) <= MOST_ANY
