"""The Slicer extension's build lists against the tree, and its three descriptions against each other.

Slicer itself is stood in for by a few macros with the checks and the copying of its own
(CMake/SlicerMacroBuildScriptedModule.cmake), so that the lists are run by CMake and not only read.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

FAKE_SLICER = r"""
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/Nothing.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
"""
FAKE_MACROS = r"""
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NAME)
    message(FATAL_ERROR "wrong arguments: ${ARGN}")
  endif()
  set(destination "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  if(MY_WITH_SUBDIR)
    get_filename_component(folder ${CMAKE_CURRENT_SOURCE_DIR} NAME)
    set(destination "${destination}/${folder}")
  endif()
  foreach(file IN LISTS MY_SCRIPTS MY_RESOURCES)
    if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
      message(FATAL_ERROR "given nonexistent file '${file}'")
    endif()
    configure_file("${CMAKE_CURRENT_SOURCE_DIR}/${file}" "${destination}/${file}" COPYONLY)
  endforeach()
endfunction()
function(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "SCRIPT" "" ${ARGN})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT}")
    message(FATAL_ERROR "given nonexistent test '${MY_SCRIPT}'")
  endif()
endfunction()
function(slicer_add_python_test)
  cmake_parse_arguments(MY "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS;SCRIPT_ARGS" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT EXISTS "${MY_SCRIPT}")
    message(FATAL_ERROR "given nonexistent test '${MY_SCRIPT}'")
  endif()
  file(WRITE "${CMAKE_BINARY_DIR}/python-test.txt" "${MY_SCRIPT} ${MY_SCRIPT_ARGS}")
