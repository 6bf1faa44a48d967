"""Converts a document inside a sandbox: moves files as root, and has one warm LibreOffice of the user do the work.

Run with Debian's Python as `python3 -I - <request> <edition>`; what came of it is a line of JSON on standard output.
The first run leaves a server behind, which answers one after the other on a socket and keeps LibreOffice; it ends when
nobody has asked for a while. When a client goes away, as at the end of its time, LibreOffice is ended and begun anew.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

USER = 1000
SPOOL = Path("/var/tmp")  # noqa: S108 - every name in it is drawn at random
PREFIX = "boxkeep-documents-"
ADDRESS = f"\0{PREFIX}{sys.argv[2] if len(sys.argv) > 2 else ''}"  # another for another edition of this program
IDLE_SECONDS = 300.0
CLIENT_SECONDS = 10.0
DOCUMENTS_EACH = 100
START_SECONDS = 60.0
OFFICE = "/usr/lib/libreoffice/program/oosplash"
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/home/user"}
AS_THE_USER: Any = {
    "user": USER,
    "group": USER,
    "extra_groups": (),
    "env": ENVIRONMENT,
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.PIPE,
}
FULL = (errno.ENOSPC, errno.EDQUOT)
MOST_BYTES = 1 << 30
BLOCK = 1 << 20

ZIP, OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
BEGINNINGS = {
    **dict.fromkeys(("docx", "xlsx", "pptx", "odt", "ods", "odp", "odg"), ZIP),
    **dict.fromkeys(("doc", "xls", "ppt"), OLE),
    "rtf": b"{\\rtf",
    "pdf": b"%PDF-",
    "png": b"\x89PNG\r\n",
    "jpg": b"\xff\xd8\xff",
    "gif": b"GIF8",
    "webp": b"RIFF",
}

# What LibreOffice must not do for whoever wrote a document: run macros, fetch what is linked, renew what is not there.
PROFILE: dict[str, str | int] = {
    "Office.Common/Security/Scripting/MacroSecurityLevel": 3,
    "Office.Common/Security/Scripting/DisableMacrosExecution": "true",
    "Office.Common/Security/Scripting/BlockUntrustedRefererLinks": "true",
    "Office.Writer/Content/Update/Link": 0,
    "Office.Calc/Content/Update/Link": 2,
    "Inet/Settings/ooInetProxyType": 2,
    **{f"Inet/Settings/ooInet{kind}ProxyName": "127.0.0.1" for kind in ("HTTP", "HTTPS", "FTP")},
    **{f"Inet/Settings/ooInet{kind}ProxyPort": 9 for kind in ("HTTP", "HTTPS", "FTP")},
    "Inet/Settings/ooInetNoProxy": "",
}


class Refused(Exception):
    """Why there is no result, in one word."""


def main(request: dict[str, Any]) -> None:
    """Convert, and say what came of it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    clear_up()
    work = own_directory()
    os.chown(work, USER, USER)
    try:
        answer = convert(request, work)
    except Refused as refused:
        answer = {"refused": str(refused)}
    except OSError as error:
        answer = {"refused": "no_space" if error.errno in FULL else "failed"}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    sys.stdout.write(json.dumps(answer) + "\n")


def own_directory() -> Path:
    """A new directory that tells whose it is."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=SPOOL))


def clear_up() -> None:
    """Remove what those have left that were killed."""
    for path in SPOOL.glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(path, ignore_errors=True)


def convert(request: dict[str, Any], work: Path) -> dict[str, object]:
    """Bring the document in, have it converted, bring the result out: its size and sum."""
    made, stem = work / f"document.{request['source']}", work / "result"
    bring_in(Path(request["path"]), made)
    check(made, request["source"])
    for number, step in enumerate(request["office"]):
        before, made = made, work / f"step-{number}.{step['suffix']}"
        ask_office({"source": str(before), "target": str(made), **step})
    if request["tool"] is not None:
        words = [word.replace("{in}", str(made)).replace("{out}", str(stem)) for word in request["tool"]]
        made = stem.with_suffix(f".{request['target']}")
        run_tool(words, made)
    return bring_out(made, Path(request["outputPath"]))


def bring_in(path: Path, place: Path) -> None:
    """Copy the document to where the user may read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Refused("not_found") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise Refused("no_file")
    if found.st_size > MOST_BYTES:
        raise Refused("too_large")
    with os.fdopen(descriptor, "rb") as file, place.open("xb") as copy:
        shutil.copyfileobj(file, copy, BLOCK)
    os.chown(place, USER, USER)


