"""Devices over SSH: a whole measurement against a real server, each fault, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import sshd
import tiny_onnx
from small_disk import small_disk
from sshd import Server
from tiny_builds import program, settle

from edgeprune import measure as room
from edgeprune.config import BuildConfig
from edgeprune.errors import EdgepruneError, InputError, ModelError, TargetError, TargetUnreachable
from edgeprune.measure import openssh, ssh, worker
from edgeprune.records import Target
from edgeprune.target import load

IMAGE = np.zeros(tiny_onnx.IMAGE_SHAPE, np.float32)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="es-") as folder:  # a socket's path must be short
        yield from sshd.start(Path(folder))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "PAUSE_SECONDS", 0.01)


def target(server: Server, **changes: object) -> Target:
    settings = {
        "name": "device",
        "runtime": "onnxruntime",
        "host": "device",
        "python": sys.executable,
        "ssh_config": server.config,
    }
    return Target(**{**settings, **changes})  # type: ignore[arg-type]  # a test changes any field


def nothing_left(server: Server) -> bool:
    for _ in range(100):
        if not server.left() and not server.workers():
            return True
        time.sleep(0.05)
    return False


def test_a_measurement_from_end_to_end(server, tmp_path):
    hostile = tmp_path / "x;touch pwned;$(touch pwned2) 'n' \"m\".onnx"
    files = {"dense": tiny_onnx.save(tmp_path / "dense.onnx"), "pruned": tiny_onnx.save(hostile)}
    progress: list[tuple[int, int]] = []
    with room.place(target(server)) as place:
        found = place.measure(
            files,
            image=IMAGE,
            processes=1,
            min_runs=5,
            max_seconds=0.2,
            on_progress=lambda done, total: progress.append((done, total)),
        )
        assert len(server.left()) == 1
        assert {"cpu", "kernel"} <= place.machine().keys()
    assert set(found.latency) == set(found.memory) == {"dense", "pruned"}
    assert found.latency["dense"].runs == 5
    assert found.machine["onnxruntime"]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert nothing_left(server)
    assert not list(tmp_path.glob("pwned*")) and not list(Path.home().glob("pwned*"))


def test_accuracy_can_be_evaluated_there(server, tmp_path):
    images = np.random.default_rng(1).normal(size=(5, *tiny_onnx.IMAGE_SHAPE)).astype(np.float32)
    with room.place(target(server)) as place:
        predict = place.predictor(tiny_onnx.save(tmp_path / "net.onnx"))
        assert predict is not None
        np.testing.assert_allclose(predict(images), tiny_onnx.expected(images), rtol=1e-4, atol=1e-6)
    assert nothing_left(server)


def test_an_openvino_pair_arrives_as_a_pair(server, tmp_path):
    import openvino as ov

    ov.save_model(ov.convert_model(str(tiny_onnx.save(tmp_path / "net.onnx"))), str(tmp_path / "net.xml"))
    with room.place(target(server, runtime="openvino")) as place:
        found = place.measure(
            {"net": tmp_path / "net.xml"}, image=IMAGE, processes=1, min_runs=5, max_seconds=0.2
        )
    assert found.latency["net"].runs == 5


def test_a_changed_host_key_is_an_error(server, tmp_path):
    known = server.folder / "known_hosts"
    right = known.read_text()
    other = (server.folder / "user_key.pub").read_text().split()[:2]
    known.write_text(f"{right.split()[0]} {' '.join(other)}\n")
    try:
        with pytest.raises(TargetUnreachable, match="remove the old one: ssh-keygen -R device") as caught:
            open_device(server)
    finally:
        known.write_text(right)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


def test_an_unknown_host_key_is_an_error(server):
    known = server.folder / "known_hosts"
    right = known.read_text()
    known.write_text("")
    try:
        with pytest.raises(TargetUnreachable, match="its key is not known here"):
            open_device(server)
        assert known.read_text() == ""
    finally:
        known.write_text(right)


def open_device(server: Server, **changes: object) -> None:
    with room.place(target(server, **changes)):
        pass


def test_a_refused_connection_is_tried_again_and_then_unreachable(server, monkeypatch):
    tries: list[float] = []
    monkeypatch.setattr(ssh, "time", SimpleNamespace(sleep=tries.append))
    with pytest.raises(TargetUnreachable, match=r"no connection .*refused.*does `ssh device` work"):
        open_device(server, host=f"device:{sshd.free_port()}")
    assert len(tries) == ssh.CONNECTION_TRIES - 1


def test_a_key_that_is_not_let_in_is_not_tried_again(server, tmp_path, monkeypatch):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    text = Path(server.config).read_text().replace(f"{server.folder}/user_key", str(tmp_path / "other"))
    (tmp_path / "config").write_text(text)
    with pytest.raises(TargetUnreachable, match="does not let us in"):
        open_device(server, ssh_config=str(tmp_path / "config"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"python": "python9.9"}, "there is no python9.9"),
        ({"arch": "riscv64"}, "but the target is for riscv64"),
        ({"folder": "/nonexistent"}, "mktemp -d -p /nonexistent .* failed there"),
    ],
)
def test_what_is_not_there_is_named(server, changes, words):
    with pytest.raises(TargetUnreachable, match=words) as caught:
        open_device(server, **changes)
    assert caught.value.exit_code == 5
    assert nothing_left(server)


def test_a_missing_runtime_names_the_pip_line(server, tmp_path):
    bare = bare_python(tmp_path)
    with pytest.raises(
        TargetUnreachable, match=r"run there: \S+ -m pip install onnxruntime numpy, or give --setup"
    ):
        open_device(server, python=bare)
    assert nothing_left(server)


def bare_python(folder: Path) -> str:
    """A Python without packages: the one under this virtual environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "bare"], check=True)
    return str(folder / "bare" / "bin" / "python3")


