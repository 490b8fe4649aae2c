"""Run a command as if on macOS: PYTHONPATH=tests python tests/macos/run.py COMMAND ARGUMENT…

Without /proc, /sys and /run, and with a libcrypto in Homebrew's folder, in a mount namespace of its own. Each Python of
this virtual environment starts with as_macos.py there, whatever its flags and environment: the file of site-packages
that makes hwsigner importable also runs the hook.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stub_names import names_of

HOOK = Path(__file__).with_name("as_macos.py")
LIBSYSTEM = Path(__file__).with_name("libsystem.c")
# The modules of C from which the others take what they have. The stubs have names of some of them in another.
MODULES = {
    name: {"_signal": "signal", "posix": "os"}.get(name, name)
    for name in ("_signal", "_socket", "errno", "fcntl", "mmap", "os", "posix", "resource", "select", "time")
}
# As long as macOS's /var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T/, and through a link, as /var is one there.
LENGTH = 49
# /dev/fd is there on macOS too, so Linux's stays behind it, under another path than /proc.
NAMESPACE = """
place="$1"; start_up="$2"; replaced="$3"; shift 3
mkdir "$place/proc" "$place/dev"
mount --rbind /proc "$place/proc"
mount -t tmpfs -o mode=0755 macos "$place/dev"
cd "$place/dev"
mkdir pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts pts
ln -s pts/ptmx ptmx
for name in full null random tty urandom zero; do touch $name; mount --bind /dev/$name $name; done
ln -s "$place/proc/self/fd" fd
ln -s fd/0 stdin; ln -s fd/1 stdout; ln -s fd/2 stderr
cd "$OLDPWD"
mount -t tmpfs -o mode=0755 macos /opt
mkdir -p /opt/homebrew/opt/openssl@3/lib
cp -L /usr/lib/*/libcrypto.so.3 /opt/homebrew/opt/openssl@3/lib/libcrypto.3.dylib
mount --bind "$start_up" "$replaced"
mount --rbind "$place/dev" /dev
for folder in /run /sys /proc; do mount -t tmpfs -o ro,mode=0111 macos "$folder"; done
exec "$@"
"""
# A user has the right to mount in a user namespace, and loses it before the command.
AS_ROOT = ["unshare", "--mount"]
AS_USER = ["unshare", "--user", "--map-current-user", "--keep-caps", "--mount"]
DROP = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all", "--bounding-set=-all"]


def write_start_up_file(place: Path, runtime_folder: str) -> tuple[Path, Path]:
    """Write the file that runs the hook; return it and the one that it replaces."""
    [replaced] = Path(sys.prefix).glob("lib/python*/site-packages/_editable_skbc_hwsigner.pth")
    library = place / "libsystem.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", LIBSYSTEM, "-o", library], check=True)
    names = {name: sorted(names_of(stub, "linux") - names_of(stub, "darwin")) for name, stub in MODULES.items()}
    values = {"LINUX_ONLY": names, "LIBSYSTEM": str(library), "RUNTIME_FOLDER": runtime_folder}
    path = place / replaced.name
    # A line that begins with import is run.
    path.write_text(f"import sys; exec(compile(open({str(HOOK)!r}).read(), {str(HOOK)!r}, 'exec'), {values!r})\n")
    with path.open("a") as file:
        file.write(replaced.read_text())
    return path, replaced


def main(command: list[str]) -> int:
    """Run the command and return its status."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as folder:
        place = Path(folder)
        runtime_folder = f"{place}/v/".ljust(LENGTH - len("/T/"), "0") + "/T/"
        (place / "v").symlink_to("private")
        (place / "private").mkdir()
        os.makedirs(runtime_folder, 0o700)
        files = write_start_up_file(place, runtime_folder)
        script = [*(AS_ROOT if is_root else AS_USER), "sh", "-ec", NAMESPACE, "sh", str(place), *map(str, files)]
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XDG_RUNTIME_DIR")}
        variables["TMPDIR"] = runtime_folder
        return subprocess.call([*script, *([] if is_root else DROP), *command], env=variables)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
