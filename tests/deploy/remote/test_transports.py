"""What every transport does, and how each explains that it cannot reach a device."""

import os
import re
import shlex
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from deploy.remote import transports
from deploy.remote.copies import copied
from deploy.remote.device import PREFIX, Device, ScriptError
from deploy.remote.kit import Kit
from deploy.remote.runner_timer import RunnerTimer
from deploy.remote.transports import is_remote, open_device
from deploy.timing.latency import Rounds
from tests.deploy.remote.devices import fake_adb, here, program
from tests.deploy.remote.sshd import server
from tests.refusals import refuses


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    with server(tmp_path_factory.mktemp("sshd")) as (address, programs):
        yield address, programs


@pytest.fixture(params=["here", "ssh", "adb"])
def device(request, tmp_path, monkeypatch):
    """A device that is this machine, by each transport."""
    if request.param == "here":
        return here(tmp_path)
    if request.param == "adb":
        fake_adb(tmp_path, monkeypatch)
        return open_device("adb")
    address, programs = request.getfixturevalue("ssh")
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return open_device(address)


def test_a_script_runs_there(device):
    assert isinstance(device, Device)
    lines = []
    assert device.run('echo "it\'s $((1 + 1))"; echo b; echo c >&2', line=lines.append) == "it's 2\nb\n"
    assert lines == ["it's 2", "b"]
    assert device.run("wc -c", data=bytes(range(256)) * 1000).strip() == "256000"


def test_a_script_that_fails_says_why(device):
    with pytest.raises(ScriptError) as caught:
        device.run("echo printed; echo first >&2; echo last >&2; exit 3")
    assert (caught.value.status, caught.value.reason) == (3, "last")


def test_a_folder_is_copied_and_removed_even_after_ctrl_c(device, tmp_path):
    folder = tmp_path / "kit"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "0.onnx").write_bytes(bytes(range(256)))
    (folder / "manifest.json").write_text("{}")
    paths = []

    def interrupted():
        with copied(device, folder) as path:
            paths.append(path)
            printed = device.run(f"cd {path}; ls; wc -c < models/0.onnx")
            assert printed.split() == ["manifest.json", "models", "256"]
            assert "adb" in device.login or os.stat(path).st_mode & 0o777 == 0o700
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (path,) = paths
    assert os.path.basename(path).startswith(PREFIX)
    assert not os.path.exists(path)


@pytest.fixture(params=["ssh", "adb"])
def unplugged(request, tmp_path, monkeypatch):
    """(a device of each transport, its folder, a file that makes it unreachable while it exists)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    down, wrappers = tmp_path / "down", tmp_path / "wrappers"
    wrappers.mkdir()
    if request.param == "adb":
        folder, address, message = fake_adb(tmp_path, monkeypatch), "adb://X1", "error: device offline"
    else:
        address, programs = request.getfixturevalue("ssh")
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        folder, message = tmp_path, "ssh: connect to host x port 22: No route to host"
    real = shutil.which(request.param)
    program(
        wrappers / request.param,
        f"#!/bin/sh\n[ -e {down} ] && {{ echo '{message}' >&2; exit 255; }}\necho $$ >> {tmp_path}/pids\n"
        f'exec {real} "$@"\n',
    )
    monkeypatch.setenv("PATH", str(wrappers), prepend=":")
    return open_device(address), folder, down


def test_a_folder_that_cannot_be_removed_is_named_and_removed_the_next_time(unplugged, tmp_path, capsys):
    device, root, down = unplugged
    (tmp_path / "kit").mkdir()

    def measure(*, lose):
        with copied(device, tmp_path / "kit") as path:
            if lose:
                down.touch()
        return path

    path = measure(lose=True)
    there = root / os.path.basename(path) if "adb" in device.address else Path(path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"device={device.address}: could not remove {path}; the next measurement on this device tries again, "
        f"or run: {device.login} 'rm -rf {path}'"
    )
    assert there.is_dir()
    refuses(lambda: measure(lose=False), "is offline|does not answer")  # and it is not forgotten
    assert path in capsys.readouterr().err
    down.unlink()
    measure(lose=False)
    assert not there.exists()
    assert not list((tmp_path / "cache").rglob("*.json"))
    assert capsys.readouterr().err == ""


def test_a_folder_is_not_forgotten_if_ctrl_c_ends_its_removal(tmp_path, monkeypatch, capsys):
    """As when the user does not want to wait for a device that does not answer."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "kit").mkdir()
    device = here(tmp_path)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as patched,
        pytest.raises(KeyboardInterrupt),
        copied(device, tmp_path / "kit") as path,
    ):
        patched.setattr(type(device), "run", interrupt)
    assert f"could not remove {path};" in capsys.readouterr().err
    assert os.path.isdir(path)
    with copied(device, tmp_path / "kit"):
        assert not os.path.exists(path)