def test_setup_makes_a_virtual_environment_of_our_own(server, tmp_path, monkeypatch):
    said: list[list[str]] = []

    def output(client: openssh.Client, words: list[str], *, seconds: float = 60.0) -> bytes:
        said.append(list(words))
        if words[0] == "printenv":
            return f"{tmp_path}\n".encode()
        if "venv" in words or "pip" in words:
            return b""
        return really(client, words, seconds=seconds)

    really = openssh.Client.output
    monkeypatch.setattr(openssh.Client, "output", output)
    ours = tmp_path / ssh.VENV / "bin"
    ours.mkdir(parents=True)
    (ours / "python3").symlink_to(sys.executable)
    with ssh.connect(
        "device",
        runtime="onnxruntime",
        python=bare_python(tmp_path),
        ssh_config=server.config,
        setup=True,
    ) as device:
        assert device.python == f"{ours}/python3"
    assert [words[1:4] for words in said if "pip" in words] == [["-m", "pip", "install"]]


@pytest.mark.heavy
def test_setup_really_installs_the_runtime(server, tmp_path):
    """From the package registry, into the device's home and nowhere else."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp_path / "wheels"]
    if subprocess.run([*words, "onnxruntime"], capture_output=True, check=False).returncode:
        pytest.skip("no package registry within reach")
    bare = bare_python(tmp_path)
    net = tiny_onnx.save(tmp_path / "net.onnx")
    with room.place(target(server, python=bare), setup=True) as place:
        found = place.measure({"net": net}, image=IMAGE, processes=1, min_runs=5, max_seconds=0.2)
    assert found.latency["net"].runs == 5
    assert (server.folder / "home" / ssh.VENV / "bin" / "python3").exists()
    ours = str(server.folder / "home" / ssh.VENV / "bin" / "python3")
    open_device(server, python=ours)  # what was installed is there the next time
    assert nothing_left(server)


def test_a_killed_worker_is_told_from_a_lost_connection(server, tmp_path):
    with room.place(target(server)) as place, pytest.raises(ModelError, match=r"signal 9 .out of memory"):
        during(place, server, tmp_path, lambda: [worker.kill() for worker in server.workers()])
    assert nothing_left(server)


def test_a_dropped_connection_is_made_again_and_said(server, tmp_path):
    dropped: list[int] = []

    def drop() -> None:
        if not dropped:
            for session in server.sessions():
                dropped.append(session.pid)
                session.kill()

    with room.place(target(server)) as place:
        found = during(place, server, tmp_path, drop)
    assert dropped
    assert "the connection to device broke, and was made again" in found.noise
    assert found.latency["net"].processes == 2
    assert nothing_left(server)


def during(
    place: room.Place, server: Server, folder: Path, what: Callable[[], object]
) -> room.measuring.Measurement:
    """Measure, and do something as soon as a worker that measures runs."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            busy = [each for each in server.workers() if cpu_seconds(each) > 0.3]
            if busy:
                what()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        artifact = tiny_onnx.save(folder / "net.onnx")
        return place.measure({"net": artifact}, image=IMAGE, processes=2, min_runs=10**6, max_seconds=1.5)
    finally:
        done.set()
        thread.join()