def check(document: Path, name: str) -> None:
    """Refuse what is not of the format that its name says: LibreOffice would take it for a text."""
    with document.open("rb") as file:
        head = file.read(1 << 16)
    beginning = BEGINNINGS.get(name)
    if beginning is None:
        if b"\0" in head and head[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            raise Refused("not_that_format")
    elif beginning == ZIP and head.startswith(OLE):
        raise Refused("protected")  # as Word and its kin write what has a password
    elif not head.startswith(beginning):
        raise Refused("not_that_format")
    if beginning == ZIP:
        look_into(document)


def look_into(document: Path) -> None:
    """Refuse an archive that is damaged, or that says of itself that it is protected."""
    try:
        with zipfile.ZipFile(document) as archive:
            if "META-INF/manifest.xml" in archive.namelist():
                with archive.open("META-INF/manifest.xml") as manifest:
                    if b"encryption-data" in manifest.read(BLOCK):
                        raise Refused("protected")
    except (OSError, KeyError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, EOFError) as error:
        raise Refused("damaged") from error


def run_tool(words: list[str], made: Path) -> None:
    """Run a program of poppler as the user."""
    done = subprocess.run(words, cwd=made.parent, check=False, **AS_THE_USER)
    if done.returncode != 0 or not made.exists():
        told = {b"Incorrect password": "protected", b"page range": "no_such_page"}
        raise Refused(next((word for said, word in told.items() if said in done.stderr), "damaged"))


def bring_out(made: Path, place: Path) -> dict[str, object]:
    """Put the result where it is wanted, whole, in place of what was there."""
    fresh = place.with_name(f".{place.name[:200]}.{os.getpid()}")
    total, size = hashlib.sha256(), 0
    with os.fdopen(os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("xb") as copy:
                while block := file.read(BLOCK):
                    total.update(block)
                    size += len(block)
                    copy.write(block)
            fresh.replace(place)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise Refused("bad_output") from error
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink()
    return {"size": size, "sha256": total.hexdigest()}


def ask_office(asked: dict[str, object]) -> None:
    """Have the server convert, which is begun where there is none."""
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(ADDRESS)
            except ConnectionRefusedError:
                begin_server()
                continue
            connection.sendall(json.dumps(asked).encode() + b"\n")
            with contextlib.suppress(OSError), connection.makefile("rb") as answers:
                if said := answers.readline(4096):
                    if word := json.loads(said).get("refused"):
                        raise Refused(str(word))
                    return
    raise Refused("failed")


def begin_server() -> None:
    """Leave a process of the user behind that answers on the socket, unless somebody was faster."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(ADDRESS)
    except OSError:
        time.sleep(0.05)  # until who was faster listens
        return
    listener.listen(64)
    if os.fork() == 0:
        try:
            become_the_user()
            serve(listener)
        finally:
            os._exit(0)
    listener.close()


def become_the_user() -> None:
    """Be a process apart, with nothing of who has started it."""
    os.setsid()
    for number in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)


def serve(listener: socket.socket) -> None:
    """Answer one after the other until nobody asks any more."""
    listener.settimeout(IDLE_SECONDS)
    office = Office()
    try:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError, ValueError, KeyError):
                connection.settimeout(CLIENT_SECONDS)
                with connection.makefile("rb") as questions:
                    asked = json.loads(questions.readline(1 << 16))
                connection.sendall(json.dumps(attended(office, connection, asked)).encode() + b"\n")
    finally:
        listener.close()
        office.end()


def attended(office: "Office", connection: socket.socket, asked: dict[str, Any]) -> dict[str, str]:
    """Convert while the client is there: LibreOffice is ended when it goes."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            try:
                if not connection.recv(1, socket.MSG_PEEK):
                    office.kill()
                    return
            except BlockingIOError:
                continue
            except OSError:
                return

    connection.setblocking(False)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return office.convert(asked)
    finally:
        done.set()
        watcher.join()
        connection.settimeout(CLIENT_SECONDS)


class Office:
    """A LibreOffice, begun when it is needed, and anew after so many documents, a crash or a kill."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.directory: Path | None = None
        self.context: Any = None
        self.desktop: Any = None
        self.count = 0

    def convert(self, asked: dict[str, Any]) -> dict[str, str]:
        """Load a document by one filter and store it by another."""
        if self.process is None or self.count >= DOCUMENTS_EACH or not self.answers():
            self.end()
            if not self.begun():
                return {"refused": "no_office"}
        self.count += 1
        word: str = "damaged"
        document: Any = None
        with contextlib.suppress(Exception):  # UNO raises what it likes, of types that are made as it goes
            document = self.loaded(asked)
            if document is not None:
                word = "not_written"
                how = properties(asked["writes"], Overwrite=True)
                document.storeToURL(f"file://{asked['target']}", how)
                word = ""
        with contextlib.suppress(Exception):
            document.close(True)
        return {"refused": word if self.answers() else "crashed"} if word else {}

    def loaded(self, asked: dict[str, Any]) -> Any:
        """A document, of which no macro may run and no link be followed."""
        how = {"Hidden": True, "ReadOnly": True, "MacroExecutionMode": 0, "UpdateDocMode": 0}
        url = f"file://{asked['source']}"
        if asked["service"] is None:
            return self.desktop.loadComponentFromURL(url, "_blank", 0, properties(asked["reads"], **how))
        document = self.context.ServiceManager.createInstanceWithContext(asked["service"], self.context)
        document.load(properties(asked["reads"], URL=url, **how))
        for field in list(document.getTextFields()) if asked["bare"] else ():
            if field.supportsService("com.sun.star.text.textfield.Annotation"):
                field.dispose()
        return document

    def answers(self) -> bool:
        """Whether it is there."""
        with contextlib.suppress(Exception):
            return self.desktop.getComponents() is not None
        return False

    def begun(self) -> bool:
        """Start LibreOffice with a profile of its own and find its desktop."""
        import uno  # type: ignore[import-not-found]  # noqa: PLC0415 - clients do without

        self.directory = own_directory()
        write_profile(self.directory / "user")
        pipe = f"pipe,name={PREFIX}{os.getpid()};urp;StarOffice.ComponentContext"
        flags = ("--headless", "--norestore", "--nologo", "--nodefault", "--nofirststartwizard", "--nolockcheck")
        self.process = subprocess.Popen(
            [OFFICE, *flags, f"-env:UserInstallation=file://{self.directory}", f"--accept={pipe}"],
            env={**ENVIRONMENT, "HOME": str(self.directory), "TMPDIR": str(self.directory)},
            start_new_session=True,
        )
        here = uno.getComponentContext()
        resolver = here.ServiceManager.createInstanceWithContext("com.sun.star.bridge.UnoUrlResolver", here)
        began = time.monotonic()
        while self.process.poll() is None and time.monotonic() - began < START_SECONDS:
            with contextlib.suppress(Exception):
                self.context = resolver.resolve(f"uno:{pipe}")
                maker = self.context.ServiceManager
                self.desktop = maker.createInstanceWithContext("com.sun.star.frame.Desktop", self.context)
                return True
            time.sleep(0.02)
        return False

    def kill(self) -> None:
        """End LibreOffice with all that it has started, whatever it does."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """End LibreOffice and remove what it has left."""
        self.kill()
        if self.process is not None:
            self.process.wait()
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.process = self.directory = self.desktop = None
        self.count = 0


def properties(by: tuple[str, str], **values: object) -> tuple[object, ...]:
    """A filter with its options, and more named values, in the words of UNO."""
    import uno  # noqa: PLC0415

    values = {"FilterName": by[0], "FilterOptions": by[1], **values}
    made = [uno.createUnoStruct("com.sun.star.beans.PropertyValue") for _ in values]
    for one, (name, value) in zip(made, values.items(), strict=True):
        one.Name, one.Value = name, value
    return tuple(made)


def write_profile(directory: Path) -> None:
    """Settings of a LibreOffice that trusts no document."""
    items = ""
    for setting, value in PROFILE.items():
        path, _, name = setting.rpartition("/")
        items += f'<item oor:path="/org.openoffice.{path}"><prop oor:name="{name}" oor:op="fuse">'
        items += f"<value>{value}</value></prop></item>"
    head = '<?xml version="1.0" encoding="UTF-8"?><oor:items xmlns:oor="http://openoffice.org/2001/registry">'
    directory.mkdir()
    (directory / "registrymodifications.xcu").write_text(f"{head}{items}</oor:items>")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