def test_a_runner_stops_and_removes_its_folder_if_the_connection_is_lost(unplugged, tmp_path, capsys):
    """Once, it measured on, and its folder stayed."""
    device, root, down = unplugged
    beat = tmp_path / "beat"
    text = f"#!/bin/sh\nwhile true; do echo >> {beat}; sleep 0.1; done\n"
    timer = RunnerTimer.open(device, program(tmp_path / "runner", text))
    folder = tmp_path / "kit"
    folder.mkdir()
    kit = Kit(folder, threads=1)
    kit.models["a"] = {"file": "models/0.onnx"}
    kit.time_in_turns(["a"], Rounds())
    lost = Thread(target=lose_connection, args=(beat, down, tmp_path / "pids"))
    lost.start()
    refuses(lambda: timer.time(kit, show=print), "failed there|lost|does not answer|offline|ssh failed")
    lost.join()
    (path,) = re.findall(rf"could not remove (\S*/{re.escape(PREFIX)}\w+);", capsys.readouterr().err)
    there = root / os.path.basename(path) if "adb" in device.address else Path(path)
    wait_until(lambda: not there.exists())
    size = beat.stat().st_size
    time.sleep(0.5)
    assert beat.stat().st_size == size  # the program there has ended


def lose_connection(beat, down, pids):
    """Kill the command that runs the program on the device, as soon as that program runs."""
    wait_until(beat.exists)
    down.touch()
    os.kill(int(pids.read_text().split()[-1]), signal.SIGKILL)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_nothing_is_left_of_a_copy_that_fails(tmp_path):
    full = here(tmp_path)
    (tmp_path / "kit").mkdir()
    broken = type(full)(
        **{
            **vars(full),
            "command": lambda script: ["sh", "-c", f"tar() {{ echo no space >&2; return 1; }}; {script}"],
        }
    )
    refuses(lambda: broken.push(tmp_path / "kit"), "files cannot be copied to it", "no space")
    assert not list(tmp_path.glob(f"{PREFIX}*"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("lost", ["({}) > /dev/full", "(sleep 0.3; {}) | true"])
def test_a_copy_whose_path_does_not_arrive_is_removed(tmp_path, lost):
    """As when the connection is lost at the end of a copy."""
    unheard = replace(here(tmp_path), command=lambda script: ["sh", "-c", lost.format(script)])
    (tmp_path / "kit").mkdir()
    refuses(lambda: unheard.push(tmp_path / "kit"), "cannot be copied|has no temporary folder")
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_which_devices_are_reached_by_a_transport():
    assert transports.BUILT_IN == ("adb", "ssh")
    assert [is_remote(name) for name in ("auto", "cpu", "cuda:0", "adb", "ssh://pi", "own://x")] == [
        *[False] * 3,
        *[True] * 3,
    ]
    refuses(
        lambda: open_device("shh://pi"), "device=shh://pi: no such transport", "did you mean 'ssh'", "extend="
    )
    refuses(lambda: open_device("ssh"), "device=ssh: not a valid ssh address; write ssh://user@host")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ssh://board", ["board"]),
        ("ssh://Pi@Board.local", ["Pi@Board.local"]),
        ("ssh://pi@board:2222", ["-p", "2222", "pi@board"]),
        ("ssh://pi@[::1]:22/", ["-p", "22", "pi@::1"]),
        ("ssh://[::1]:2222", ["-p", "2222", "::1"]),
        ("ssh://user@[fe80::1]", ["user@fe80::1"]),
        ("ssh://pi@[fe80::1%eth0]:22", ["-p", "22", "pi@fe80::1%eth0"]),
        ("ssh://pi@[FE80::1%25Eth0]", ["pi@FE80::1%Eth0"]),
    ],
)
def test_an_address_is_what_ssh_gets(address, words):
    device = open_device(address)
    command = device.command("echo 'a b'")
    assert command[:1] == ["ssh"]
    assert "BatchMode=yes" in command
    assert command[-len(words) - 1 : -1] == words
    assert command[-1] == "sh -c 'echo '\"'\"'a b'\"'\"''"
    assert device.login == shlex.join(["ssh", *words])


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("ssh://", "write ssh://user@host"),
        ("ssh://pi@board/home", "write ssh://user@host"),
        ("ssh://pi@board:port", "write ssh://user@host:port"),
        ("ssh://pi@[::1", "IPv6 addresses in brackets: ssh://user@\\[fe80::1%eth0\\]:port"),
        ("ssh://pi@fe80::1", "IPv6 addresses in brackets"),
        ("ssh://::1", "IPv6 addresses in brackets"),
        ("ssh://2001:db8::1:22", "IPv6 addresses in brackets"),
        ("ssh://pi@[::1]board", "write ssh://"),
        ("ssh://-oProxyCommand=x", "write ssh://user@host"),
        ("ssh://-oProxyCommand=x@board", "write ssh://user@host"),
        ("ssh://pi@-oProxyCommand=x", "write ssh://user@host"),
    ],
)
def test_other_addresses_are_refused(address, part):
    refuses(lambda: open_device(address), part)