def cpu_seconds(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.Error:
        return 0.0


def test_a_caller_that_is_killed_leaves_no_worker(server, tmp_path):
    artifact = tiny_onnx.save(tmp_path / "net.onnx")
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom edgeprune import measure\n"
        "from edgeprune.records import Target\n"
        f"target = Target(name='d', runtime='onnxruntime', host='device', python={sys.executable!r}, "
        f"ssh_config={server.config!r})\n"
        "with measure.place(target) as place:\n"
        f"    place.measure({{'net': Path({str(artifact)!r})}}, image=np.zeros((3, 8, 8), np.float32), "
        "processes=1, min_runs=10**9, max_seconds=60.0)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(600):
        if any(cpu_seconds(each) > 0.3 for each in server.workers()):
            break
        time.sleep(0.05)
    for child in psutil.Process(caller.pid).children(recursive=True):
        child.kill()
    caller.kill()
    caller.wait()
    for _ in range(100):
        if not server.workers():
            break
        time.sleep(0.05)
    assert not server.workers()
    for session in server.sessions():  # the shared connection lives on for half a minute
        session.kill()
    for path in server.uploads.iterdir():  # a killed caller cannot clean up; the worker is what matters
        subprocess.run(["rm", "-rf", path], check=True)


def test_a_full_disk_is_named():
    with tempfile.TemporaryDirectory(prefix="es-") as folder:
        for server in sshd.start(Path(folder), file_limit=20):  # the worker alone is larger
            with pytest.raises(
                TargetError, match=r"could not be copied there|the disk there is full"
            ) as caught:
                open_device(server)
            assert caught.value.exit_code == 1
            assert nothing_left(server)


def test_a_disk_that_is_really_full_is_named_and_left_clean(server, tmp_path):
    net = tmp_path / "net.onnx"
    net.write_bytes(np.random.default_rng(0).bytes(500_000))
    with tempfile.TemporaryDirectory(prefix="es-") as folder, small_disk(Path(folder, "disk"), 256) as disk:
        with (
            pytest.raises(TargetError, match="device: the disk there is full; make room") as caught,
            room.place(target(server, folder=str(disk))) as place,
        ):
            place.measure({"net": net}, image=IMAGE, processes=1)
        assert caught.value.exit_code == 1
        assert not list(disk.iterdir())
        (disk / "others").write_bytes(bytes(256 * 1024 - 8192))
        with pytest.raises(TargetError, match="the disk there is full"):
            open_device(server, folder=str(disk))
        assert [path.name for path in disk.iterdir()] == ["others"]
    assert nothing_left(server)


def test_sftp_finds_a_full_disk_by_asking(monkeypatch, tmp_path):
    monkeypatch.setattr(openssh.Client, "output", lambda *_: b"fs 100 100 0 100% /tmp\n")
    failed = subprocess.CompletedProcess([], 1, b"", b'write remote "x": Failure')
    monkeypatch.setattr(openssh, "_call", lambda *_, **__: failed)
    (tmp_path / "net.onnx").write_bytes(b"1")
    client = openssh.Client(address=openssh.Address.parse("device"), sockets=tmp_path)
    with pytest.raises(TargetError, match="the disk there is full"):
        client.put(tmp_path / "net.onnx", "/there/x.onnx")


def test_an_interrupt_cleans_up(server, tmp_path):
    with pytest.raises(KeyboardInterrupt), room.place(target(server)):
        assert server.left()
        raise KeyboardInterrupt
    assert nothing_left(server)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("pi@pi5", "pi@pi5", None), ("pi5:2222", "pi5", 2222), ("u-1@a.b-c", "u-1@a.b-c", None)],
)
def test_addresses(text, host, port):
    found = openssh.Address.parse(text)
    assert (found.host, found.port) == (host, port)


