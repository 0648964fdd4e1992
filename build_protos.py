"""Generates the Python code of the contracts in protos/ into generated/, which is not committed.

Runs as hatchling's build hook (`pip install`, wheel, sdist) and by hand: `python build_protos.py` (`make protos`).
`--image FILE` writes the descriptor set that `buf lint` and `buf breaking` read; `--lint` runs both of them.
Nothing is vendored: google/*.proto come from googleapis-common-protos, buf/validate from the installed protovalidate.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    message_factory,
    timestamp_pb2,
)
from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "generated"
RELEASED = PROTOS / "released"
"""The descriptor set of each release, for `buf breaking`."""
COMMENTED = Path("guildhall", "contracts.binpb")
"""Beside the generated code: the contracts with their comments, which the code does not hold."""
SERVICES = {"identity", "membership", "guest", "messaging"}


class ProtosHook(BuildHookInterface[Any]):
    """Generates the code before hatchling collects the files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()


def generate(generated: Path = GENERATED) -> None:
    """Replaces a folder with code made from protos/; leaves the old code in place if the protos are wrong."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".protos-") as folder:
        target = Path(folder) / "generated"
        target.mkdir()
        image = Path(folder) / "image.binpb"
        write_image(image)
        check_options(image)
        flags = [f"--{kind}_out={target}" for kind in ("python", "grpc_python")]
        for plugin in ("mypy", "mypy_grpc"):
            flags += [f"--plugin=protoc-gen-{plugin}={plugin_path(plugin)}", f"--{plugin}_out=quiet:{target}"]
        run_protoc(flags, [*own_files(), "buf/validate/validate.proto"])
        image.rename(target / COMMENTED)
        if generated.exists():
            shutil.rmtree(generated)
        target.rename(generated)


def write_image(path: Path) -> None:
    """Writes the descriptors of all our files, with imports and comments."""
    run_protoc([f"--descriptor_set_out={path}", "--include_imports", "--include_source_info"], own_files())


def plugin_path(name: str) -> str:
    """Where a protoc plugin is: beside this interpreter, or on the PATH that pip gives an isolated build."""
    folders = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    path = shutil.which(f"protoc-gen-{name}", path=folders)
    if path is None:
        sys.exit(f"protoc-gen-{name} is missing: pip install mypy-protobuf")
    return path


def own_files() -> list[str]:
    """The paths of our .proto files, relative to protos/."""
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))


def run_protoc(flags: list[str], files: list[str]) -> None:
    """Runs protoc. protovalidate ships its rules as a descriptor only, so that is what protoc is given of them."""
    with tempfile.TemporaryDirectory() as folder:
        imports = Path(folder) / "imports.pb"
        imports.write_bytes(validation_rules().SerializeToString())
        site = sysconfig.get_paths()["purelib"]
        arguments = ["protoc", f"-I{PROTOS}", f"-I{site}", f"--descriptor_set_in={imports}:{common_protos(folder)}"]
        if protoc.main([*arguments, *flags, *files]) != 0:
            sys.exit("The protos do not compile: see protoc's lines above.")


def validation_rules() -> descriptor_pb2.FileDescriptorSet:
    """buf/validate/validate.proto and what it imports."""
    rules = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    files = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, timestamp_pb2, field_mask_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.append(rules)
    return files


def common_protos(folder: str) -> Path:
    """google/api and google/rpc as a descriptor set: with --descriptor_set_in, protoc reads no other source."""
    from google.api import http_pb2
    from google.rpc import status_pb2

    files = descriptor_pb2.FileDescriptorSet()
    for module in (http_pb2, annotations_pb2, any_pb2, status_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    path = Path(folder) / "common.pb"
    path.write_bytes(files.SerializeToString())
    return path


def check_options(image: Path) -> None:
    """Fails the build for an RPC without a sound access option, or a public unary one without an HTTP mapping."""
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    extension = pool.FindExtensionByName("guildhall.options.v1.access")
    http = pool.FindExtensionByName("google.api.http")
    options_class = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.MethodOptions"))
    faults = []
    for file in files.file:
        for service in file.service if file.package.startswith("guildhall.") else ():
            for method in service.method:
                options: Any = options_class.FromString(method.options.SerializeToString())
                fault = option_fault(options, extension, http, method)
                if fault:
                    faults.append(f"{file.package}.{service.name}/{method.name}: {fault}")
    if faults:
        sys.exit("\n".join(faults))


def option_fault(options: Any, extension: Any, http: Any, method: descriptor_pb2.MethodDescriptorProto) -> str | None:
    """What is wrong with one RPC's options, or None."""
    access = options.Extensions[extension]
    names = {
        extension.message_type.fields_by_name["callers"].enum_type.values_by_number[n].name for n in access.callers
    }
    if not names or "CALLER_UNSPECIFIED" in names:
        return "says nothing about who may call it; give it option (guildhall.options.v1.access)"
    if ("CALLER_PEER" in names) != bool(access.peers) or not set(access.peers) <= SERVICES:
        return "CALLER_PEER needs `peers` that name services, and only it has them"
    if ("CALLER_BACKEND" in names) != bool(access.scope):
        return "CALLER_BACKEND needs a `scope`, and only it has one"
    streaming = method.client_streaming or method.server_streaming
    if "CALLER_PEER" not in names and not streaming and not options.HasExtension(http):
        return "is public and unary, so it needs option (google.api.http)"
    return None


def lint() -> None:
    """Checks style and comments, and that nothing breaks who was built against a released contract."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.binpb"
        write_image(image)
        check_options(image)
        runs = [["lint", str(image)]]
        runs += [["breaking", str(image), "--against", str(base)] for base in sorted(RELEASED.glob("*.binpb"))]
        for run in runs:
            command = [str(Path(sys.executable).parent / "buf"), *run, "--config", str(ROOT / "buf.yaml")]
            if subprocess.run([*command, "--path", "guildhall"]).returncode != 0:
                sys.exit(f"buf {run[0]} found faults: see its lines above")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="write the descriptor set there and generate nothing")
    parser.add_argument("--lint", action="store_true", help="check the contracts and generate nothing")
    arguments = parser.parse_args()
    if arguments.image:
        write_image(arguments.image)
    elif arguments.lint:
        lint()
        print("the contracts are in order")
    else:
        generate()
        print(f"generated {len(own_files())} contracts into {GENERATED.name}/")


if __name__ == "__main__":
    main()