def test_a_password_is_not_repeated():
    message = refuses(lambda: open_device("ssh://pi:secret@board"), "log in with a key")
    assert "secret" not in message


@pytest.mark.parametrize(
    ("printed", "parts"),
    [
        ("ssh: Could not resolve hostname board: Name or service not known", ["no such host", "resolve"]),
        ("ssh: connect to host board port 22: Connection timed out", ["does not answer", "is it on"]),
        ("ssh: connect to host board port 22: Connection refused", ["is sshd running"]),
        (
            "Warning: x\npi@board: Permission denied (publickey).",
            ["none of your ssh keys", "ssh-copy-id pi@board"],
        ),
        (
            "No ED25519 host key is known.\nHost key verification failed.",
            ["not known here", "accept it: ssh pi@board"],
        ),
        ("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.", ["find out why"]),
        ("Connection to board closed by remote host.", ["connection was lost"]),
        ("kex_exchange_identification: what", ["ssh failed \\(kex_exchange_identification: what\\)"]),
        ("", ["ssh failed"]),
    ],
)
def test_what_ssh_complains_about_is_said_in_one_line(printed, parts, tmp_path, monkeypatch):
    (tmp_path / "printed").write_text(printed)
    program(tmp_path / "ssh", f"#!/bin/sh\ncat {tmp_path}/printed >&2\nexit 255\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    refuses(lambda: open_device("ssh://pi@board").run("true"), "device=ssh://pi@board: ", *parts)


def test_a_real_server_refuses_unknown_keys(ssh, tmp_path, monkeypatch):
    address, programs = ssh
    text = (programs / "ssh").read_text()
    config = (programs.parent / "ssh_config").read_text()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program(tmp_path / "ssh", text.replace(f"{programs.parent}/ssh_config", f"{tmp_path}/config"))
    (tmp_path / "config").write_text(config.replace(f"{programs.parent}/known_hosts", "/dev/null"))
    refuses(lambda: open_device(address).run("true"), "host key is not known here")
    (tmp_path / "config").write_text(
        config.replace(f"IdentityFile {programs.parent}/user", "IdentityFile none")
    )
    refuses(lambda: open_device(address).run("true"), "none of your ssh keys")
    refuses(lambda: open_device("ssh://127.0.0.1:1").run("true"), "no ssh server answers there")


def test_a_program_that_is_missing_here_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    refuses(lambda: open_device("ssh://pi@board").run("true"), "ssh cannot be run here", "install it")
    refuses(lambda: open_device("adb").run("true"), "adb cannot be run here", "install it")


@pytest.mark.parametrize(
    ("printed", "part"),
    [
        ("adb: more than one device/emulator", "choose one that `adb devices` lists: device=adb://SERIAL"),
        ("* daemon started successfully\nadb: no devices/emulators found", "allow USB debugging"),
        ("adb: device 'X1' not found", "no device with this serial number"),
        (
            "adb: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set",
            "does not trust this computer",
        ),
        ("error: device offline", "is offline"),
        ("adb: something else", "adb: something else"),
    ],
)
def test_what_adb_complains_about_is_said_in_one_line(printed, part, tmp_path, monkeypatch):
    (tmp_path / "printed").write_text(printed)
    program(tmp_path / "adb", f"#!/bin/sh\ncat {tmp_path}/printed >&2\nexit 1\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    refuses(lambda: open_device("adb://X1").run("true"), "device=adb://X1: ", part)


def test_a_command_that_the_phone_does_not_know_is_no_missing_phone(tmp_path, monkeypatch):
    fake_adb(tmp_path, monkeypatch)
    with pytest.raises(ScriptError, match="127"):
        open_device("adb").run("no_such_command")


def test_nothing_is_left_on_a_phone_if_ctrl_c_ends_a_copy(tmp_path, monkeypatch):
    root = fake_adb(tmp_path, monkeypatch)
    (tmp_path / "kit").mkdir()

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.remote.transports.adb.subprocess.run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_device("adb").push(tmp_path / "kit")
    assert len((root / "adb.log").read_text().splitlines()) == 2  # create, remove
    assert not list(root.glob(f"{PREFIX}*"))


def test_adb_gets_the_serial_number(tmp_path, monkeypatch):
    root = fake_adb(tmp_path, monkeypatch)
    (tmp_path / "kit").mkdir()
    device = open_device("adb://X1")
    with copied(device, tmp_path / "kit"):
        pass
    lines = (root / "adb.log").read_text().splitlines()
    assert len(lines) == 3  # create, push, remove
    assert all(line.startswith("['-s', 'X1', ") for line in lines)
    assert device.login == "adb -s X1 shell"