@pytest.mark.parametrize("text", ["-oProxyCommand=x", "a b", "a;b", "pi@-x", "", "a@b@c", "a:b", "$(x)"])
def test_what_could_be_an_option_or_a_command_is_no_address(text):
    with pytest.raises(InputError, match="write user@device"):
        openssh.Address.parse(text)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("Host key for x has changed and you have requested strict checking.", TargetUnreachable),
        ("ssh: Could not resolve hostname x: Name or service not known", TargetUnreachable),
        ("ssh: connect to host x port 22: Connection refused", openssh.ConnectionLost),
        ("Connection to x closed by remote host.", openssh.ConnectionLost),
    ],
)
def test_complaints_are_understood(words, error):
    found = openssh.connection_error("pi@x", words)
    assert type(found) is error
    assert isinstance(found, EdgepruneError)
    assert found.exit_code == 5


def test_a_file_that_is_no_network_is_not_sent(tmp_path):
    client = openssh.Client(address=openssh.Address.parse("device"), sockets=tmp_path)
    device = ssh.Device(client=client, python="python3")
    with pytest.raises(InputError, match="no network's file"):
        device._push(tmp_path / "net", "")


def test_the_worker_runs_on_python_3_9():
    places = [shutil.which("python3.9"), *Path.home().glob(".pyenv/versions/3.9*/bin/python3.9")]
    pythons = [str(place) for place in places if place and works(str(place))]
    if not pythons:
        pytest.skip("no Python 3.9 here")
    with subprocess.Popen(
        [pythons[0], "-E", str(ssh.WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(ssh.worker_job("describe")) + "\n")
        process.stdin.flush()
        line = next(line for line in process.stdout if line.startswith(worker.MARK))
    assert json.loads(line.removeprefix(worker.MARK))["python"][:2] == [3, 9]


def works(python: str) -> bool:
    return subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0


# --- the program --------------------------------------------------------------------------------------


def test_the_program_measures_on_a_device(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "device.toml").write_text(
        f'runtime = "onnxruntime"\nhost = "device"\n'
        f'python = "{sys.executable}"\nssh_config = "{server.config}"\n'
    )
    net = tiny_onnx.save(tmp_path / "net.onnx")
    found = program("--quiet", "measure", net, "--target", "device", "--processes", 2, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["latency"]["net.onnx"]["processes"] == 2
    again = program("measure", net, "--target", "device", "--host", "nowhere.invalid", "--json")
    assert (again.exit_code, again.stderr.count("\n")) == (5, 1)
    assert nothing_left(server)


def test_the_program_probes_a_device(server, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeprune.measure.step", lambda **_: (8, {64: 1.0}))
    words = ("--ssh", "device", "--ssh-config", server.config, "--python", sys.executable)
    found = program("targets", "probe", "mine", "--out", tmp_path, *words)
    assert found.exit_code == 0, found.stderr
    profile = load("mine", folders=[tmp_path])
    assert (profile.host, profile.python, profile.ssh_config) == ("device", sys.executable, server.config)
    assert nothing_left(server)


@pytest.mark.skipif("host" not in BuildConfig.model_fields, reason="build has no --host yet")
def test_a_whole_build_on_a_device(server, tmp_path):
    profile = tmp_path / "device.toml"
    profile.write_text(
        f'runtime = "onnxruntime"\npython = "{sys.executable}"\nssh_config = "{server.config}"\n'
    )
    place = settle(tmp_path / "work")
    found = program("--quiet", "build", *place.flags(target=str(profile), host="device", processes=2))
    assert found.exit_code == 0, found.stderr
    assert place.report()["target"]["host"] == "device"
    assert place.report()["accuracy"]["pruned"]["images"] == 60
    assert nothing_left(server)