endfunction()
set(BUILD_TESTING ON)
"""

# Slicer/Schemas/slicer-extension-catalog-entry-schema-v1.0.1.json: what it requires and allows.
CATALOGUE_SCHEMA = {
    "type": "object",
    "required": ["$schema", "category", "scm_url"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"type": "string"},
        "category": {"type": "string"},
        "scm_url": {"type": "string"},
        "scm_revision": {"type": "string"},
        "scm_type": {"enum": ["git", "local"]},
        "build_dependencies": {"type": "array", "items": {"type": "string"}},
        "build_subdirectory": {"type": "string"},
        "enabled": {"type": "boolean"},
        "tier": {"enum": [1, 3, 5]},
    },
}


def cmake_list(path: Path, variable: str) -> list[str]:
    """The items of a `set(VARIABLE ...)` in a CMakeLists.txt, comments left out."""
    body = re.search(rf"set\({variable}\n(.*?)\n  \)", path.read_text(encoding="utf-8"), re.DOTALL)
    assert body is not None, f"no {variable} in {path}"
    lines = [line.split("#")[0].strip() for line in body.group(1).splitlines()]
    return [line.strip('"') for line in lines if line]


def files(folder: Path, relative_to: Path, pattern: str = "*") -> list[str]:
    """Files under a folder that belong to the project: no caches, nothing hidden."""
    found = [path.relative_to(relative_to) for path in folder.rglob(pattern) if path.is_file()]
    return sorted(p.as_posix() for p in found if not any(q.startswith(".") or q == "__pycache__" for q in p.parts))


def extension_value(root: Path, name: str) -> str:
    text = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    value = re.search(rf'set\(EXTENSION_{name} "([^"]*)"\)', text)
    assert value is not None, f"no EXTENSION_{name}"
    return value.group(1)


def description(root: Path) -> dict[str, str]:
    """MedRationale.s4ext: the first word of each line is the key, the rest its value."""
    lines = (root / "MedRationale.s4ext").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    return {key: value for key, _, value in pairs}


STALE = "run: python docs/dev/update_cmake.py"


def test_module_lists_are_the_tree(repository: Path) -> None:
    folder = repository / "MedRationale"
    lists = folder / "CMakeLists.txt"
    assert cmake_list(lists, "MODULE_PYTHON_SCRIPTS") == files(folder, folder, "*.py"), STALE
    assert cmake_list(lists, "MODULE_PYTHON_RESOURCES") == files(folder / "Resources", folder), STALE


def test_package_lists_are_the_tree(repository: Path) -> None:
    folder = repository / "MedRationaleLogic"
    lists = folder / "CMakeLists.txt"
    assert cmake_list(lists, "MODULE_PYTHON_SCRIPTS") == files(folder, folder, "*.py"), STALE
    assert cmake_list(lists, "SHARED_RESOURCES") == files(repository / "Resources", repository), STALE


def test_only_the_module_itself_lies_where_slicer_looks_for_modules(repository: Path) -> None:
    assert [path.name for path in (repository / "MedRationale").glob("*.py")] == ["MedRationale.py"]


def test_shared_and_module_resources_do_not_overwrite_each_other(repository: Path) -> None:
    shared = set(files(repository / "Resources", repository))
    own = set(files(repository / "MedRationale" / "Resources", repository / "MedRationale"))
    assert not shared & own


def test_every_package_folder_is_a_package(repository: Path) -> None:
    package = repository / "MedRationaleLogic"
    folders = {path.parent for path in package.rglob("*.py") if "__pycache__" not in path.parts}
    assert sorted(str(f) for f in folders if not (f / "__init__.py").is_file()) == []


@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("cc") is None, reason="needs cmake and a compiler")
def test_cmake_lays_out_an_importable_extension(repository: Path, tmp_path: Path) -> None:
    slicer, build = tmp_path / "slicer", tmp_path / "build"
    slicer.mkdir()
    (slicer / "SlicerConfig.cmake").write_text(FAKE_SLICER)
    (slicer / "UseSlicer.cmake").write_text(FAKE_MACROS)
    (slicer / "Nothing.cmake").write_text("")
    options = [f"-DSlicer_DIR={slicer}", f"-DMedRationale_TEST_STUDY={tmp_path}", "-Wno-dev"]
    command = ["cmake", *options, "-S", str(repository), "-B", str(build)]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr

    modules = build / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    shared = files(repository / "Resources", repository)
    assert [name for name in shared if (modules / name).read_bytes() != (repository / name).read_bytes()] == []
    assert (modules / "Resources" / "Icons" / "MedRationale.png").is_file()
    assert (modules / "Resources" / "Icons" / "MedRationaleSample.png").is_file()
    assert [path.name for path in modules.glob("*.py")] == ["MedRationale.py"]
    assert f"click_through.py --study;{tmp_path};--output" in (build / "python-test.txt").read_text()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import MedRationaleLogic as m; "
        "from MedRationaleLib import install, sample_data; print(m.__version__, m.__file__)"
    )
    printed = subprocess.run([sys.executable, "-I", "-c", code, modules], capture_output=True, text=True, check=True)
    script = modules / "Resources" / "Scripts" / "train_backend.py"
    assert script.read_bytes() == (repository / "train_backend.py").read_bytes()
    helped = subprocess.run([sys.executable, "-I", script, "--help"], capture_output=True, text=True)
    assert (helped.returncode, "--data" in helped.stdout) == (0, True), helped.stderr
    version, place = printed.stdout.split(maxsplit=1)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version)
    assert Path(place.strip()) == modules / "MedRationaleLogic" / "__init__.py"


def test_marked_lists_are_replaced_and_quoted(repository: Path) -> None:
    sys.path.insert(0, str(repository / "docs" / "dev"))
    try:
        from update_cmake import with_list
    finally:
        sys.path.remove(str(repository / "docs" / "dev"))
    text = "set(A\n  # begin scripts\n  old.py\n  # end scripts\n  )\n"
    expected = 'set(A\n  # begin scripts\n  a.py\n  "b c.py"\n  # end scripts\n  )\n'
    assert with_list(text, "scripts", ["a.py", "b c.py"]) == expected
    with pytest.raises(ValueError, match="begin shared"):
        with_list(text, "shared", [])


def test_catalogue_entry_is_valid(repository: Path) -> None:
    entry = json.loads((repository / "MedRationale.json").read_text(encoding="utf-8"))
    jsonschema.validate(entry, CATALOGUE_SCHEMA)
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")


def test_the_three_descriptions_agree(repository: Path) -> None:
    entry = json.loads((repository / "MedRationale.json").read_text(encoding="utf-8"))
    s4ext = description(repository)
    cmake = {
        "homepage": "HOMEPAGE",
        "category": "CATEGORY",
        "contributors": "CONTRIBUTORS",
        "description": "DESCRIPTION",
        "iconurl": "ICONURL",
        "screenshoturls": "SCREENSHOTURLS",
        "depends": "DEPENDS",
        "status": "STATUS",
    }
    assert {key: extension_value(repository, name) for key, name in cmake.items()} == {key: s4ext[key] for key in cmake}
    assert entry["category"] == s4ext["category"]
    assert entry["scm_type"] == s4ext["scm"]
    assert entry["scm_url"] == s4ext["scmurl"] == s4ext["homepage"]
    assert entry["scm_revision"] == s4ext["scmrevision"]
    assert entry["build_dependencies"] == s4ext["depends"].split()
    assert entry["build_subdirectory"] == s4ext["build_subdirectory"]
    assert entry["enabled"] == (s4ext["enabled"] == "1")
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Homepage"] == s4ext["homepage"]
    assert s4ext["homepage"] in (repository / "MedRationale" / "MedRationale.py").read_text(encoding="utf-8")


def test_name_of_the_extension_is_one(repository: Path) -> None:
    # Packaging is skipped without a word when the extension's name and CMake's project name differ.
    assert "project(MedRationale)" in (repository / "CMakeLists.txt").read_text(encoding="utf-8")
    assert (repository / "MedRationale.s4ext").is_file()


def test_addresses_in_the_description_are_files_of_this_repository(repository: Path) -> None:
    s4ext = description(repository)
    raw = s4ext["scmurl"].replace("https://github.com/", "https://raw.githubusercontent.com/")
    prefix = f"{raw}/{s4ext['scmrevision']}/"
    for url in [s4ext["iconurl"], *s4ext["screenshoturls"].split()]:
        assert url.startswith(prefix)
        assert (repository / url.removeprefix(prefix)).is_file(), url


def test_the_screenshots_show_the_module(repository: Path) -> None:
    urls = description(repository)["screenshoturls"].split()
    names = [url.rpartition("/")[2] for url in urls]
    assert names == ["slicer-findings.png", "slicer-evidence.png", "slicer-report.png"]


def test_icon_is_as_slicer_wants_it(repository: Path) -> None:
    with Image.open(repository / "MedRationale" / "Resources" / "Icons" / "MedRationale.png") as icon:
        assert icon.size == (128, 128)
        assert icon.mode == "RGBA"
